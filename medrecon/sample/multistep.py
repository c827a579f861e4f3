"""Multistep samplers: one evaluation a level, deterministic, for few steps. They remember, so time travel makes them forget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw

Past = list[tuple[float, Tensor]]
"""(sigma, noise) of the last levels, the latest first."""


def multistep(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw) -> Iterator[Step]:
    """DPM-Solver++ (2M) in ln sigma (Lu et al. 2022, arXiv:2211.01095, algorithm 2), with the corrected image as data
    prediction; first order in the first step, and in the last one, where ln sigma has no end.
    """
    before: Tensor | None = None
    width_before = 1.0
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x, before = bridge(x, sigma, lower, draw), None
            yield Step(x, lower)
            continue
        estimate = prior.estimate(x, sigma, lower, draw)
        clean = mixed = estimate.clean
        if not lower > 0:
            yield Step(clean, lower)
            return
        width = float((sigma / lower).log())
        if before is not None:
            ratio = width_before / width
            mixed = (1 + 0.5 / ratio) * clean - 0.5 / ratio * before
        x = (lower / sigma) * (clean + sigma * estimate.noise) + (1 - lower / sigma) * mixed
        before, width_before = clean, width
        yield Step(x, lower)


def adams_bashforth(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, order: int = 3, logarithmic: bool = True) -> Iterator[Step]:
    """x' = x + integral of the noise over sigma, extrapolated by a polynomial through the last `order` levels (1 to 4).

    The polynomial is in ln sigma, or in sigma if not `logarithmic`: DEIS (Zhang and Chen 2023, arXiv:2204.13902, eq. 15)
    in noise levels of any spacing. It starts at first order and grows; the last step, to 0, returns the estimate. Order
    1 is the probability flow by Euler's method. With the exact conditional mean its draws are the posterior's as the
    steps grow. On levels that fall by a factor at a time ln sigma is far better: error .024 instead of .065 with 20.
    """
    if not 1 <= order <= 4:
        raise BadInput(f"order = {order}: expected 1 to 4")
    past: Past = []
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x, past = bridge(x, sigma, lower, draw), []
        else:
            estimate = prior.estimate(x, sigma, lower, draw)
            past = [(float(sigma), estimate.noise), *past[: order - 1]]
            x = estimate.clean
            if lower > 0:
                x = x + sigma * estimate.noise + extrapolated(past, float(lower), logarithmic=logarithmic)
        yield Step(x, lower)


def extrapolated(past: Past, lower: float, *, logarithmic: bool = True) -> Tensor:
    """Integral of the noise from past[0]'s level to `lower`, by the polynomial through all of `past` in ln sigma (or sigma)."""
    levels = [sigma for sigma, _ in past]
    weights = _weights(levels, lower, torch.log if logarithmic else torch.clone)
    total = weights[0] * past[0][1]
    for weight, (_, noise) in zip(weights[1:], past[1:], strict=True):
        total = total + weight * noise
    return total


def _weights(levels: Sequence[float], lower: float, variable: Callable[[Tensor], Tensor]) -> list[float]:
    """Integrals over sigma, levels[0] to `lower`, of the Lagrange polynomials in `variable`(sigma)."""
    points, shares = map(torch.from_numpy, leggauss(16))
    half = (lower - levels[0]) / 2
    at = variable(levels[0] + half * (points + 1))
    nodes = variable(torch.tensor(levels, dtype=torch.float64))
    weights = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        weights.append(float((half * shares * ((at[:, None] - others) / (node - others)).prod(-1)).sum()))
    return weights
