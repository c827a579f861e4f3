"""Proximal data consistency: the clean image weighs the data against the prior's own error."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.errors import NotSupported
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import Draw

Variance = Callable[[Prior, Tensor], Tensor]


def error_curve(prior: Prior, sigma: Tensor) -> Tensor:
    """r^2: the prior's mean squared error at this level."""
    return prior.error(sigma)


def noise_level(prior: Prior, sigma: Tensor) -> Tensor:
    """r^2 = sigma^2, which weighs the data less; the mean of many draws then comes closest to the posterior's."""
    return sigma**2


class Proximal(Consistency):
    """clean = argmin |A x - y|^2 / 2 + |x - D(noisy)|^2 / (2 r^2) by conjugate gradients, noise from the corrected image.

    Chung et al. 2024 (DDS, arXiv:2303.05754) with r^2 from the prior instead of a constant; with r = sigma this is the
    data step of DiffPIR (arXiv:2305.08995).
    """

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, variance: Variance = error_curve, cg_steps: int = 10, cg_tolerance: float = 1e-3
    ) -> None:
        super().__init__(prior, likelihood)
        self.variance, self.cg_steps, self.cg_tolerance = variance, cg_steps, cg_tolerance

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        clean = self.likelihood.prox(mean, 1 / self.variance(self.prior, sigma), steps=self.cg_steps, tolerance=self.cg_tolerance)
        return Estimate(clean, (noisy - clean) / sigma)


class Perturbed(Proximal):
    """A draw instead of the minimiser: data and mean are perturbed by their own noise, then solved (perturb and solve).

    The result is an exact draw from the Gaussian N(D, r^2) times the likelihood (Papandreou and Yuille 2010), so with
    fresh noise at every level (`renoise`, eta 1) the samples have the posterior's spread. The last level returns a draw
    too: without it the spread at the lowest noise level would be missing.
    """

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        if not isinstance(self.likelihood, Gaussian):
            raise NotSupported(f"perturb and solve needs a Gaussian likelihood, got {type(self.likelihood).__name__}")
        mean = self.prior.denoise(noisy, sigma)
        r2 = self.variance(self.prior, sigma)
        disturbed = self.likelihood.perturbed(draw, mean)
        clean = disturbed.prox(mean + r2.sqrt() * draw(mean), 1 / r2, steps=self.cg_steps, tolerance=self.cg_tolerance)
        return Estimate(clean, (noisy - clean) / sigma)
