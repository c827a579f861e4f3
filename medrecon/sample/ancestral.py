"""First-order samplers: how much of the estimated noise is replaced by fresh noise at each level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw

Share = Callable[[float, float], float]
"""(sigma, lower) -> eta, the share of fresh noise in the next state: sqrt(1 - eta^2) is kept of the estimated one."""


def euler(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw) -> Iterator[Step]:
    """The probability flow by Euler's method: no fresh noise. For data steps that mix all of their noise themselves, too."""
    return _steps(prior, x, sigmas, draw, lambda sigma, lower: 0.0)


def ancestral(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, churn: float = 1.0) -> Iterator[Step]:
    """Keeps the marginal distributions for every `churn` as the steps grow: 0 is the probability flow (DDIM), 1 DDPM.

    eta = churn sqrt(1 - sigma'^2 / sigma^2) (Song et al. 2021, arXiv:2010.02502, eq. 16).
    """
    return _steps(prior, x, sigmas, draw, lambda sigma, lower: churn * max(0.0, 1 - (lower / sigma) ** 2) ** 0.5)


def renoise(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, eta: float = 1.0) -> Iterator[Step]:
    """The same share `eta` of fresh noise at every level.

    With a consistency that returns draws and eta 1 this is decoupled annealing (Zhang et al. 2024, arXiv:2407.01521),
    exact for exact draws. With one that returns means the spread shrinks, by sqrt((1 + sqrt(1 - eta^2)) / 2).
    """
    if not 0 <= eta <= 1:
        raise BadInput(f"eta = {eta}: expected 0 to 1, the share of fresh noise")
    return _steps(prior, x, sigmas, draw, lambda sigma, lower: eta)


def flow_noise(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw) -> Iterator[Step]:
    """The less noise is left, the more of it is fresh: eta = sqrt(1 - t'), t' = sigma' / (1 + sigma').

    Kim et al. 2025 (FlowDPS, arXiv:2503.08136, algorithm 1) in noise levels. Not marginal preserving: the spread shrinks.
    """
    return _steps(prior, x, sigmas, draw, lambda sigma, lower: (1 / (1 + lower)) ** 0.5)


def _steps(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, share: Share) -> Iterator[Step]:
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x = bridge(x, sigma, lower, draw)
        else:
            x = _mixed(prior.estimate(x, sigma, lower, draw), lower, share(float(sigma), float(lower)), draw)
        yield Step(x, lower)


def _mixed(estimate: Estimate, lower: Tensor, eta: float, draw: Draw) -> Tensor:
    if not lower > 0:
        return estimate.clean
    kept = max(0.0, 1 - eta * eta) ** 0.5
    x = estimate.clean + (lower * kept) * estimate.noise if kept > 0 else estimate.clean
    return x + (lower * eta) * draw(x) if eta > 0 else x
