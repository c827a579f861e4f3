"""Steps that meet the data in the noisy image, before it is denoised."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.norm import norms
from medrecon.solvers.pseudoinverse import Pseudoinverse, pseudoinverse
from medrecon.tensors import Draw


class NoisyMerge(Consistency):
    """u = noisy + weight A^+ (y + sigma A z - A noisy), then clean = D(u), noise = (u - clean) / sigma.

    Song et al. 2022 (arXiv:2111.08005), algorithm 2, with weight 1 for exact data. Noisy data (`noise_aware`): y = A x + n
    brings noise rho = 1/s of its own, direction by direction, so z has sqrt(sigma^2 - rho^2) instead of sigma. Below sigma =
    rho nothing is merged, or one measurement would be taken for many; there the clean image moves r^2 / (r^2 + rho^2) of the
    way to the data, r^2 the prior's error. Published, the weight is tuned for each scanner and the image repeats the noise
    of the data. The image stays complex; the released code takes its real part. At the end the clean image takes what the
    data know beyond sigma, exact data wholly.

    A biased sampler: replacing what is measured misleads what is not, and the corrector of the sampler
    `predictor_corrector` removes most of that. Operators without a spectrum are not of the paper's form (invertible
    transform, then mask): A^+ then acts in a Krylov space of `cg_steps` dimensions.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        weight: float = 1.0,
        noise_aware: bool = True,
        cg_steps: int = 30,
        cg_tolerance: float = 1e-4,
    ) -> None:
        super().__init__(prior, likelihood)
        if not 0 <= weight <= 1:
            raise BadInput(f"weight = {weight}: expected 0 to 1, the share of the data where they are merged")
        self.weight, self.noise_aware, self.cg_steps, self.cg_tolerance = weight, noise_aware, cg_steps, cg_tolerance

    @cached_property
    def inverse(self) -> Pseudoinverse:
        return pseudoinverse(linear(self.likelihood, "the merge with noisy data"), steps=self.cg_steps, tolerance=self.cg_tolerance)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        state = self._merged(noisy, sigma, draw)
        mean = self.prior.denoise(state, sigma)
        clean = mean + self._weighed(mean, sigma)
        noise = (state - clean) / sigma
        return Estimate(clean, noise) if lower > 0 else Estimate(clean + self._rest(clean, sigma), noise)

    def _merged(self, image: Tensor, sigma: Tensor, draw: Draw) -> Tensor:
        def weight(rho: Tensor) -> Tensor:
            return self.weight * (self._noise(rho) <= sigma)

        def noise(rho: Tensor) -> Tensor:
            return weight(rho) * (sigma**2 - self._noise(rho) ** 2).clamp_min(0).sqrt()

        return image + self.inverse.towards(image, weight) + self.inverse.seen(draw(image), noise)

    def _weighed(self, mean: Tensor, sigma: Tensor) -> Tensor:
        """Below their own noise: the data's pull on the denoised image, whose error is r^2: r^2 / (r^2 + rho^2) of the way."""
        error = self.prior.error(sigma)

        def share(rho: Tensor) -> Tensor:
            own = self._noise(rho)
            return self.weight * (own > sigma) * error / (error + own**2)

        return self.inverse.towards(mean, share)

    def _rest(self, mean: Tensor, sigma: Tensor) -> Tensor:
        """At the end: what the data know beyond noise of sigma."""
        return self.inverse.towards(mean, lambda rho: self.weight * (1 - (self._noise(rho) / sigma) ** 2).clamp_min(0))

    def _noise(self, rho: Tensor) -> Tensor:
        return rho if self.noise_aware else torch.zeros_like(rho)


class NoisyProjection(Consistency):
    """u = noisy + lambda A^H (y - A noisy), then clean = D(u), noise = (u - clean) / sigma.

    Chung and Ye 2022 (Score-MRI, arXiv:2110.05243), algorithm 2. lambda = weight (sigma / sigma_0)^decay / |A|^2, sigma_0 the
    first noise level: with weight 1 it is the exact replacement for one coil; above 2 the iteration diverges. The hybrid
    variant lets lambda fall to a fifth, decay 0.15 over five decades.

    A biased sampler: exact data enter a noisy image, and noisy data are repeated by the last one. Complex images are denoised
    as such; the released code runs a magnitude prior on real and imaginary parts.
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, *, weight: float = 1.0, decay: float = 0.0) -> None:
        super().__init__(prior, likelihood)
        if not 0 < weight < 2 or not decay >= 0:
            raise BadInput(f"weight = {weight}, decay = {decay}: expected weight between 0 and 2, decay 0 or more")
        self.weight, self.decay = weight, decay
        self._highest = 0.0

    @cached_property
    def _step(self) -> Tensor:
        gaussian = linear(self.likelihood, "the projection of the noisy image")
        return self.weight / norms(gaussian.A, margin=1.02, like=gaussian.back) ** 2

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        self._highest = max(self._highest, float(sigma))
        size = self._step * (float(sigma) / self._highest) ** self.decay
        state = noisy - size * self.likelihood.gradient(noisy)
        clean = self.prior.denoise(state, sigma)
        return Estimate(clean, (state - clean) / sigma)
