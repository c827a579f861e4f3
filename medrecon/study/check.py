"""Is a prior what it claims to be on the user's own image: PSNR beside TV and BM3D, and what an exact denoiser obeys."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.denoiser import Prior
from medrecon.study.images import read_images, with_phase
from medrecon.study.modalities import GENERIC
from medrecon.study.rivals import TV_WEIGHTS, best, bm3d, bm3d_is_here, parts, total_variation
from medrecon.tensors import bright_level, generator_for, unit_noise
from medrecon.volume import Volume

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
SURE_TOLERANCE = 0.05
"""How far the SURE identity may be from 1."""
PHASE_TOLERANCE = 0.15
"""How much of the image may change when its global phase is turned and turned back."""
FOREIGN = 2.5
"""Mean squared error over that of the prior's own curve above which the image is out of its domain."""
DIFFERENCE = 0.02
"""Step of the finite differences, in units of sigma."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Level:
    """One noise level. PSNR in dB per real component, peak 1: `noisy`, `prior`, `tv`, `bm3d` (None: not installed) and `card`,
    what the prior's error curve promises. `sure` and `phase`: see `sure_identity`, `phase_error` (None: real images).
    """

    sigma: float
    noisy: float
    prior: float
    card: float
    tv: float
    tv_weight: float
    bm3d: float | None
    sure: float
    phase: float | None


@dataclass(frozen=True)
class PriorCheck:
    """What was found. `image`: how the image came into the prior's units; `pictures`: (noisy, denoised, clean) of each level."""

    prior: str
    image: str
    size: tuple[int, int]
    levels: list[Level]
    milliseconds: float
    pictures: list[tuple[Tensor, Tensor, Tensor]] = field(repr=False)

    @property
    def warnings(self) -> list[str]:
        """What a user should know before believing the prior on such images."""
        found = []
        for failed, words in (
            (lambda f: abs(f.sure - 1) > SURE_TOLERANCE, "its own estimate of its error (SURE identity) is off by more than 5 %"),
            (lambda f: f.phase is not None and f.phase > PHASE_TOLERANCE, "the image depends on its global phase"),
            (lambda f: f.prior < f.tv, "total variation denoises better"),
            (lambda f: f.bm3d is not None and f.prior < f.bm3d, "BM3D denoises better"),
            (lambda f: f.card - f.prior > 10 * math.log10(FOREIGN), "the error is far above that of the card: out of its domain"),
        ):
            levels = [f"{level.sigma:g}" for level in self.levels if failed(level)]
            if levels:
                found.append(f"prior {self.prior!r} at sigma {', '.join(levels)}: {words}")
        return found

    @property
    def passed(self) -> bool:
        """Whether the identities hold at every level; being beaten on one image is no fault of a prior."""
        return all(abs(f.sure - 1) <= SURE_TOLERANCE and (f.phase is None or f.phase <= PHASE_TOLERANCE) for f in self.levels)

    def facts(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "prior": self.prior,
            "image": self.image,
            "size": list(self.size),
            "passed": self.passed,
            "milliseconds": round(self.milliseconds, 1),
            "levels": [asdict(level) for level in self.levels],
            "warnings": self.warnings,
        }

    def picture(self) -> bytes:
        """PNG: a row a level, noisy | denoised | clean | difference of the magnitudes."""
        from matplotlib.figure import Figure

        height = self.size[0] / self.size[1]
        figure = Figure(figsize=(11, 2.9 * height * len(self.levels)), layout="constrained")
        rows = figure.subplots(len(self.levels), 4, squeeze=False)
        for row, level, (noisy, denoised, clean) in zip(rows, self.levels, self.pictures, strict=True):
            shown = [shown_as(image) for image in (noisy, denoised, clean)]
            titles = (f"sigma {level.sigma:g}, {level.noisy:.1f} dB", f"{self.prior}, {level.prior:.1f} dB", "clean", "denoised - clean")
            high = max(float(shown[2].quantile(0.998)) if shown[2].numel() < 1 << 24 else float(shown[2].max()), 1e-6)
            for axis, image, title in zip(row, shown, titles, strict=False):
                axis.imshow(image.numpy(), cmap="gray", vmin=min(0.0, float(shown[2].min())), vmax=high)
                axis.set_title(title, fontsize=8)
            row[3].imshow((shown[1] - shown[2]).numpy(), cmap="RdBu_r", vmin=-0.3 * high, vmax=0.3 * high)
            row[3].set_title(titles[3] + ", colours to 30 %", fontsize=8)
            for axis in row:
                axis.set_axis_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
        return buffer.getvalue()


def shown_as(image: Tensor) -> Tensor:
    """What a reader looks at: the magnitude of complex images, real ones as they are."""
    return image.abs() if image.is_complex() else image


def in_prior_units(prior: Prior, path: Path) -> tuple[list[Tensor], str]:
    """The slices (y, x) of an image file in the prior's units, complex where its field is, and a sentence that says how.

    Raises `BadInput` for raw data, for damage, and for values that are not the prior's (CT without negative HU, say).
    """
    complex_image = _complex(path) if prior.field == "complex" else None
    if complex_image is not None:
        return list(complex_image / bright_level(complex_image.abs())), "complex image, its brightest tissue scaled to 1"
    modality = modality_of(prior)
    found = read_images([path], modality)
    images = [found.clipped(k) for k in range(len(found))]
    words = f"{modality} image in the prior's units" + ("" if prior.units.physical else " (99.5th percentile of each slice 1)")
    if prior.field == "complex":
        return [with_phase(image, k) for k, image in enumerate(images)], f"{words}, magnitude given a smooth synthetic phase"
    return [torch.from_numpy(image) for image in images], words


