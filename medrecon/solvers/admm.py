"""Alternating directions: exact in the penalty, exact or by conjugate gradients in the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import Step, run
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import Shifted, cg, inner, shifted
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.regularisers import Regulariser


@torch.no_grad()
def admm(
    likelihood: Likelihood,
    regulariser: Regulariser,
    x: Tensor,
    *,
    weight: Tensor | float,
    rho: Tensor | float,
    inner_steps: int = 4,
    tolerance: float = 0.0,
) -> Iterator[Step]:
    """min likelihood.value(x) + weight g(K x) by splitting z = K x, from x (*batch, *image).

    A unitary K (wavelets) needs nothing but `likelihood.prox`, so any likelihood that has one and, where the operator
    has a spectrum, an exact data step. Any other K (differences) needs a Gaussian likelihood: `inner_steps` conjugate
    gradients on A^H A + rho K^H K from the last x. `rho` sets the speed and not the result; 0.1 |A|^2 is a good start.
    `measure`: the larger of |x - x before| / |x| and |K x - z| / |K x| of every item; the iteration ends when all are at
    most `tolerance`.
    Boyd et al. 2011, section 3.1.1.
    """
    axes = len(likelihood.domain)
    operator = regulariser.operator
    solve = _data_step(likelihood, regulariser, rho, inner_steps)
    z = operator(x)
    dual = torch.zeros_like(z)
    while True:
        new = solve(z - dual, x)
        image = operator(new)
        z = regulariser.shrink(image + dual, weight / rho)
        gap, move = image - z, new - x
        dual, x = dual + gap, new
        change = torch.maximum(_size(move, axes) / _size(x, axes), _size(gap, len(operator.range)) / _size(image, len(operator.range)))
        yield Step(x, change)
        if tolerance > 0 and bool((change <= tolerance).all()):
            return


class Split:
    """One iteration of `admm` a call, for min |A x - y|^2 / 2 + weight g(K x) + pull/2 |x - centre|^2.

    The split variable z = K x and its dual stay between the calls (zero at first), so pull and centre may change from
    one to the next, level by level of a sampler: one iteration each is then enough.
    """

    def __init__(self, likelihood: Gaussian, regulariser: Regulariser, *, weight: Tensor | float, rho: Tensor | float) -> None:
        self.likelihood, self.regulariser, self.weight, self.rho = likelihood, regulariser, weight, rho
        self.augmented = Augmented(likelihood.normal, regulariser.operator.normal, rho)
        self.z: Tensor | None = None
        self.dual: Tensor | None = None

    def reweigh(self, weight: Tensor | float, rho: Tensor | float) -> None:
        """Others from now on; the unscaled dual rho * dual, which pulls at x, stays."""
        if self.dual is not None:
            self.dual = self.dual * (self.rho / rho)
        self.weight, self.rho = weight, rho
        self.augmented = Augmented(self.likelihood.normal, self.regulariser.operator.normal, rho)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, pull: Tensor | float = 0.0, centre: Tensor | float = 0.0, *, steps: int, tolerance: float = 0.0
    ) -> Tensor:
        """The next x by at most `steps` conjugate gradients from x, (*batch, *image)."""
        operator = self.regulariser.operator
        if self.z is None or self.dual is None:
            self.z = self.dual = torch.zeros_like(operator(x))
        b = self.likelihood.back + self.augmented.number(x) * operator.H(self.z - self.dual) + pull * centre
        x = run(cg(shifted(self.augmented, pull), b, x, tolerance=tolerance), limit=steps).x
        image = operator(x)
        self.z = self.regulariser.shrink(image + self.dual, self.weight / self.rho)
        self.dual = self.dual + image - self.z
        return x


def _size(x: Tensor, axes: int) -> Tensor:
    """|x| of every item, (*batch,), not below the smallest number."""
    size = inner(x, x, axes).sqrt()
    return size.reshape(size.shape[: size.ndim - axes]).clamp_min(torch.finfo(size.dtype).tiny)


def _data_step(likelihood: Likelihood, regulariser: Regulariser, rho: Tensor | float, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(target, start) -> argmin over x of value(x) + rho/2 |K x - target|^2."""
    operator = regulariser.operator
    if regulariser.unitary:
        return lambda target, start: likelihood.prox(operator.H(target), rho, steps=steps, tolerance=0.0)
    if not isinstance(likelihood, Gaussian):
        raise NotSupported(f"admm with {type(regulariser).__name__} needs a Gaussian likelihood, not {type(likelihood).__name__}: use pdhg")
    normal, back = Augmented(likelihood.normal, operator.normal, rho), likelihood.back
    return lambda target, start: run(cg(normal, back + rho * operator.H(target), start), limit=steps).x


class Augmented(Shifted):
    """N + rho M for self-adjoint N and M."""

    def __init__(self, normal: LinearOperator, other: LinearOperator, rho: float | Tensor) -> None:
        super().__init__(normal, rho)
        self.other = other

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(x) + self.number(x) * self.other._forward(x)
