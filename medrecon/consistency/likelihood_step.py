"""Likelihood scores in closed form, without differentiating the prior: DMPS and noise-refined guidance."""

from __future__ import annotations

from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.consistency.proximal import Variance, error_curve
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.prox import damped
from medrecon.tensors import Draw


class NoisyLikelihood(Consistency):
    """clean = D + weight sigma^2 A^H (sigma^2 A A^H + 1)^-1 (y - A noisy); noise from `clean`.

    Meng and Kabashima 2022 (DMPS, arXiv:2211.12343): the likelihood of the noisy image for an uninformative prior, so valid
    only while sigma is far below the prior's standard deviation. Released weight 1.75, right by the formula is 1. Unlike the
    released code the gradient and the image it acts on are those of the same level. A biased sampler.
    """

    item_levels = True

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, weight: float = 1.0, cg_steps: int = 20, cg_tolerance: float = 1e-3
    ) -> None:
        super().__init__(prior, likelihood)
        if not weight > 0:
            raise BadInput(f"weight = {weight}: expected a positive number")
        self.weight, self.cg_steps, self.cg_tolerance = weight, cg_steps, cg_tolerance

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        gaussian = linear(self.likelihood, "the likelihood of the noisy image")
        mean = self.prior.denoise(noisy, sigma)
        # With r = sigma the score times sigma^2 is what a proximal step would move the noisy image by.
        moved = damped(gaussian, -gaussian.gradient(noisy), 1 / sigma**2, steps=self.cg_steps, tolerance=self.cg_tolerance)
        clean = mean + self.weight * moved
        return Estimate(clean, (noisy - clean) / sigma)


class RefinedNoise(Consistency):
    """noise = (noisy - D) / sigma - sigma g, clean = noisy - sigma noise, g = (r^2 / sigma^2) A^H (r^2 A A^H + 1)^-1 (y - A D).

    Noise-refined likelihood guidance, derived from its abstract (no code was found): the predicted noise is corrected by a
    likelihood score in closed form. With the prior's error r^2 it equals the proximal step. A biased sampler.
    """

    item_levels = True

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, variance: Variance = error_curve, cg_steps: int = 10, cg_tolerance: float = 1e-3
    ) -> None:
        super().__init__(prior, likelihood)
        self.variance, self.cg_steps, self.cg_tolerance = variance, cg_steps, cg_tolerance

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        gaussian = linear(self.likelihood, "noise-refined guidance")
        mean = self.prior.denoise(noisy, sigma)
        rho = 1 / self.variance(self.prior, self.likelihood, mean, sigma)
        score = damped(gaussian, -gaussian.gradient(mean), rho, steps=self.cg_steps, tolerance=self.cg_tolerance) / sigma**2
        noise = (noisy - mean) / sigma - sigma * score
        return Estimate(noisy - sigma * noise, noise)
