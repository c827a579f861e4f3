"""EnKG: an ensemble of particles stands in for derivatives; operator and prior are only evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step, run
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.sample.flow import flow
from medrecon.sample.multistep import multistep
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw

Update = Callable[[Tensor, Tensor, float, Draw], Tensor]
"""(particles (draws, *batch, particle, n), residuals (draws, *batch, particle, m), share, draw) -> moved particles.

Real components; n and m flattened. `draw` makes noise for (draws, *batch, ...)."""

Outcome = Callable[[Tensor], Tensor]
"""(particle, draws, *batch, *image) -> (draws, *batch, *image)."""


def mean(particles: Tensor) -> Tensor:
    """The ensemble's mean."""
    return particles.mean(0)


def member(particles: Tensor) -> Tensor:
    """One particle: a draw."""
    return particles[0]


def kalman(particles: Tensor, residuals: Tensor, share: float, draw: Draw) -> Tensor:
    """u - Cov(u, Y) (Cov(Y, Y) + 1/share)^-1 (Y - y + n / sqrt(share)), the data's noise being 1.

    `share` of the data's information is used: as often as 1 / share it makes exact draws of a Gaussian ensemble without
    limit (Emerick and Reynolds 2013, doi:10.1016/j.cageo.2012.03.011). In the space of the particles (Woodbury), so that
    the number of data does not matter.
    """
    count = particles.shape[-2]
    spread = (count - 1) ** 0.5
    images, data = ((t - t.mean(-2, keepdim=True)) / spread for t in (particles, residuals))
    disturbed = residuals + share**-0.5 * draw(residuals)
    gram = data @ data.mT + torch.eye(count, dtype=data.dtype, device=data.device) / share
    return particles - torch.linalg.solve(gram, data @ disturbed.mT).mT @ images


def released(particles: Tensor, residuals: Tensor, share: float, draw: Draw) -> Tensor:
    """u_j - share / |c|_F sum_k c_jk (u_k - mean u), c_jk = <Y_j - y, Y_k - mean Y> / J, as the authors' code does.

    The step has a length of its own whatever the noise, so the ensemble collapses onto the data.
    """
    c = residuals @ (residuals - residuals.mean(-2, keepdim=True)).mT / particles.shape[-2]
    size = torch.linalg.matrix_norm(c, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny)
    return particles - share / size * c @ (particles - particles.mean(-2, keepdim=True))


@torch.no_grad()
def enkg(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    update: Update = kalman,
    outcome: Outcome = mean,
    ensemble: int = 256,
    updates: int = 1,
    weight: float | None = None,
    skip: float = 0.1,
    rollout: int = 20,
    every: int = 4,
) -> Iterator[Step]:
    """Particles u carried along the prior's flow and moved, at every level, by how their clean images explain the data.

    Every draw and batch item has its own `ensemble` of particles; what comes back is `outcome` of them: their mean (a point
    estimate) or one particle (a draw). Each of `updates` updates a level, without the first and last share `skip` of the
    levels, compares y with A(clean), clean the end of the flow from u in at most `rollout` steps, one more for every `every`
    levels that remain: the update is scaled by the ensemble's spread, which is that of the end and not of D(u).
    Only A is evaluated, no gradient and no adjoint: any likelihood. `weight` None divides the data's information evenly
    among all updates; a number is the share of each.
    With `kalman` the draws are exact for Gaussian priors, linear A, many levels and an ensemble without limit; with J
    particles the moves stay within the span of J - 1 images, so far more unknowns than particles leave the data unexplained
    and the spread too small. For images raise `ensemble`, or take a method with gradients.
    Zheng et al. 2024, arXiv:2409.20175, algorithm 1, with the Kalman gain in place of the released normalisation (`released`).
    """
    if ensemble < 2 or updates < 1 or not 0 <= skip < 0.5 or rollout < 1 or every < 1 or (weight is not None and not weight > 0):
        raise BadInput(
            f"ensemble = {ensemble}, updates = {updates}, skip = {skip}, rollout = {rollout}, every = {every}, weight = {weight}: "
            "expected at least 2 particles, 1 update, 0 <= skip < 0.5, rollout and every of at least 1, a positive weight"
        )
    levels = len(sigmas) - 1
    guided = range(int(skip * levels), max(int(skip * levels) + 1, levels - int(skip * levels)))
    share = 1 / (len(guided) * updates) if weight is None else weight
    lead = x.ndim - len(likelihood.domain)
    particles = sigmas[0] * draw(x.unsqueeze(lead).expand(*x.shape[:lead], ensemble, *x.shape[lead:])).movedim(lead, 0)
    for level, (sigma, lower) in enumerate(pairwise(sigmas)):
        if level in guided:
            steps = min(rollout, 1 + (levels - level) // every)
            ends = edm_levels(steps, float(sigma), min(float(sigma), float(sigmas[-2])))
            for _ in range(updates):
                clean = run(multistep(prior, particles, ends, draw)).x
                particles = _moved(update, particles, likelihood.residual(clean), lead, share, draw)
        particles = flow(prior, particles, sigma, lower)
        yield Step(outcome(particles), lower)


def _moved(update: Update, particles: Tensor, residuals: Tensor, lead: int, share: float, draw: Draw) -> Tensor:
    """`update` on real components, the particles' axis brought behind the batch."""
    flat, data = (_real(t.movedim(0, lead)).flatten(lead + 1) for t in (particles, residuals))
    moved = update(flat, data, share, draw)
    if particles.is_complex():
        moved = torch.view_as_complex(moved.unflatten(-1, (-1, 2)))
    return moved.reshape(particles.movedim(0, lead).shape).movedim(lead, 0)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