def modality_of(prior: Prior) -> str:
    """Which kind of training images a prior has the units of."""
    known = {"HU": "ct", "dB": "ultrasound"}
    return known.get(prior.units.name, GENERIC if prior.domain_name == GENERIC else "mr")


def _complex(path: Path) -> Tensor | None:
    """The slices of a complex image (n, y, x), None for files of any other kind."""
    from medrecon.files import check_readable
    from medrecon.io import read

    if check_readable(path).suffix.lower() == ".png":
        return None
    found = read(path)
    if not isinstance(found, Volume):
        raise BadInput(f"{path}: holds raw {found.modality} data, not an image: reconstruct it first (medrecon recon)")
    if not found.image.is_complex():
        return None
    if not bool(torch.isfinite(found.image.abs()).all()) or not bool((found.image != 0).any()):
        raise BadInput(f"{path}: is empty or holds NaN or infinity: mend it")
    return found.image.reshape(-1, *found.grid.shape[-2:])


@torch.no_grad()
def check(prior: Prior, name: str, images: Sequence[Tensor], words: str, *, seed: int = 0, progress: Progress | None = None) -> PriorCheck:
    """The check over clean images (y, x) of one size in the prior's units; `words`: how they came into them."""
    clean = torch.stack(list(images))
    if prior.field == "complex" and not clean.is_complex():
        raise BadInput(f"prior {name!r} denoises complex images, got real ones")
    levels, pictures, seconds = [], [], []
    for k, sigma in enumerate(SIGMAS):
        if progress is not None:
            progress(k, len(SIGMAS), f"sigma {sigma:g}")
        noise = unit_noise(clean.shape, clean.dtype, generator_for(seed, "prior check", f"{sigma:g}"))
        noisy = clean + sigma * noise
        start = time.perf_counter()
        denoised = prior.denoise(noisy, torch.tensor(sigma))
        seconds.append(time.perf_counter() - start)
        levels.append(_level(prior, clean, noisy, denoised, sigma, seed))
        pictures.append((noisy[0], denoised[0], clean[0]))
    if progress is not None:
        progress(len(SIGMAS), len(SIGMAS), "done")
    each = 1000 * float(np.median(seconds)) / len(clean)
    return PriorCheck(name, words, (clean.shape[-2], clean.shape[-1]), levels, each, pictures)


def _level(prior: Prior, clean: Tensor, noisy: Tensor, denoised: Tensor, sigma: float, seed: int) -> Level:
    pairs = [(u.numpy(), x.numpy()) for u, x in zip(noisy, clean, strict=True)]
    tv = [best(total_variation, u, x, sigma, TV_WEIGHTS) for u, x in pairs]
    authors = [parts(bm3d, u, sigma, 1.0) for u, _ in pairs] if bm3d_is_here() else None
    return Level(
        sigma=sigma,
        noisy=psnr(noisy, clean),
        prior=psnr(denoised, clean),
        card=-10 * math.log10(float(prior.error(torch.tensor(sigma, dtype=torch.float64)))),
        tv=psnr(_stacked([image for image, _ in tv], clean), clean),
        tv_weight=float(np.median([weight for _, weight in tv])) * sigma,
        bm3d=None if authors is None else psnr(_stacked(authors, clean), clean),
        sure=sure_identity(prior, noisy, denoised, sigma, seed),
        phase=phase_error(prior, noisy, denoised, sigma) if prior.field == "complex" else None,
    )


def _stacked(images: Sequence[Any], like: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(np.ascontiguousarray(image)) for image in images]).to(like.dtype)


def psnr(image: Tensor, clean: Tensor) -> float:
    """dB per real component, peak 1, over all images."""
    difference = image - clean
    parts = torch.view_as_real(difference) if difference.is_complex() else difference
    return -10 * math.log10(max(float(parts.double().square().mean()), 1e-20))


def sure_identity(prior: Prior, noisy: Tensor, denoised: Tensor, sigma: float, seed: int) -> float:
    """|u - D|^2 / (n sigma^2) + tr J / n, n real numbers: 1 on average for E[x | u], since E|D - x|^2 = sigma^2 tr J there.

    Stein's estimate of the error and the denoiser's own posterior variance then agree. The trace is z.(J z) for one random z,
    by central differences, so that the prior need not be differentiable.
    """
    probe = unit_noise(noisy.shape, noisy.dtype, generator_for(seed, "prior check", "probe", f"{sigma:g}"))
    step, level = DIFFERENCE * sigma, torch.tensor(sigma)
    change = (prior.denoise(noisy + step * probe, level) - prior.denoise(noisy - step * probe, level)) / (2 * step)
    n = noisy.numel() * (2 if noisy.is_complex() else 1)
    trace = float((change * probe.conj()).real.double().sum())
    residual = float((noisy - denoised).abs().double().square().sum())
    return residual / (n * sigma**2) + trace / n


def phase_error(prior: Prior, noisy: Tensor, denoised: Tensor, sigma: float, angle: float = 1.1) -> float:
    """|D(turned u) turned back - D(u)| / |D(u)|: no image is more plausible for its global phase."""
    turn = torch.polar(torch.tensor(1.0), torch.tensor(angle)).to(noisy.dtype)
    turned = prior.denoise(turn * noisy, torch.tensor(sigma)) * turn.conj()
    return float((turned - denoised).abs().square().sum().sqrt() / denoised.abs().square().sum().sqrt())
