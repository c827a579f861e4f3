"""Proximal data consistency: the clean image weighs the data against the prior's own error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import Draw

Variance = Callable[[Prior, Likelihood, Tensor, Tensor], Tensor]
"""(prior, likelihood, denoised, sigma) -> r^2, 0-dim or (*batch, 1, ..., 1): how far the denoised image may be off."""


def error_curve(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    """r^2: the prior's mean squared error at this level, as measured on its own kind of images."""
    return prior.error(sigma)


def noise_level(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    """r^2 = sigma^2, which weighs the data less; the mean of many draws then comes closest to the posterior's."""
    return sigma**2


def seen_error(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    """r^2: the prior's error curve, or what the data show of the error where that is more, at most sigma^2.

    For an error of r^2 per component E |A D - y|^2 = n_data + r^2 E |A z|^2 with unit noise z, so every image tells its
    own r^2. A network is worse on a scan than on its training images (other contrast, phase, imperfect coil maps); with
    the curve alone it would overrule the data: on a real 8-coil brain chi^2 of the draws falls from 1.9 to 1.2.
    """
    curve = prior.error(sigma)
    if not isinstance(likelihood, Gaussian):
        return curve
    excess = likelihood.chi2(mean) - 1
    seen = (excess * likelihood.n_data).reshape(*excess.shape, *[1] * len(likelihood.domain)) / likelihood.power
    return torch.maximum(curve.to(seen), torch.minimum(seen, torch.as_tensor(sigma).to(seen) ** 2))


class Proximal(Consistency):
    """clean = argmin |A x - y|^2 / 2 + |x - D(noisy)|^2 / (2 r^2) by conjugate gradients, noise from the corrected image.

    Chung et al. 2024 (DDS, arXiv:2303.05754) with r^2 from the prior instead of a constant; with r = sigma this is the
    data step of DiffPIR (arXiv:2305.08995).
    """

    item_levels = True

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, variance: Variance = error_curve, cg_steps: int = 10, cg_tolerance: float = 1e-3
    ) -> None:
        super().__init__(prior, likelihood)
        self.variance, self.cg_steps, self.cg_tolerance = variance, cg_steps, cg_tolerance

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        r2 = self.variance(self.prior, self.likelihood, mean, sigma)
        clean = self.likelihood.prox(mean, 1 / r2, steps=self.cg_steps, tolerance=self.cg_tolerance)
        return Estimate(clean, (noisy - clean) / sigma)


class Perturbed(Proximal):
    """A draw instead of the minimiser: data and mean are perturbed by their own noise, then solved (perturb and solve).

    The result is an exact draw from the Gaussian N(D, r^2) times the likelihood (Papandreou and Yuille 2010), so with
    fresh noise at every level (`renoise`, eta 1) the samples have the posterior's spread. The last level returns a draw
    too: without it the spread at the lowest noise level would be missing.
    """

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        gaussian = linear(self.likelihood, "perturb and solve")
        mean = self.prior.denoise(noisy, sigma)
        r2 = self.variance(self.prior, self.likelihood, mean, sigma)
        disturbed = gaussian.perturbed(draw, mean)
        clean = disturbed.prox(mean + r2.sqrt() * draw(mean), 1 / r2, steps=self.cg_steps, tolerance=self.cg_tolerance)
        return Estimate(clean, (noisy - clean) / sigma)
