"""The probability flow of a prior alone: du/dsigma = (u - D(u, sigma)) / sigma."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from medrecon.prior.denoiser import Prior


def flow(prior: Prior, u: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """One step from `sigma` to `lower` by Heun's method, two evaluations; to 0 it is Euler's, D itself (one)."""
    slope = (u - prior.denoise(u, sigma)) / sigma
    there = u + (lower - sigma) * slope
    if not lower > 0:
        return there
    return u + (lower - sigma) / 2 * (slope + (there - prior.denoise(there, lower)) / lower)


def source(prior: Prior, clean: Tensor, sigmas: Tensor) -> Tensor:
    """The noisy image at sigmas[0] whose flow along `sigmas` (falling, then 0) ends near `clean`: the flow backwards."""
    u = clean
    for lower, sigma in pairwise(sigmas[:-1].flip(0)):
        u = flow(prior, u, lower, sigma)
    return u
