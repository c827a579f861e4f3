"""Manifold constrained gradient: the prior's Jacobian carries what the data say into what the operator does not see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.consistency.projection import NullSpace, Rule, added, handed_over
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.jacobian import differentiated
from medrecon.solvers.krylov import inner
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw, ratio

Length = Callable[[Prior, Tensor, Tensor, Tensor], Tensor]
"""(prior, m = A^+ (y - A D), J^H m, sigma) -> what J^H m is multiplied with, 0-dim or (*batch, 1, ..., 1)."""


def conditional(prior: Prior, missing: Tensor, pulled: Tensor, sigma: Tensor) -> Tensor:
    """sigma^2 / r^2: the conditional mean D + sigma^2 J^H m / r^2 for exact data and a denoising error r^2.

    At most |m|^2 / Re<m, J^H m>, which takes what is seen just to the data: where J is far from r^2 / sigma^2 the step would
    overshoot, and a network's diverges.
    """
    axes = prior.image_axes
    along = inner(missing, pulled, axes)
    needed = ratio(inner(missing, missing, axes), along.clamp_min(0))
    return torch.minimum((sigma**2 / prior.error(sigma)).to(needed), needed)


def unit_length(prior: Prior, missing: Tensor, pulled: Tensor, sigma: Tensor) -> Tensor:
    """1 / |A^+ (y - A D)|: the gradient of the norm instead of half its square, as in the released code."""
    size = inner(missing, missing, prior.image_axes).sqrt()
    return ratio(size.new_ones(()).expand_as(size), size)


class Manifold(NullSpace):
    """`NullSpace` and, in what the operator does not see, the gradient of the data's misfit with respect to the noisy image:
    clean = D + m + g, m = A^+ (y - A D), g = weight length (1 - A^+ A) J^H m; for the sampler `euler`.

    MCG, Chung et al. 2022 (arXiv:2206.00941), algorithm 1. The released code has weight 0.1 and `unit_length`;
    `conditional` needs no such constant. The noise is (noisy - D - g) / sigma, so that g moves the state by its share of the
    step; `whole` adds all of g at every level, as published, and pulls too much (spread 0.87 instead of 0.96 of the
    posterior's where nothing is measured, at 100 levels). The data's own noise is treated as in `NullSpace`, where the paper
    repeats it. A sampler for a prior of one error in all directions, close to one for others. Should a run diverge, lower
    `weight`. `checkpoint` bounds the memory of the gradient.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        rule: Rule = handed_over,
        length: Length = conditional,
        weight: float = 1.0,
        whole: bool = False,
        eta: float | None = None,
        cg_steps: int = 30,
        cg_tolerance: float = 1e-4,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(prior, likelihood, rule=rule, eta=eta, cg_steps=cg_steps, cg_tolerance=cg_tolerance)
        if not weight >= 0:
            raise BadInput(f"weight = {weight}: expected 0 or a positive number")
        self.length, self.weight, self.whole, self.checkpoint = length, weight, whole, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        eta = self.fresh_share(sigma, lower)
        mix = self.rule(sigma, lower, eta)
        missing = self.inverse.towards(mean, mix.share)
        pulled = transposed(missing)
        gradient = self.weight * self.length(self.prior, missing, pulled, sigma) * pulled
        unseen = gradient - self.inverse.seen(gradient, mix.share)
        noise = (noisy - mean - (0 if self.whole else 1) * unseen) / sigma
        return Estimate(mean + missing + unseen, added(self.inverse, mix, eta, noise, lower, draw))
