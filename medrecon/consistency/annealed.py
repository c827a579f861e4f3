"""Annealed Langevin dynamics: the posterior's score at the noisy image itself."""

from __future__ import annotations

from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.gain import Gain
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import Draw


class AnnealedLikelihood(Consistency):
    """noise = -sigma score, score = (D - noisy) / sigma^2 + A^H (y - A noisy) / (1 + sigma^2 |A|^2); clean = noisy - sigma noise.

    Jalal et al. 2021 (arXiv:2108.01368), equation 6, its gamma = sigma |A|: the data count as much noisier as the image is.
    Use with `annealed_langevin`. Unlike the released code the data term keeps its own length instead of that of the prior's,
    and every image is by itself. Any likelihood. A sampler as levels and inner steps grow, slow where the data see weakly.
    """

    item_levels = True

    def __init__(self, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__(prior, likelihood)
        self.gain = Gain(likelihood)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        towards = -self.likelihood.gradient(noisy) / (1 + (sigma * self.gain(noisy)) ** 2)
        noise = (noisy - mean) / sigma - sigma * towards
        return Estimate(noisy - sigma * noise, noise)

    def stiffness(self, sigma: Tensor) -> Tensor | float:
        """Bound of the curvature of -log density times sigma^2, for step lengths: 1 for the prior, below 1 more for the data."""
        if not isinstance(self.likelihood, Gaussian):
            return 2.0
        seen = (sigma * self.gain(self.likelihood.back)) ** 2
        return 1 + seen / (1 + seen)
