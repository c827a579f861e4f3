"""Volumes from a prior of slices: total variation along z by ADMM, whose variables stay along the trajectory."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.consistency.proximal import Variance, noise_level
from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.difference import Cosine, Difference
from medrecon.linop.lowrank import Subspace
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.admm import Split
from medrecon.solvers.krylov import cg
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norms
from medrecon.solvers.regularisers import L1
from medrecon.tensors import Draw, generator_for, norm2, ratio, trailing, unit_noise

SURVEY = 30
"""Conjugate gradients for the image from which the size of differences is read."""

LEAST = 0.1
"""Less signal than this share of the differences is not told from noise: the power of N of them is known to sqrt(2 / N)."""


def survey(likelihood: Gaussian, data_std: float) -> tuple[Tensor, Tensor]:
    """What the data alone say of the images of a series or volume, and of their own noise: (*batch, *domain) each.

    Least squares under a white Gaussian prior of `data_std`, in two steps: with a quarter of the cosines along the first
    axis, which neighbours sampled in different places determine together, then what these leave of the data. The second
    image comes from data of pure noise: a linear estimate, so it is a fair draw of the noise in the first.
    """
    domain, A = likelihood.domain, likelihood.A
    cosines = Cosine(domain, -len(domain)).matrix[: max(1, domain[0] // 4)].mT.to(likelihood.back)
    coarse = Subspace(cosines, domain[1:])

    def images(y: Tensor) -> Tensor:
        shared = coarse(_least_squares(A @ coarse, y, data_std))
        return shared + _least_squares(A, y - A(shared), data_std)

    probe = unit_noise(A.range, likelihood.y.dtype, generator_for(0, "survey"))
    return images(likelihood.y), images(probe.to(likelihood.y.device))


def laplace_scale(likelihood: Gaussian, difference: Difference, data_std: float) -> Tensor:
    """b, (*batch, 1, ..., 1): the scale of Laplace-distributed differences D x, mean |D x|, half of it for complex images.

    A prior of single images does not know it, so it is read from the `survey`, less the share of noise.
    """
    n, axes = difference.domain[difference.axis], len(difference.domain)
    seen, noise = (difference(image) for image in survey(likelihood, data_std))
    signal = 1 - ratio(norm2(noise, axes), norm2(seen, axes))
    mean = seen.abs().mean(trailing(axes), keepdim=True) * n / max(1, n - 1) / (2 if seen.is_complex() else 1)
    scale = mean * signal.clamp(min=LEAST**2).sqrt()
    # Where nothing varies (one slice, no data) any scale gives the same image.
    return torch.where(scale > 0, scale, torch.full_like(scale, data_std))


def _least_squares(A: LinearOperator, y: Tensor, data_std: float) -> Tensor:
    """argmin |A x - y|^2 / 2 + |x|^2 / (2 data_std^2)."""
    problem = Gaussian(A, y)
    return problem.prox(torch.zeros_like(problem.back), data_std**-2, steps=SURVEY)


class Smoothed(Consistency):
    """Total variation along the first image axis for a prior of images with one axis less: what its subclasses share.

    Whitened objective |A x - y|^2 / 2 + strength |D_z x|_1 / b_z, D_z the differences between neighbouring slices over
    their distance `dz`, without the periodic one of the released code. `z_scale` is b_z, None: `laplace_scale` of each
    volume. `weight` of |D_z x|_1 and `rho` of ADMM replace the weight 1 / b_z and rho = weight / b_z, both in units of |A|^2
    as published ones are; the automatic rho is at most |A|^2, beyond which few conjugate gradients do not solve its system.
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
        strength: float = 1.0,
        z_scale: float | None = None,
        weight: float | None = None,
        rho: float | None = None,
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
        if strength < 0 or any(v is not None and not v > 0 for v in (z_scale, weight, rho)):
            raise BadInput(f"strength = {strength}, z_scale = {z_scale}, weight = {weight}, rho = {rho}: expected positive numbers")
        self.image_axes = len(domain)
        self.dz = dz
        self.strength, self.z_scale, self.weight, self.rho = strength, z_scale, weight, rho
        self.admm_steps, self.cg_steps, self.cg_tolerance = admm_steps, cg_steps, cg_tolerance

    @cached_property
    def variation(self) -> LinearOperator:
        """D_z."""
        return Difference(self.likelihood.domain, -self.image_axes, self.dz)

    @cached_property
    def scale_found(self) -> Tensor:
        """b_z as the data show it."""
        difference = Difference(self.likelihood.domain, -self.image_axes, self.dz)
        return laplace_scale(linear(self.likelihood, "total variation along z"), difference, self.prior.data_std)

    @cached_property
    def _split(self) -> Split:
        """d and w, with weight and rho of each volume."""
        gaussian = linear(self.likelihood, "total variation along z")
        scale: Tensor | float = self.z_scale or self.scale_found
        curvature = norms(gaussian.A, like=gaussian.back) ** 2
        weight = self.strength * (self.weight * curvature if self.weight else 1 / scale)
        rho = self.rho * curvature if self.rho else curvature.clamp(max=weight / scale)
        return Split(gaussian, L1(self.variation), weight=weight, rho=rho)

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
    """clean = argmin |A x - y|^2 / 2 + |x - D(noisy)|^2 / (2 r^2) + |D_z x|_1 / b_z, noise from the corrected volume.

    The step of `Proximal` with total variation along z: DDS for volumes (Chung et al. 2024, arXiv:2303.05754) with the
    pull to D that keeps slices plausible where the data say nothing. A biased sampler: an estimate that carries noise.
    """

    variance: Variance = staticmethod(noise_level)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.denoise(noisy, sigma)
        clean = self.smooth(mean, 1 / self.variance(self.prior, self.likelihood, mean, sigma), mean)
        return Estimate(clean, (noisy - clean) / sigma)


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
