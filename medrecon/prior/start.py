"""Where sampling begins when the first noise level does not drown the image, and noise for priors trained with an offset."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.tensors import Draw, spatial_frequency, trailing


def signal_leak_start(rough: StationaryGaussian, like: Tensor, sigma: Tensor, draw: Draw) -> Tensor:
    """u = x~ + sigma z like `like`, x~ a draw of `rough`: what a training image at this noise level looks like.

    Training shows the network x + sigma n, never pure noise. From pure noise the low frequencies start too weak unless
    sigma is some 20 times rms(x): then x~ is of no consequence. Everaert et al. 2024 (arXiv:2309.15842). With a spectrum of
    zeros x~ is the mean of `rough`: the mean of the training images, or a quick reconstruction.
    """
    return rough.sample(draw(like)) + sigma * draw(like)


def low_frequencies(images: Tensor, cutoff: float) -> StationaryGaussian:
    """N(mean, covariance) of `images` (count, *image), its spectrum cut at `cutoff` cycles a pixel (0.5 is the highest).

    Images that are no shifted copies of each other have a mean of their own; what differs is taken as stationary.
    """
    if images.ndim < 2 or len(images) < 2 or not cutoff > 0:
        raise BadInput(f"images {tuple(images.shape)}, cutoff = {cutoff}: expected at least two images, cutoff > 0")
    mean = images.mean(0)
    axes = trailing(mean.ndim)
    parts = 2 if images.is_complex() else 1
    power = torch.fft.fftn(images - mean, dim=axes, norm="ortho").abs().square().sum(0) / ((len(images) - 1) * parts)
    return StationaryGaussian(mean, torch.where(spatial_frequency(mean.shape, power) <= cutoff, power, torch.zeros_like(power)))


def offset_draw(draw: Draw, rho: float, axes: int = 2) -> Draw:
    """Noise with covariance I + rho^2 1 1^T over the last `axes` axes: every image has a constant of its own added.

    For priors trained with offset noise (Guttenberg 2023, rho about 0.1), whose lowest frequency would else be too weak.
    It is the noise of images: for the sampler and the start, not for data steps that perturb the data (perturb and solve).
    """

    def coloured(x: Tensor) -> Tensor:
        corner = x
        for axis in trailing(axes):
            corner = corner.narrow(axis, 0, 1)
        return draw(x) + rho * draw(corner)

    return coloured
