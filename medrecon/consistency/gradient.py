"""Diffusion posterior sampling: the gradient of the data term, taken through the denoiser."""

from __future__ import annotations

from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.gain import Gain
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.jacobian import differentiated
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw, dot, like_batch, ratio


class PosteriorGradient(Consistency):
    """clean = D + kappa sigma^2 J^H b, b = -(gradient of the data term at D) = A^H r, r = y - A D; noise from `clean`.

    Chung et al. 2023 (DPS, arXiv:2209.14687) in score form, which is kappa = 1: it forgets that D is uncertain itself, and
    diverges unless there are about |A|^2 levels. Here kappa = |r|^2 / (|r|^2 + b^H sigma^2 J^H b), each image its own, which
    makes the step the first conjugate gradient of moment matching (`MomentMatched`), stable at any number of levels, 1 at
    the end. `weight` multiplies kappa, up to 1 in all. Any likelihood. A biased sampler: directions that the data see
    weakly get too little of them.
    """

    item_levels = True

    def __init__(self, prior: Prior, likelihood: Likelihood, *, weight: float = 1.0, checkpoint: bool = False) -> None:
        super().__init__(prior, likelihood)
        if not weight > 0:
            raise BadInput(f"weight = {weight}: expected a positive number")
        self.weight, self.checkpoint = weight, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        back = -self.likelihood.gradient(mean)
        towards = sigma**2 * transposed(back)
        misfit = squared_residual(self.likelihood, mean)
        curvature = dot(back, towards, len(self.likelihood.domain)).clamp_min(0)
        clean = mean + (self.weight * ratio(misfit, misfit + curvature)).clamp(max=1) * towards
        return Estimate(clean, (noisy - clean) / sigma)


class NormalisedGradient(Consistency):
    """clean = D + zeta J^H A^H r / (|r| |A| a a'), a = 1 / sqrt(1 + sigma^2); noise from D itself.

    The released form of DPS: after each ancestral step zeta times the gradient of the norm |y - A D| (not of its square) is
    subtracted, so its length does not depend on the fit. `zeta` is in the prior's units (0.3 to 1 for images in [-1, 1]).
    Unlike the released code every image has its own norm, and data are taken in units where |A| = 1. A biased sampler:
    zeta trades over-fitting against wandering, no value of it is calibrated.
    """

    item_levels = True

    def __init__(self, prior: Prior, likelihood: Likelihood, *, zeta: float = 1.0, checkpoint: bool = False) -> None:
        super().__init__(prior, likelihood)
        if not zeta > 0:
            raise BadInput(f"zeta = {zeta}: expected a positive number")
        self.zeta, self.checkpoint, self.gain = zeta, checkpoint, Gain(likelihood)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        towards = transposed(-self.likelihood.gradient(mean))
        length = self.gain(mean) * squared_residual(self.likelihood, mean).sqrt()
        scale = self.zeta * ((1 + sigma**2) * (1 + lower**2)).sqrt()
        clean = mean + scale * ratio(towards, length.expand_as(towards.real))
        return Estimate(clean, (noisy - mean) / sigma)


def squared_residual(likelihood: Likelihood, image: Tensor) -> Tensor:
    """|y - A x|^2 in units of the noise, (*batch, 1, ..., 1)."""
    return like_batch(likelihood.chi2(image) * likelihood.n_data, len(likelihood.domain))
