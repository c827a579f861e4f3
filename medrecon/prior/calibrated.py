"""The mean error of a denoiser over its images, measured once and taken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped
from medrecon.tensors import Draw, ratio, real_dtype


@dataclass(frozen=True)
class NoiseMeans:
    """b(sigma): the mean of the predicted noise, 0 for an exact denoiser. `sigmas` (level,) rise, `values` (level, *image)."""

    sigmas: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        levels = self.sigmas
        if levels.ndim != 1 or len(levels) == 0 or len(self.values) != len(levels):
            raise BadInput(f"{len(self.values)} images for levels {tuple(levels.shape)}: expected one image for each level")
        if not bool((levels > 0).all() and (levels.diff() > 0).all()):
            raise BadInput(f"levels {levels.tolist()}: expected positive and rising ones")


class Calibrated(Wrapped):
    """D + sigma b(sigma), so that the mean of what it returns over noisy images is the mean image: E D = E x.

    Pang et al. 2023 (arXiv:2302.10688), which subtracts b, the mean of the predicted noise, from it. b is interpolated in
    ln sigma and constant beyond the measured levels. It belongs to one image size and to the images that it was measured on.
    """

    sigmas: Tensor
    values: Tensor

    def __init__(self, prior: Prior, means: NoiseMeans) -> None:
        super().__init__(prior)
        if means.values.ndim != 1 + prior.image_axes or means.values.is_complex() != (prior.field == "complex"):
            raise BadInput(f"means {tuple(means.values.shape)}, {means.values.dtype}: expected {prior.field} images of the prior")
        self.register_buffer("sigmas", means.sigmas.to(torch.float64))
        self.register_buffer("values", means.values)

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if noisy.shape[-self.image_axes :] != self.values.shape[1:]:
            raise BadInput(f"calibrated for images {tuple(self.values.shape[1:])}, got {tuple(noisy.shape)}: calibrate for this size")
        level = torch.as_tensor(sigma).to(noisy.device, real_dtype(noisy.dtype))
        return self.prior.denoise(noisy, sigma) + level * self._mean(level).to(noisy.dtype)

    def _mean(self, level: Tensor) -> Tensor:
        """b, (*image) for a level without axes, else (*batch, *image)."""
        at = (level[(...,) + (0,) * self.image_axes] if level.ndim else level).to(self.sigmas.dtype)
        if len(self.sigmas) == 1:
            return self.values[torch.zeros_like(at, dtype=torch.long)]
        right = torch.searchsorted(self.sigmas, at.contiguous()).clamp(1, len(self.sigmas) - 1)
        left, width = self.sigmas[right - 1], (self.sigmas[right] / self.sigmas[right - 1]).log()
        t = ((at / left).log() / width).clamp(0, 1)
        return torch.lerp(self.values[right - 1], self.values[right], t.reshape(*t.shape, *[1] * self.image_axes).to(self.values.dtype))


def calibration(prior: Prior, images: Tensor, sigmas: Sequence[float], draw: Draw) -> NoiseMeans:
    """b at every level from clean images (count, *image), thousands of them, in the prior's units; the prior is not changed.

    The predicted noise is n + (x - D) / sigma. The mean of the noise n that was added is known to be 0, so only the
    second part is averaged: r^2 / sigma^2 of the variance. What is left of chance is shrunk away (James and Stein):
    b is multiplied by 1 - (variance of the mean) / (mean square of b), at least 0, one number a level.
    """
    if images.ndim != 1 + prior.image_axes or len(images) < 2:
        raise BadInput(f"images {tuple(images.shape)}: expected at least two of them along one leading axis")
    knots = torch.tensor(sorted(sigmas), dtype=torch.float64)
    return NoiseMeans(knots, torch.stack([_shrunk(_errors(prior, images, sigma, draw)) for sigma in knots]))


@torch.no_grad()
def _errors(prior: Prior, images: Tensor, sigma: Tensor, draw: Draw) -> Tensor:
    return (images - prior.denoise(images + sigma * draw(images), sigma)) / sigma


def _shrunk(values: Tensor) -> Tensor:
    """The mean over the first axis, less what chance adds to it."""
    mean = values.mean(0)
    chance = (values - mean).abs().square().sum(0).mean() / (len(values) * (len(values) - 1))
    return mean * (1 - ratio(chance, mean.abs().square().mean())).clamp_min(0)
