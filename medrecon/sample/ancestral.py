"""First-order samplers: how much of the estimated noise is replaced by fresh noise at each level."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.tensors import Draw


def ancestral(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, churn: float = 1.0) -> Iterator[Step]:
    """Keeps the marginal distributions for every `churn` as the steps grow: 0 is the probability flow (DDIM), 1 DDPM.

    eta = churn sqrt(1 - sigma'^2 / sigma^2) (Song et al. 2021, arXiv:2010.02502, eq. 16).
    """
    for sigma, lower in pairwise(sigmas):
        estimate = prior.estimate(x, sigma, lower, draw)
        eta = churn * float((1 - (lower / sigma) ** 2).clamp_min(0).sqrt())
        x = _mixed(estimate, lower, eta, draw)
        yield Step(x, lower)


def renoise(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, eta: float = 1.0) -> Iterator[Step]:
    """The same share `eta` of fresh noise at every level.

    With a consistency that returns draws and eta 1 this is decoupled annealing (Zhang et al. 2024, arXiv:2407.01521),
    exact for exact draws. With one that returns means the spread shrinks, by sqrt((1 + sqrt(1 - eta^2)) / 2).
    """
    if not 0 <= eta <= 1:
        raise BadInput(f"eta = {eta}: expected 0 to 1, the share of fresh noise")
    for sigma, lower in pairwise(sigmas):
        x = _mixed(prior.estimate(x, sigma, lower, draw), lower, eta, draw)
        yield Step(x, lower)


def _mixed(estimate: Estimate, lower: Tensor, eta: float, draw: Draw) -> Tensor:
    if not lower > 0:
        return estimate.clean
    kept = float(max(0.0, 1 - eta * eta)) ** 0.5
    x = estimate.clean + (lower * kept) * estimate.noise if kept > 0 else estimate.clean
    return x + (lower * eta) * draw(x) if eta > 0 else x
