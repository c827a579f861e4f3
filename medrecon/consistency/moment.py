"""Data steps with the prior's own covariance, sigma^2 times the Jacobian of the denoiser: guidance and moment matching."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.proximal import Variance, error_curve
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.jacobian import differentiated
from medrecon.solvers.krylov import inner
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.projected import projected, square_root
from medrecon.solvers.prox import damped
from medrecon.tensors import Draw, ratio

Covariance = Callable[[Tensor], Tensor]
"""v -> V v for images, V = Cov[x | noisy] = sigma^2 J (second-order Tweedie)."""


REACH = 3.0
"""Standard deviations of the prior's images that a step may go."""


def unit_error(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    """r^2 = sigma^2 / (1 + sigma^2): the error of a white prior of unit variance, as published."""
    return sigma**2 / (1 + sigma**2)


class PseudoinverseGuided(Consistency):
    """clean = D + sigma^2 J^H A^H (r^2 A A^H + 1)^-1 (y - A D): the Jacobian outside, the prior's error r^2 inside.

    Song et al. 2023 (PiGDM, openreview 9_gsMA8MRKQ), with the noise from the corrected image. As published: `prior_noise` takes
    it from D, which applies the whole correction at every level and over-fits the data, and `damped_outside` has r^2 in place
    of sigma^2, the paper's adaptive weight. The system is solved
    for images, A^H (r^2 A A^H + 1)^-1 = (r^2 A^H A + 1)^-1 A^H, in closed form where A has a spectrum. Other likelihoods are
    linearised at D. A biased sampler, unless the prior is white: then it is the proximal step.

    Along directions where sigma^2 J is much more than r^2 (the low frequencies of images) the published step overshoots, and
    in few levels it diverges. `bounded` goes along it just to the minimum of |A x - y|^2 + (x - D)^H V^-1 (x - D): the same
    step where V = r^2.
    """

    item_levels = True

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        variance: Variance = error_curve,
        prior_noise: bool = False,
        damped_outside: bool = False,
        bounded: bool = True,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(prior, likelihood)
        self.variance, self.prior_noise, self.damped_outside, self.bounded = variance, prior_noise, damped_outside, bounded
        self.cg_steps, self.cg_tolerance, self.checkpoint = cg_steps, cg_tolerance, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        local = self.likelihood.linearised(mean)
        rho = 1 / self.variance(self.prior, self.likelihood, mean, sigma)
        downhill = -local.gradient(mean)
        pull = rho * damped(local, downhill, rho, steps=self.cg_steps, tolerance=self.cg_tolerance)
        move = (1 / rho if self.damped_outside else sigma**2) * transposed(pull)
        if self.bounded:
            move = _length(local, downhill, pull, move) * move
        clean = mean + move
        return Estimate(clean, (noisy - (mean if self.prior_noise else clean)) / sigma)


def _length(likelihood: Gaussian, downhill: Tensor, pull: Tensor, move: Tensor) -> Tensor:
    """argmin over t >= 0 of |A (D + t move) - y|^2 + t^2 move^H V^-1 move, where move = V pull."""
    axes = len(likelihood.domain)
    curvature = inner(move, likelihood.normal(move), axes) + inner(pull, move, axes)
    return ratio(inner(downhill, move, axes), curvature).clamp_min(0)


class MomentMatched(Consistency):
    """clean = D + V A^H (A V A^H + 1)^-1 (y - A D), V = sigma^2 J: the conditional mean if x given the noisy image is Gaussian.

    Boys et al. 2023 (TMPD, arXiv:2310.06721) without its diagonal approximation, as in Rozet et al. 2024
    (arXiv:2405.13712): `krylov_steps` conjugate gradients over data, one backward pass through the prior each. A network's
    Jacobian is not symmetric, on which they diverge: here its symmetric, positive part counts (see `projected`). Other
    likelihoods are linearised at D. With `ancestral` a sampler, exact for Gaussian priors as the levels grow.
    """

    item_levels = True

    def __init__(self, prior: Prior, likelihood: Likelihood, *, krylov_steps: int = 10, checkpoint: bool = False) -> None:
        super().__init__(prior, likelihood)
        if krylov_steps < 1:
            raise BadInput(f"krylov_steps = {krylov_steps}: expected at least 1")
        self.krylov_steps, self.checkpoint = krylov_steps, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, covariance = self.moments(noisy, sigma)
        local = self.likelihood.linearised(mean)
        clean = self.conditioned(mean, covariance, local)
        return Estimate(clean, (noisy - clean) / sigma)

    def moments(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Covariance]:
        """Mean and covariance of the clean image given the noisy one."""
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        return mean, lambda v: sigma**2 * transposed(v)

    def conditioned(self, image: Tensor, covariance: Covariance, likelihood: Gaussian) -> Tensor:
        """The image moved to where data and covariance want it."""
        A = likelihood.A
        weights = projected(
            lambda v: 1 / (1 + v),
            lambda v: A(covariance(A.H(v))),
            -likelihood.residual(image),
            len(A.range),
            steps=self.krylov_steps,
        )
        pull = A.H(weights)
        move = covariance(pull)
        return image + self.within(_length(likelihood, -likelihood.gradient(image), pull, move) * move)

    def within(self, move: Tensor) -> Tensor:
        """The move, no longer than `REACH` allows: what a network's V says in directions that it never saw has no bound."""
        axes = len(self.likelihood.domain)
        parts = 2 if move.is_complex() else 1
        most = REACH * self.data_std * (parts * math.prod(move.shape[-axes:])) ** 0.5
        size = inner(move, move, axes).sqrt()
        return move * torch.where(size > most, most / size, 1)


class MomentMatchedDraw(MomentMatched):
    """A draw from N(D, V) times the likelihood instead of its mean: D + V^(1/2) z and y + n, then the same step.

    With `renoise` (eta 1) a sampler: exact for Gaussian priors at any number of levels. V^(1/2) z takes `root_steps` more
    backward passes through the prior (see `square_root`).
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        root_steps: int = 10,
        krylov_steps: int = 10,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(prior, likelihood, krylov_steps=krylov_steps, checkpoint=checkpoint)
        self.root_steps = root_steps

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, covariance = self.moments(noisy, sigma)
        disturbed = self.likelihood.linearised(mean).perturbed(draw, mean)
        drawn = mean + square_root(covariance, draw(mean), len(self.likelihood.domain), steps=self.root_steps)
        clean = self.conditioned(drawn, covariance, disturbed)
        return Estimate(clean, (noisy - clean) / sigma)
