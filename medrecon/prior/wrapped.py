"""Priors around priors: one respect is changed, every fact about the images is forwarded."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.prior.denoiser import Prior


class Wrapped(Prior):
    """Forwards to `prior`; a subclass overrides what it changes. It stands inside a data step, which sees its denoiser."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.field, self.sigma_range, self.data_std = prior.field, prior.sigma_range, prior.data_std
        self.image_axes, self.domain_name, self.units = prior.image_axes, prior.domain_name, prior.units
        self.remembers, self.item_levels = self.remembers or prior.remembers, self.item_levels and prior.item_levels

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.prior.denoise(noisy, sigma)

    def error(self, sigma: Tensor) -> Tensor:
        return self.prior.error(sigma)

    def stiffness(self, sigma: Tensor) -> Tensor | float:
        return self.prior.stiffness(sigma)

    def scale(self, calib_lines: int | None) -> float:
        return self.prior.scale(calib_lines)

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return self.prior.workspace(n_images, n_pixels)


def refuse_gradient(noisy: Tensor, name: str) -> None:
    """Raises `NotSupported` where a graph through the denoiser is being built."""
    if torch.is_grad_enabled() and noisy.requires_grad:
        raise NotSupported(f"{name} cannot be differentiated: use a method that only denoises (dds, diffpir, daps), or the prior itself")
