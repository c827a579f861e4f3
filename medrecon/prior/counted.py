"""How often a prior was really asked."""

from __future__ import annotations

from torch import Tensor

from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped


class Counted(Wrapped):
    """`images`: how many images were denoised, each of a batch for itself; gradients do not count."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.images = 0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.images += noisy.shape[: noisy.ndim - self.image_axes].numel()
        return self.prior.denoise(noisy, sigma)
