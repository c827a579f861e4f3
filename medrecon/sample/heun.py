"""Heun's method: two evaluations a level, deterministic, second order without a memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.sample.demands import memoryless
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw


def heun(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw) -> Iterator[Step]:
    """x' = x + (sigma' - sigma) (noise + noise') / 2, noise' seen after Euler's step (Karras et al. 2022,
    arXiv:2206.00364, algorithm 1); the last step, to 0, is Euler's: it returns the estimate.
    """
    memoryless(prior, "heun")
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x = bridge(x, sigma, lower, draw)
        else:
            first = prior.estimate(x, sigma, lower, draw)
            x = first.clean + lower * first.noise
            if lower > 0:
                second = prior.estimate(x, lower, lower, draw)
                x = first.clean + sigma * first.noise + (lower - sigma) * (first.noise + second.noise) / 2
        yield Step(x, lower)
