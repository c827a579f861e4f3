"""Pseudo numerical methods: Runge-Kutta steps until there is a past, then a linear multistep method."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.sample.demands import memoryless
from medrecon.sample.multistep import Past, extrapolated
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw


def pndm(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, order: int = 4) -> Iterator[Step]:
    """F-PNDM (`order` 4) or S-PNDM (2) of Liu et al. 2022 (arXiv:2202.09778, algorithm 2), deterministic.

    The first order - 1 steps cost `order` evaluations each (Runge-Kutta; Heun), all others one. The paper's weights
    (55, -59, 37, -9) / 24 and (3, -1) / 2 hold for even steps only; here they are those of the levels at hand, as in
    `adams_bashforth`. The last step, to 0, returns the estimate.
    """
    if order not in (2, 4):
        raise BadInput(f"order = {order}: expected 4 (F-PNDM) or 2 (S-PNDM)")
    memoryless(prior, "pndm")
    slope = _runge_kutta if order == 4 else _heun
    past: Past = []
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x, past = bridge(x, sigma, lower, draw), []
        else:
            first = prior.estimate(x, sigma, lower, draw)
            past = [(float(sigma), first.noise), *past[: order - 1]]
            x = first.clean
            if lower > 0:
                grown = len(past) == order
                change = extrapolated(past, float(lower)) if grown else (lower - sigma) * slope(prior, first, sigma, lower, draw)
                x = first.clean + sigma * first.noise + change
        yield Step(x, lower)


def _runge_kutta(prior: Prior, first: Estimate, sigma: Tensor, lower: Tensor, draw: Draw) -> Tensor:
    """Mean noise between the levels, by two looks at the middle and one at the end."""
    middle = (sigma + lower) / 2
    second = prior.estimate(first.clean + middle * first.noise, middle, lower, draw).noise
    state = first.clean + sigma * first.noise
    third = prior.estimate(state + (middle - sigma) * second, middle, lower, draw).noise
    fourth = prior.estimate(state + (lower - sigma) * third, lower, lower, draw).noise
    return (first.noise + 2 * second + 2 * third + fourth) / 6


def _heun(prior: Prior, first: Estimate, sigma: Tensor, lower: Tensor, draw: Draw) -> Tensor:
    """Mean noise between the levels, by one look at the end."""
    return (first.noise + prior.estimate(first.clean + lower * first.noise, lower, lower, draw).noise) / 2
