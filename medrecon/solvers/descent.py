"""What any likelihood offers through its gradient alone: a proximal step and its largest curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.iterate import run
from medrecon.solvers.lbfgs import lbfgs
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norms
from medrecon.tensors import generator_for, norm2, ratio, unit_noise

NEARBY = 1e-2
"""Length of the difference quotients of `curvature`, in units of `scale`."""


@torch.no_grad()
def proximal(likelihood: Likelihood, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
    """argmin over x of value(x) + rho/2 |x - v|^2, (*batch, *domain) like v; rho > 0, a number or (*batch, 1, ..., 1).

    The likelihood's own proximal step where it has one, else `steps` of L-BFGS from v: for a nonlinear operator that is
    a minimum near v, lower than v itself.
    """
    if type(likelihood).prox is not Likelihood.prox:
        return likelihood.prox(v, rho, steps=steps, tolerance=tolerance)
    axes = len(likelihood.domain)
    weight = rho.to(v.real) if isinstance(rho, Tensor) and rho.ndim else rho

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        away = x - v
        return likelihood.value(x) + weight / 2 * norm2(away, axes), likelihood.gradient(x) + weight * away

    return run(lbfgs(objective, v, axes), limit=steps).x if steps > 0 else v


@torch.no_grad()
def curvature(likelihood: Likelihood, x: Tensor, scale: float, *, steps: int = 20, margin: float = 1.0) -> Tensor:
    """The largest curvature of `likelihood.value` times `margin`, (*batch, 1, ..., 1): |A|^2 for a linear A.

    Other likelihoods: power iteration on differences of the gradient at x (*batch, *domain), taken over about `scale`,
    the size of an image's pixels. From below and usually within some per cent: margin 1.05 or more for step lengths.
    """
    if isinstance(likelihood, Gaussian):
        return norms(likelihood.A, steps, like=likelihood.back) ** 2 * margin
    axes = len(likelihood.domain)
    v = unit_noise(likelihood.domain, x.dtype, generator_for(0, "curvature")).to(x.device).expand_as(x)
    length = NEARBY * scale * norm2(v, axes).sqrt()
    size = norm2(v, axes).sqrt()
    for _ in range(steps):
        move = ratio(length, size) * v
        v = (likelihood.gradient(x + move) - likelihood.gradient(x - move)) / (2 * length)
        size = norm2(v, axes).sqrt()
    return size * margin
