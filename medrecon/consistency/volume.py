"""Volumes from a prior of slices: total variation along z by ADMM, whose variables stay along the trajectory."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.consistency.proximal import Variance, noise_level
from medrecon.consistency.survey import difference_power, laplace_scale, survey
from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.difference import Difference
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.admm import Split
from medrecon.solvers.krylov import cg
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.norm import norms
from medrecon.solvers.regularisers import L1
from medrecon.tensors import Draw, norm2, ratio

SHARES = (1e-3, 3.0)
"""Least and most strength where it is found on the way."""

AIM = 1.4
"""Power of the differences on the way over that of the true ones: a trained prior takes as much of their texture on its last levels.
Chosen on CT of two patients with the prior `ct`, 8 views and 90 degrees, where 0.89 to 0.95 of the root mean square remain."""


class Smoothed(Consistency):
    """Total variation along the first image axis for a prior of images with one axis less: what its subclasses share.

    Whitened objective |A x - y|^2 / 2 + strength |D_z x|_1 / b_z, D_z the differences between neighbouring slices over
    their distance `dz`, without the periodic one of the released code. `z_scale` is b_z, None: `laplace_scale` of each
    volume. `weight` of |D_z x|_1 and `rho` of ADMM replace the weight 1 / b_z and rho = weight / b_z, both in units of |A|^2
    as published ones are; the automatic rho is at most |A|^2, beyond which few conjugate gradients do not solve its system.
    `strength` None is 1 unless the subclass finds its own, for which `aim` is.
    `admm_steps` iterations of `cg_steps` conjugate gradients a level; the split variable and its dual stay from level to
    level. Total variation counts information of the prior twice: an estimate, never a draw from the posterior.
    """

    remembers = True

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        dz: float = 1.0,
        strength: float | None = None,
        z_scale: float | None = None,
        weight: float | None = None,
        rho: float | None = None,
        aim: float = AIM,
        admm_steps: int = 3,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
    ) -> None:
        super().__init__(prior, likelihood)
        domain = likelihood.domain
        if len(domain) != prior.image_axes + 1:
            raise BadInput(
                f"volumes {domain} have one axis more than the images of the prior, which have {prior.image_axes}: expected z first"
            )
        if (strength is not None and strength < 0) or any(v is not None and not v > 0 for v in (z_scale, weight, rho, aim)):
            raise BadInput(
                f"strength = {strength}, z_scale = {z_scale}, weight = {weight}, rho = {rho}, aim = {aim}: expected positive numbers"
            )
        self.image_axes = len(domain)
        self.dz = dz
        self.balanced = strength is None and weight is None
        self.strength = 1.0 if strength is None else strength
        self.z_scale, self.weight, self.rho, self.aim = z_scale, weight, rho, aim
        self.admm_steps, self.cg_steps, self.cg_tolerance = admm_steps, cg_steps, cg_tolerance

    @cached_property
    def variation(self) -> LinearOperator:
        """D_z."""
        return Difference(self.likelihood.domain, -self.image_axes, self.dz)

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        """What the data alone say: the `survey`."""
        return survey(linear(self.likelihood, "total variation along z"), self.prior.data_std)

    @cached_property
    def scale_found(self) -> Tensor:
        """b_z as the data show it."""
        return laplace_scale(self.seen, self.variation, self.prior.data_std)

    @property
    def difference_scale(self) -> Tensor | float:
        """b_z."""
        return self.z_scale or self.scale_found

    @cached_property
    def curvature(self) -> Tensor:
        """|A|^2."""
        gaussian = linear(self.likelihood, "total variation along z")
        return norms(gaussian.A, like=gaussian.back) ** 2

    def _penalty(self, weight: Tensor | float) -> Tensor:
        """rho of a weight."""
        return self.rho * self.curvature if self.rho else self.curvature.clamp(max=weight / self.difference_scale)

    @cached_property
    def _split(self) -> Split:
        """d and w, with weight and rho of each volume."""
        gaussian = linear(self.likelihood, "total variation along z")
        weight = self.strength * (self.weight * self.curvature if self.weight else 1 / self.difference_scale)
        return Split(gaussian, L1(self.variation), weight=weight, rho=self._penalty(weight))

    def smooth(self, x: Tensor, pull: Tensor | float = 0.0, centre: Tensor | float = 0.0) -> Tensor:
        """Towards argmin |A x - y|^2 / 2 + weight |D_z x|_1 + pull/2 |x - centre|^2, from x."""
        if self.strength == 0:
            gaussian = linear(self.likelihood, "total variation along z")
            if isinstance(pull, Tensor) or pull > 0:
                return gaussian.prox(x, pull, steps=self.cg_steps, tolerance=self.cg_tolerance)
            return run(cg(gaussian.normal, gaussian.back, x, tolerance=self.cg_tolerance), limit=self.cg_steps).x
        for _ in range(self.admm_steps):
            x = self._split(x, pull, centre, steps=self.cg_steps, tolerance=self.cg_tolerance)
        return x


class ProximalVolume(Smoothed):
    """clean = argmin |A x - y|^2 / 2 + |x - D(noisy)|^2 / (2 r^2) + strength |D_z x|_1 / b_z, noise from the corrected volume.

    The step of `Proximal` with total variation along z: DDS for volumes (Chung et al. 2024, arXiv:2303.05754) with the
    pull to D that keeps slices plausible where the data say nothing. A biased sampler: an estimate that carries noise.

    `strength` None: the prior of slices knows much of what total variation says, and what is counted twice makes slices too
    much alike (differences half as large as they are, from 8 projections); without it they flicker. So it is the multiplier
    of a constraint, found on the way, from 0.001 to 3: each level's is that of the last times the root mean square of its
    differences over that of the true ones (`difference_power`) times the root of `aim`, more than 1 since a trained prior takes
    the rest away on its last levels. Below sigma = b_z dz, where the pull to D is firm but D still mixes in what is drawn for
    each slice alone, about sigma, the weight grows with 1 / sigma. A given `weight` stays.
    """

    variance: Variance = staticmethod(noise_level)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.denoise(noisy, sigma)
        clean = self.smooth(mean, 1 / self.variance(self.prior, self.likelihood, mean, sigma), mean)
        if self.balanced and lower > 0:
            self._balance(clean, lower)
        return Estimate(clean, (noisy - clean) / sigma)

    def _balance(self, clean: Tensor, lower: Tensor) -> None:
        """The weight for the level `lower`."""
        power = norm2(self.variation(clean), self.image_axes)
        # Where nothing varies (one slice), or nothing is seen to, the weight stays.
        excess = torch.where((power > 0) & (self.power_found > 0), ratio(power, self.aim * self.power_found).sqrt(), 1.0)
        self.share = (self.share * excess).clamp(*SHARES)
        weight = self.share / torch.minimum(torch.as_tensor(self.difference_scale).to(power), lower.to(power) / self.dz)
        self._split.reweigh(weight, self._penalty(weight))

    @cached_property
    def share(self) -> Tensor:
        """The strength of each volume so far."""
        return torch.ones_like(self.power_found)

    @cached_property
    def power_found(self) -> Tensor:
        """|D_z x|^2 as the data show it."""
        return difference_power(linear(self.likelihood, "total variation along z"), self.variation, self.prior.data_std, self.seen)


class DecomposedVolume(Smoothed):
    """clean = `cg_steps` conjugate gradients from D towards argmin |A x - y|^2 / 2 + weight |D_z x|_1; noise = (noisy - D) / sigma.

    DDS for volumes as released: nothing but the early stop holds the volume near D, and the noise is the prior's. A point
    estimate. Where it diverges, raise `rho` or take fewer `cg_steps`.
    """

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.denoise(noisy, sigma)
        return Estimate(self.smooth(mean), (noisy - mean) / sigma)


class MergedVolume(Smoothed):
    """The noisy volume itself is brought to the data and smoothed along z, then denoised: clean = D(merged).

    noise = (merged - clean) / sigma, so clean + sigma noise is the merged state, which a predictor-corrector sampler
    goes on from. DiffusionMBIR (Chung et al. 2023, arXiv:2211.10655), algorithm 1. As there is no pull to the state, directions
    that the data know lose their noise: a point estimate, its spread is not the posterior's.
    """

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        merged = self.smooth(noisy)
        clean = self.denoise(merged, sigma)
        return Estimate(clean, (merged - clean) / sigma)
