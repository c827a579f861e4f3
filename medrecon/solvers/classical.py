"""Reconstructions without a learnt prior, as iterations (likelihood, x, **settings) -> steps.

All minimise likelihood.value(x) + weight R(x), where the likelihood is whitened: |A x - y|^2 / 2 with noise of unit variance
per real component. So a weight has a meaning of its own: see `automatic_weight`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import Step
from medrecon.solvers.admm import admm
from medrecon.solvers.fista import fista
from medrecon.solvers.krylov import cg, inner, shifted
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norm, norms
from medrecon.solvers.pdhg import pdhg
from medrecon.solvers.regularisers import TotalVariation, WaveletL1
from medrecon.tensors import ratio

WAVELET_FACTOR = 0.5
"""Best weight of |W x|_1 in units of |A|; how it was found stands at `automatic_weight`."""

VARIATION_FACTOR = 0.8
"""Best weight of total variation in units of |A|."""

UNEVEN, UNEVEN_FACTOR, UNEVEN_RHO = 50.0, 0.4, 0.05
"""For `total_variation` of tomography: from where on, its weight, and ADMM's rho in units of the mean diagonal of A^H A."""

BALANCE = 0.1
"""Dual over primal step length of `total_variation`: the fastest of 0.02 to 0.3 per gradient on the BART golden scan."""

MARGIN = 1.03
"""The power iteration comes from below."""


def zero_filled(likelihood: Likelihood, x: Tensor) -> Iterator[Step]:
    """A^H y, times the number that fits the data best (1 / |A|^2 for a masked Fourier transform); one step.

    `x` gives the leading axes only. `measure`: |A x - y| / |y| of every item.
    """
    gaussian = as_gaussian(likelihood, "zero_filled")
    axes = len(gaussian.domain)
    back = gaussian.back.expand(torch.broadcast_shapes(gaussian.back.shape, x.shape))
    image = ratio(inner(back, back, axes), inner(back, gaussian.normal(back), axes)) * back
    yield Step(image, _misfit(gaussian, image))


def least_squares(
    likelihood: Likelihood, x: Tensor, *, weight: Tensor | float = 0.0, damping: float = 0.0, tolerance: float = 1e-6
) -> Iterator[Step]:
    """min |A x - y|^2 / 2 + (weight + damping |A|^2)/2 |x|^2 by conjugate gradients from x: SENSE, and its kin elsewhere.

    With weight 0 the number of steps is the regularisation. `measure`: relative residual of the normal equations.
    Pruessmann et al. 2001.
    """
    gaussian = as_gaussian(likelihood, "least_squares")
    if damping:
        weight = weight + damping * norms(gaussian.A, 15, like=x) ** 2
    return cg(shifted(gaussian.normal, weight), gaussian.back, x, tolerance=tolerance)


def wavelet_l1(
    likelihood: Likelihood,
    x: Tensor,
    *,
    weight: Tensor | float | None = None,
    strength: float = 1.0,
    wavelet: str = "db2",
    levels: int = 4,
    tolerance: float = 1e-4,
) -> Iterator[Step]:
    """min |A x - y|^2 / 2 + weight |W x|_1 by FISTA from x; W an orthonormal wavelet transform over the image's axes.

    `weight` None: `strength` times the `automatic_weight` with WAVELET_FACTOR. Lustig, Donoho and Pauly 2007.
    """
    gaussian = as_gaussian(likelihood, "wavelet_l1")
    largest = norms(gaussian.A, 15, margin=MARGIN, like=x)
    weight = strength * automatic_weight(largest, WAVELET_FACTOR) if weight is None else weight
    penalty = WaveletL1(gaussian.domain, wavelet, levels)
    return fista(gaussian, penalty, x, weight=weight, step=1 / largest**2, tolerance=tolerance)


def total_variation(
    likelihood: Likelihood, x: Tensor, *, weight: Tensor | float | None = None, strength: float = 1.0, tolerance: float = 1e-4
) -> Iterator[Step]:
    """min |A x - y|^2 / 2 + weight TV(x), isotropic and periodic, by a primal-dual iteration from x.

    `weight` None: `strength` times the `automatic_weight` with VARIATION_FACTOR. On the BART golden scan the primal-dual steps were as
    accurate as ADMM at the same number of A^H A, and cheaper. Block, Uecker and Frahm 2007; Condat 2013.

    Where A is far stronger for a few images than for most (tomography: |A|^2 is UNEVEN times the mean of A^H A's diagonal and more),
    steps of 1 / |A|^2 do not arrive, and ADMM takes their place, with UNEVEN_FACTOR times the root of that mean as weight:
    the noise of one pixel of the gradient.
    """
    gaussian = as_gaussian(likelihood, "total_variation")
    largest = norms(gaussian.A, 15, margin=MARGIN, like=x)
    mean = gaussian.power / (math.prod(gaussian.domain) * (2 if x.is_complex() else 1))
    if bool((largest**2 > UNEVEN * mean).all()):
        weight = strength * UNEVEN_FACTOR * mean.sqrt() if weight is None else weight
        return admm(gaussian, TotalVariation(gaussian.domain), x, weight=weight, rho=UNEVEN_RHO * mean, inner_steps=5, tolerance=tolerance)
    weight = strength * automatic_weight(largest, VARIATION_FACTOR) if weight is None else weight
    penalty = TotalVariation(gaussian.domain)
    bound = norm(penalty.operator, margin=MARGIN, like=x)
    return pdhg(gaussian, penalty, x, weight=weight, lipschitz=largest**2, operator_norm=bound, balance=BALANCE, tolerance=tolerance)


def automatic_weight(largest: Tensor, factor: float) -> Tensor:
    """factor |A|, the weight for images whose noise level is known: (*batch, 1, ..., 1) like `norms` without MARGIN.

    Why |A|: the likelihood is whitened, so A^H y carries noise of about |A| per real component in well-sampled
    directions, and a penalty must exceed the noise of the gradient to act. It also makes the result independent of the
    image's unit. How the factors were found: 8-coil k-space simulated from 256 x 256 brain slices of four subjects,
    random lines at x4 and x8 (8 % and 4 % centre), signal-to-noise 30 dB (one also 20 and 40), 80 to 100 steps, weights on a grid of
    powers of 2 against the PSNR of the magnitude. The best weights in units of |A| spread over 0.1 to 1 for wavelets and
    0.5 to 1.5 (40 dB, x8: 3) for total variation; 0.5 and 0.8 lose at most 0.3 dB of the best weight at 20 and 30 dB
    and at most 0.5 dB at 40 dB; with other masks, phases and one more subject at 30 dB the loss was again at most 0.3 dB.
    Rejected: a share of max |A^H y| (its best value moved by a factor of 50 for wavelets and 7 for total variation over
    these cases) and the discrepancy principle, chi^2 = 1 (wavelets up to 0.6 dB below the best).
    """
    return factor / MARGIN * largest


def as_gaussian(likelihood: Likelihood, method: str) -> Gaussian:
    """The likelihood, if it is Gaussian with a linear operator; else `NotSupported` in the name of `method`."""
    if not isinstance(likelihood, Gaussian):
        raise NotSupported(f"{method} needs a Gaussian likelihood, not {type(likelihood).__name__}: choose a gradient method")
    return likelihood


def _misfit(likelihood: Gaussian, x: Tensor) -> Tensor:
    axes = len(likelihood.A.range)
    residual, y = likelihood.residual(x), likelihood.y
    size = inner(residual, residual, axes)
    return ratio(size, inner(y, y, axes).expand_as(size)).sqrt().reshape(size.shape[: size.ndim - axes])
