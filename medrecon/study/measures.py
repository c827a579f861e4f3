"""Figures of a trained prior on whole images: error curve, denoising PSNR, intensity ratio, sample pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medrecon.files import atomic_file
from medrecon.linop.fourier import fft, ifft
from medrecon.prior.precondition import NetworkPrior
from medrecon.study.images import ImageSet, with_phase
from medrecon.tensors import bright_level, centre_crop, centre_pad, generator_for, quantile, unit_noise

CURVE_SIGMAS = np.geomspace(0.01, 20.0, 16)
CARD_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
PICTURE_SIGMAS = (0.05, 0.2, 0.5)
CALIB_LINES = (8, 12, 16, 20, 24, 32)


def error_curve(prior: NetworkPrior, images: ImageSet, count: int = 12) -> list[list[float]]:
    """Pairs (sigma, mean squared error per real component) over whole images, seeded."""
    examples = _examples(prior, images, count)
    return [[float(s), _squared_error(prior, examples, float(s))] for s in CURVE_SIGMAS]


def denoising_psnr(prior: NetworkPrior, images: ImageSet, count: int = 12) -> dict[float, float]:
    """sigma -> PSNR in dB per real component, peak 1, over whole images."""
    examples = _examples(prior, images, count)
    return {s: float(-10 * np.log10(_squared_error(prior, examples, s))) for s in CARD_SIGMAS}


def _examples(prior: NetworkPrior, images: ImageSet, count: int) -> list[Tensor]:
    chosen = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    return [_example(prior, images, int(i)) for i in chosen]


def _example(prior: NetworkPrior, images: ImageSet, index: int) -> Tensor:
    """A clean image as the prior takes it, on its device."""
    clean = images.clipped(index)
    image = with_phase(clean, index) if prior.field == "complex" else torch.from_numpy(clean)
    return image.to(next(prior.parameters()).device)


def _squared_error(prior: NetworkPrior, examples: Sequence[Tensor], sigma: float) -> float:
    total = 0.0
    for i, clean in enumerate(examples):
        residual = _denoised(prior, clean, sigma, i)[1] - clean
        parts = torch.view_as_real(residual) if residual.is_complex() else residual
        total += float(parts.double().square().mean())
    return total / len(examples)


@torch.no_grad()
def _denoised(prior: NetworkPrior, clean: Tensor, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
    """The image with noise, and what the prior makes of it."""
    noise = unit_noise(clean.shape, clean.dtype, generator_for(seed, "error curve", f"{sigma:.4g}")).to(clean)
    noisy = clean + sigma * noise
    return noisy, prior.denoise(noisy[None], torch.tensor(sigma))[0]


def kappas(images: ImageSet) -> list[list[float]]:
    """Pairs (lines, kappa) from the images without a physical scale; none where all have one."""
    relative = images.chosen(i for i in range(len(images)) if not images.kind(i).units.physical)
    return [[n, kappa(relative, n)] for n in CALIB_LINES] if len(relative) else []


def kappa(images: ImageSet, lines: int, count: int = 24) -> float:
    """Mean ratio of how bright the images are seen through a k-space centre of lines x lines (`bright_level`, by which scans are scaled)
    to the 99.5th percentile of the images themselves (their unit)."""
    chosen = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    ratios = []
    for i in chosen:
        image = with_phase(images.images[i].astype(np.float32), int(i))
        side = [min(lines, n) for n in image.shape]
        low = ifft(centre_pad(centre_crop(fft(image, (-2, -1)), side), image.shape), (-2, -1)).abs()
        ratios.append(float(bright_level(low) / quantile(image.abs(), 0.995)))
    return round(float(np.mean(ratios)), 4)


def write_pictures(path: Path, prior: NetworkPrior, images: ImageSet) -> None:
    """PNG of the middle image: noisy, denoised, clean from left to right; a row for each of `PICTURE_SIGMAS`."""
    from PIL import Image

    index = len(images) // 2
    clean = _example(prior, images, index)
    rows = [torch.cat([*_denoised(prior, clean, sigma, 0), clean], -1) for sigma in PICTURE_SIGMAS]
    low, high = images.kind(index).window
    shown = torch.cat(rows, -2)
    grey = ((shown.abs() if shown.is_complex() else shown).cpu() - low) / (high - low)
    with atomic_file(path, force=True) as temporary:
        Image.fromarray((255 * grey.clamp(0, 1)).round().byte().numpy()).save(temporary, format="PNG")
