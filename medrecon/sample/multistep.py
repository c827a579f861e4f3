"""Second-order multistep sampler: one evaluation a level, deterministic, for few steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.tensors import Draw


def multistep(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw) -> Iterator[Step]:
    """DPM-Solver++ (2M) in ln sigma (Lu et al. 2022, arXiv:2211.01095, algorithm 2), with the corrected image as data
    prediction; first order in the first step, and in the last one, where ln sigma has no end.
    """
    before: Tensor | None = None
    width_before = 1.0
    for sigma, lower in pairwise(sigmas):
        clean = prior.estimate(x, sigma, lower, draw).clean
        if not lower > 0:
            yield Step(clean, lower)
            return
        width = float((sigma / lower).log())
        mixed = clean
        if before is not None:
            ratio = width_before / width
            mixed = (1 + 0.5 / ratio) * clean - 0.5 / ratio * before
        x = (lower / sigma) * x + (1 - lower / sigma) * mixed
        before, width_before = clean, width
        yield Step(x, lower)
