"""The network is told the noise level that the image has, not the one that the schedule says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped
from medrecon.tensors import norm2, real_dtype, trailing


class TimeShifted(Wrapped):
    """D(noisy, s) with s^2 = Var(noisy) - Var(x), within `window` of sigma, for every image its own; Var(x) = Var(D) + r^2.

    Variances are over the pixels, per real component. Time-shift sampler (Li et al. 2024, arXiv:2305.15583), which searches
    a table of variances and leaves r^2, the error of D, out: its level is then 22 % too high at sigma = std(x). D is that
    of the call before, so the first call is not shifted and there is one evaluation a call, as without.

    Between images of n real components s^2 varies by chance, by the share 2 std(x) / (sigma sqrt(n)) and sqrt(2 / n); where
    that exceeds `window` there is no shift: at low noise and for small images (in the paper, a cutoff in time).

    Only what the network is told changes, not the sampler's coefficients. Of use where a step leaves less noise than
    the schedule says (hard data consistency, few steps). The shift itself is not differentiated.
    """

    def __init__(self, prior: Prior, *, window: float = 0.1) -> None:
        super().__init__(prior)
        if not 0 <= window < 1:
            raise BadInput(f"window = {window}: expected 0 (no shift) to 1, a share of the noise level")
        self.window = window
        self._signal: Tensor | None = None
        """Var(x), (*batch, 1, ..., 1), from the call before."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.to(noisy.device, real_dtype(noisy.dtype))
        told = self._seen(noisy.detach(), level)
        mean = self.prior.denoise(noisy, told)
        self._signal = self._variance(mean.detach()) + self.prior.error(told).to(level)
        return mean

    def _seen(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The noise level in the image, (*batch, 1, ..., 1)."""
        shape = noisy.shape[: noisy.ndim - self.image_axes] + (1,) * self.image_axes
        if self._signal is None or self._signal.shape != shape:
            return level
        n = math.prod(noisy.shape[-self.image_axes :]) * (2 if noisy.is_complex() else 1)
        chance = torch.hypot(2 * self._signal.sqrt() / (level * math.sqrt(n)), level.new_tensor(math.sqrt(2 / n)))
        seen = (self._variance(noisy) - self._signal).clamp_min(0).sqrt()
        low, high = (level * (1 + side * self.window) for side in (-1, 1))
        return torch.where(chance < self.window, seen.clamp(low, high), level)

    def _variance(self, image: Tensor) -> Tensor:
        """Over the pixels, per real component, (*batch, 1, ..., 1)."""
        centred = image - image.mean(trailing(self.image_axes), keepdim=True)
        size = math.prod(image.shape[-self.image_axes :])
        return norm2(centred, self.image_axes) / (max(1, size - 1) * (2 if image.is_complex() else 1))
