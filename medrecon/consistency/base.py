"""Consistency: a prior that also knows the data, so that a sampler cannot tell it from one that does not."""

from __future__ import annotations

from torch import Tensor

from medrecon.prior.denoiser import Prior
from medrecon.solvers.likelihood import Likelihood


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
