"""D-Flow: optimises the noise from which the prior's flow makes an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.sample.flow import flow, source
from medrecon.sample.start import regularised
from medrecon.solvers.lbfgs import lbfgs
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw, norm2

Penalty = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(z, number of image axes) -> value (*batch, 1, ..., 1) and gradient."""


def normal(z: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """|z|^2 / 2: z is standard normal, so the optimum is the mode of the posterior of z."""
    return norm2(z, axes) / 2, z


def shell(z: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """-(n - 1) ln |z| + |z|^2 / 2 for n real components: the density of the length of z, whatever its direction."""
    n = math.prod(z.shape[z.ndim - axes :]) * (2 if z.is_complex() else 1)
    square = norm2(z, axes).clamp_min(torch.finfo(z.real.dtype).tiny)
    return square / 2 - (n - 1) / 2 * square.log(), (1 - (n - 1) / square) * z


@torch.no_grad()
def dflow(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    penalty: Penalty = normal,
    flow_steps: int = 6,
    memory: int = 10,
    blend: float = 1.0,
    checkpoint: bool = True,
) -> Iterator[Step]:
    """Phi(z) for min over z of |A Phi(z) - y|^2 / 2 + penalty(z), a point estimate.

    Phi carries noise to an image along the prior's flow, `flow_steps` steps of Heun's method from the first level to the
    last and then to 0, starting at the mean image plus sqrt(sigma^2 + data_std^2) z. For a Gaussian prior Phi is affine and
    with |z|^2 / 2 the optimum is the posterior mean, but for the error of the flow's few steps (second order).
    One step is one of L-BFGS (`memory` pairs, each item with its own line search): two evaluations of the prior for each step
    of the flow, forwards and backwards. Starts at sqrt(blend) times the source of a regularised least-squares image plus
    sqrt(1 - blend) noise: with blend below 1 every draw begins elsewhere, which shows several modes where there are any.
    `checkpoint`: keeps one step of the flow in memory instead of all, for a third more time. Any likelihood with a gradient.
    Ben-Hamu et al. 2024, arXiv:2402.14017, algorithm 1.
    """
    if not 0 <= blend <= 1 or flow_steps < 1:
        raise BadInput(f"blend = {blend}, flow_steps = {flow_steps}: expected 0 to 1, and at least one step")
    axes = len(likelihood.domain)
    levels = edm_levels(flow_steps, float(sigmas[0]), float(sigmas[-2]))
    mean, spread = prior.denoise(levels[0] * draw(x), levels[0]), float((levels[0] ** 2 + prior.data_std**2).sqrt())

    def image(z: Tensor) -> Tensor:
        u = mean + spread * z
        for sigma, lower in pairwise(levels):
            kept = checkpoint and torch.is_grad_enabled()
            u = recompute(flow, prior, u, sigma, lower, use_reentrant=False) if kept else flow(prior, u, sigma, lower)
        return u

    def objective(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            clean = image(leaf)
            data = likelihood.gradient(clean.detach())
            (pull,) = torch.autograd.grad(clean, leaf, data)
        value, gradient = penalty(z, axes)
        return likelihood.value(clean.detach()) + value, pull + gradient

    clean = regularised(prior, likelihood, x, levels[0], draw)
    z = math.sqrt(blend) * (source(prior, clean, levels) - mean) / spread
    if blend < 1:
        z = z + math.sqrt(1 - blend) * draw(x)
    for step in lbfgs(objective, z, axes, memory=memory):
        yield Step(image(step.x), step.measure)
