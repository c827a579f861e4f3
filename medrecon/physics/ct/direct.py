"""Analytic reconstruction as a method: the line integrals are taken out of a likelihood, filtered and backprojected."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import Step
from medrecon.linop.basic import Diagonal
from medrecon.linop.operator import Composed, LinearOperator, Scaled
from medrecon.physics.ct.analytic import analytic
from medrecon.physics.ct.project import CTOperator
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.poisson import Poisson, Transmission

FEWEST = 0.5
"""Quanta that a reading of none is taken for before the logarithm."""


def filtered_backprojection(likelihood: Likelihood, x: Tensor, *, window: str = "ramp", cutoff: float = 1.0) -> Iterator[Step]:
    """The filtered backprojection (FDK for cones, rebinning for helices) of the data; one step.

    `x` gives the leading axes only. `window`: ramp, shepp-logan, cosine, hann, hamming, ...; `cutoff`: of the window, in units of the
    Nyquist frequency. Weights of rays play no part. `measure`: chi^2 per datum. Raises `NotSupported` for other operators than CT's.
    """
    operator, factor, line_integrals = taken_out(likelihood)
    image = analytic(line_integrals, operator.geometry, operator.pixels, window=window, cutoff=cutoff) / factor
    image = image.expand(torch.broadcast_shapes(image.shape, x.shape))
    yield Step(image, likelihood.chi2(image))


def taken_out(likelihood: Likelihood) -> tuple[CTOperator, Tensor | float, Tensor]:
    """(operator in mm, attenuation of x = 1, line integrals (*batch, *projections)) of a likelihood that was made of CT data."""
    if isinstance(likelihood, Gaussian):
        operator, factor, root = _apart(likelihood.A)
        return operator, factor, likelihood.y if root is None else likelihood.y / root
    if isinstance(likelihood, Transmission):
        operator, factor, _ = _apart(likelihood.A)
        quanta = (likelihood.y - likelihood.background).clamp(min=FEWEST)
        return operator, factor, (likelihood.incident / quanta).log() - likelihood.offset
    if isinstance(likelihood, Poisson):
        operator, factor, _ = _apart(likelihood.A)
        return operator, factor, likelihood.y - likelihood.background
    raise NotSupported(f"filtered backprojection of a {type(likelihood).__name__} likelihood: choose an iterative method")


def _apart(A: LinearOperator) -> tuple[CTOperator, Tensor | float, Tensor | None]:
    """A = diag(root) factor operator."""
    if isinstance(A, CTOperator):
        return A, 1.0, None
    if isinstance(A, Scaled):
        operator, factor, root = _apart(A.operator)
        return operator, factor * A.factor, root
    if isinstance(A, Composed) and isinstance(A.left, Diagonal):
        operator, factor, root = _apart(A.right)
        return operator, factor, A.left.values if root is None else A.left.values * root
    raise NotSupported(f"filtered backprojection is for projections, not for {type(A).__name__}: choose an iterative method")


def quick(operator: CTOperator, line_integrals: Tensor) -> Tensor:
    """A rough image (*batch, *image), 1/mm: analytic where the geometry has a method, else the backprojection that fits best."""
    try:
        return analytic(line_integrals, operator.geometry, operator.pixels)
    except NotSupported:
        image = operator.H(line_integrals)
        seen = operator(image)
        return image * ((seen * line_integrals).sum() / seen.square().sum().clamp_min(1e-30))
