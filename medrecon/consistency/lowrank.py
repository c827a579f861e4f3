"""Series of images (echoes, times, energies) as few coefficient maps: a prior of images on the maps, the axis from the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from medrecon.consistency.base import linear
from medrecon.consistency.survey import laplace_scale, survey
from medrecon.consistency.volume import ProximalVolume
from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.linop.basic import Diagonal
from medrecon.linop.difference import Difference
from medrecon.linop.lowrank import Subspace
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Prior
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import Draw

SIGNIFICANT = 4.0
"""A component counts whose power exceeds that of the noise by so many standard deviations of the latter."""


def principal(surveyed: tuple[Tensor, Tensor], rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The subspace of each series as the data show it: basis (*batch, t, r), orthonormal, and the root mean square of the
    coefficient maps per real component, (*batch, r), less that of the noise.

    Singular vectors of what is `surveyed`. `rank` None: all components that stand out of the noise, at least one; in a batch
    the largest of these ranks, and a size of 0 for what an item has not. The largest entry of each vector is positive, so
    the maps keep the phase of the images.
    """
    seen, noise = (image.flatten(-2) for image in surveyed)
    powers, vectors = torch.linalg.eigh(seen @ seen.mH)
    powers, vectors = powers.flip(-1).clamp_min(0), vectors.flip(-1)
    count = seen.shape[-1] * (2 if seen.is_complex() else 1)
    noise_powers = (vectors.mH @ noise).abs().square().sum(-1)
    least = SIGNIFICANT * math.sqrt(2 / count) * noise_powers
    signal = powers - noise_powers
    size = (torch.maximum(signal, least) / count).sqrt()
    if rank is None:
        found = (signal > least).long().cumprod(-1)
        found[..., 0] = 1
        size, rank = size * found, int(found.sum(-1).max())
    vectors = vectors[..., :rank]
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return vectors * (largest.abs() / largest), size[..., :rank]


class Coefficients(ProximalVolume):
    """The proximal step on coefficient maps c, (*batch, r, y, x): a series is `series(c)` = E diag(size) c.

    E is orthonormal, so a map of the first component is about sqrt(t) times a frame, and the others are far less. They are
    scaled one by one so that each has the `data_std` of the prior's images. Total variation acts along the axis of the series:
    |A E diag(size) c - y|^2 / 2 + |c - D|^2 / (2 r^2) + strength |D_t series(c)|_1 / b_t.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        rank: int | None = None,
        strength: float = 1.0,
        admm_steps: int = 3,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
    ) -> None:
        self.whole = linear(likelihood, "a low-rank series")
        t = likelihood.domain[0]
        if len(likelihood.domain) != 3 or (rank is not None and (rank != int(rank) or not 1 <= rank <= t)):
            raise BadInput(f"rank = {rank} for a series {likelihood.domain}: expected (t, y, x) and a whole number of 1 to {t} components")
        self.surveyed = survey(self.whole, prior.data_std)
        basis, size = principal(self.surveyed, None if rank is None else int(rank))
        scale = (size / prior.data_std)[..., None, None]
        subspace = Subspace(basis, likelihood.domain[1:])
        series = subspace @ Diagonal(scale, subspace.domain)
        super().__init__(
            prior,
            Gaussian(self.whole.A @ series, self.whole.y),
            strength=strength,
            admm_steps=admm_steps,
            cg_steps=cg_steps,
            cg_tolerance=cg_tolerance,
        )
        self.series, self.used = series, scale > 0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Maps that only other items of the batch have stay zero."""
        return self.used * self.prior.denoise(noisy, sigma)

    @cached_property
    def variation(self) -> LinearOperator:
        return Difference(self.series.range) @ self.series

    @cached_property
    def scale_found(self) -> Tensor:
        return laplace_scale(self.surveyed, Difference(self.series.range), self.prior.data_std)


def low_rank(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    rank: int | None = None,
    strength: float = 0.0,
    eta: float = 1.0,
    admm_steps: int = 3,
    cg_steps: int = 10,
    cg_tolerance: float = 1e-3,
) -> Iterator[Step]:
    """A series of low rank, (draws, *batch, t, y, x): coefficient maps are sampled level by level as `renoise` does.

    HIR-Diff (Pang et al. 2024, arXiv:2402.15865) with a proximal step instead of the gradient through the network, and
    weights from the noise instead of two constants. Its rotation of the basis, after which the maps are r of the frames, is
    left out: neighbouring echoes are nearly parallel, so the rotated basis is ill-conditioned and the maps are copies of
    each other, which a prior of single images counts r times. `strength` of the total variation along the axis is 0 by
    default: on top of the subspace it counts smoothness twice (decays at low signal lose 2 dB). A point estimate that
    carries noise. Should it diverge, raise `cg_steps` or lower `rank`.
    """
    if not 0 <= eta <= 1:
        raise BadInput(f"eta = {eta}: expected 0 to 1, the share of fresh noise")
    step = Coefficients(
        prior, likelihood, rank=rank, strength=strength, admm_steps=admm_steps, cg_steps=cg_steps, cg_tolerance=cg_tolerance
    )
    r = step.series.domain[0]

    def noise() -> Tensor:
        # Of a whole series, so that the draws do not depend on the rank that a neighbour in the batch asks for.
        return draw(x).narrow(-3, 0, r)

    maps = sigmas[0] * noise()
    for sigma, lower in pairwise(sigmas):
        estimate = step.estimate(maps, sigma, lower, draw)
        if lower > 0:
            maps = estimate.clean + lower * ((1 - eta**2) ** 0.5 * estimate.noise + eta * noise())
        yield Step(step.series(estimate.clean), lower)
