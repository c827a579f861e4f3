"""Consistency: a prior that also knows the data, so that a sampler cannot tell it from one that does not."""

from __future__ import annotations

from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.prior.denoiser import Prior
from medrecon.solvers.likelihood import Gaussian, Likelihood


class Consistency(Prior):
    """Forwards to `prior`; a subclass overrides `estimate`. Made fresh for every run, so it may remember."""

    def __init__(self, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood
        self.field, self.sigma_range, self.data_std = prior.field, prior.sigma_range, prior.data_std
        self.image_axes, self.domain_name = prior.image_axes, prior.domain_name

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.prior.denoise(noisy, sigma)

    def error(self, sigma: Tensor) -> Tensor:
        return self.prior.error(sigma)

    def scale(self, calib_lines: int | None) -> float:
        return self.prior.scale(calib_lines)

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return self.prior.workspace(n_images, n_pixels)


def linear(likelihood: Likelihood, step: str) -> Gaussian:
    """The likelihood, if it is Gaussian with a linear operator; else `NotSupported`, which names `step`."""
    if not isinstance(likelihood, Gaussian):
        raise NotSupported(
            f"{step} needs a linear operator and Gaussian noise, got {type(likelihood).__name__}: "
            "use a method that needs gradients only (dps, daps with preset langevin, reddiff) or none (enkg)"
        )
    return likelihood
