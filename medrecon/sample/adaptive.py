"""Error-controlled steps: every image goes down the noise levels as fast as its own local error permits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import Step
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.sample.demands import memoryless, undrawn
from medrecon.tensors import Draw, like_batch, norm2, ratio, real_dtype

SAFETY = 0.9
"""Factor and exponent of the step control, as published."""
FIRST = 0.01
"""Length of the first step, as a share of the whole way in ln sigma."""
GROWTH = (0.2, 5.0)
"""A step is at least and at most so many times the one before."""
LONGEST = 1.0
"""The longest step in ln sigma: over a longer one both estimates may agree by chance, in images of few pixels."""


def adaptive(
    prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, absolute: float | None = None, relative: float = 0.01
) -> Iterator[Step]:
    """Stochastic Heun steps with a length of its own for each image; only the ends of `sigmas` and their number count.

    "Gotta go fast" (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, algorithm 1): first- and second-order states with
    the same noise differ by E; the step is taken if E, relative to max(absolute, relative |x|), has a mean square of at
    most 1. `absolute` is half the lowest level by default, a quarter of the data's noise seen in the image. A step makes
    two evaluations; there are at most len(sigmas) - 1 evaluations in all, so a step is taken whatever its error where
    the rest would not reach the lowest level otherwise. `measure` is the highest level left.

    Unlike the paper it integrates q = x / sigma^2 over p = 1 / sigma^2, dq = D dp + dB (exact for constant D), and a refused
    step keeps its Brownian path (Rackauckas and Nie 2017, doi:10.3934/dcdsb.2017133), so refusing does not bias the noise.
    A sampler: with the exact conditional mean its draws are the posterior's as the tolerances go to 0.
    """
    memoryless(prior, "adaptive")
    if not prior.item_levels:
        raise NotSupported(
            f"sampler adaptive gives every image its own noise level, {type(prior).__name__} takes one for all: use multistep or heun"
        )
    axes, low = prior.image_axes, float(sigmas[-2])
    tolerance = low / 2 if absolute is None else absolute
    level = torch.full(x.shape[: x.ndim - axes], math.log(float(sigmas[0])), dtype=real_dtype(x.dtype), device=x.device)
    log = like_batch(level, axes)
    end, zero = torch.full_like(log, math.log(low)), torch.zeros_like(log)
    length = FIRST * (log - end)
    path, certain = _Path(), undrawn(prior, "adaptive")
    estimate: Estimate | None = None
    for tries in range((len(sigmas) - 2) // 2, 0, -1):
        left = log - end
        shortest = left / tries
        step = torch.minimum(torch.maximum(length, shortest), left)
        lower_log = torch.where(step >= left, end, log - step)
        sigma, lower = log.exp(), lower_log.exp()
        if estimate is None:
            estimate = prior.estimate(x, sigma, lower, certain)
        gained = torch.expm1(2 * (log - lower_log)) / sigma**2  # of 1 / sigma^2
        shift, rest = path.ahead(gained, draw(x))
        kept = (lower / sigma) ** 2
        first = estimate.clean + (kept * sigma) * estimate.noise + lower**2 * shift
        difference = (1 - kept) / 2 * (prior.estimate(first, lower, lower, certain).clean - estimate.clean)
        error = _relative(difference, first.abs(), tolerance, relative, axes)
        taken = (error <= 1) | (step <= shortest * (1 + 1e-6))
        path.keep(torch.where(taken, zero, gained), shift, rest)
        x = torch.where(taken & (left > 0), first + difference, x)
        log = torch.where(taken, lower_log, log)
        length = (step * (SAFETY * error.clamp_min(1e-6) ** -SAFETY).clamp(*GROWTH)).clamp(max=LONGEST)
        if bool(taken.any()):
            estimate = None
        yield Step(x, log.max().exp())
        if bool((log <= end).all()):
            break
    yield Step(prior.estimate(x, log.exp(), zero, certain).clean, sigmas[-1])


def _relative(error: Tensor, size: Tensor, absolute: float, relative: float, axes: int) -> Tensor:
    """Root mean square of the error in units of the tolerance, per real component; (*lead, 1, ..., 1)."""
    parts = 2 if error.is_complex() else 1
    allowed = (relative * size / parts**0.5).clamp_min(absolute)
    return (norm2(error / allowed, axes) / (parts * math.prod(error.shape[-axes:]))).sqrt()


class _Path:
    """A Brownian path for each image, known piecewise ahead of the present where a step was refused."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Tensor, Tensor]] = []  # (length, increment), the nearest first; length 0: none

    def ahead(self, length: Tensor, noise: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The increment over the next `length`, and the pieces known beyond it.

        Where the end falls into a known piece, `noise` makes a Brownian bridge; beyond all pieces it is a fresh increment.
        """
        total, rest = torch.zeros_like(noise), []
        for known, increment in self.pieces:
            part = torch.minimum(length, known)
            share = ratio(part, known)
            passed = share * increment + (part * (1 - share)).sqrt() * noise
            rest.append((known - part, increment - passed))
            total, length = total + passed, length - part
        return total + length.sqrt() * noise, rest

    def keep(self, refused: Tensor, increment: Tensor, rest: list[tuple[Tensor, Tensor]]) -> None:
        """Moves on; `refused`: length of the increment where the step was not taken, else 0."""
        front = (refused, torch.where(refused > 0, increment, torch.zeros_like(increment)))
        self.pieces = [piece for piece in (front, *rest) if bool((piece[0] > 0).any())]
