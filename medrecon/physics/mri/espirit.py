"""ESPIRiT coil maps: Uecker et al. 2014, doi:10.1002/mrm.24751, evaluated as a trigonometric polynomial.

The operator whose eigenvectors are the maps is, per pixel, a polynomial of (2 kernel - 1)^2 coefficients (the lags of
the projector on the calibration signal space): no transform of hundreds of kernels, nothing of image size but the maps.
Defaults are BART's, so results compare: the threshold acts on squared singular values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.mri.calibration import calibration_block
from medrecon.physics.mri.eigenmaps import Eigenmaps, dominant, leading
from medrecon.tensors import real_dtype

TRUSTED = 0.5  # below this eigenvalue a pixel holds no object; its vector is not certified even with crop = 0
SECOND = 0.9  # a second eigenvalue above it means that one map cannot explain the pixel
FILLED = 0.95  # share of kept singular vectors beyond which the calibration is mostly noise


@dataclass(frozen=True)
class Espirit:
    """Coil maps and what the calibration found.

    `maps` (*batch, [sets,] coil, [z,] y, x): unit norm over coils, 0 where the eigenvalue is below the crop; the sets
    axis is there if more than one was asked for. `eigenvalues` (*batch, [sets,] [z,] y, x), real, uncropped.
    `calib_shape`: what was calibrated on. `kept` (*batch,): share of singular vectors in the signal space.
    `second` (*batch,): share of the support where the second eigenvalue exceeds 0.9: above 0.01, ask for two sets.
    """

    maps: Tensor
    eigenvalues: Tensor
    calib_shape: tuple[int, ...]
    kept: Tensor
    second: Tensor
    warnings: tuple[str, ...] = ()


def espirit(
    kspace: Tensor,
    calib: int | Sequence[int] = 24,
    *,
    kernel: int = 6,
    threshold: float = 1e-3,
    crop: float = 0.8,
    sets: int = 1,
    soft: bool = False,
    image_axes: int = 2,
    mask: Tensor | None = None,
    calib_kspace: Tensor | None = None,
    budget: int | None = None,
) -> Espirit:
    """Coil maps of k-space (*batch, coil, [z,] y, x) from its fully sampled centre.

    `calib`: longest side(s) of the centre used; what is really sampled there is measured (from the data, and `mask`
    if given). `calib_kspace`: calibrate on this k-space instead, (*batch, coil, [z,] y, x) of the same field of view
    and any matrix. `threshold`: kept squared singular values relative to the largest. `crop`: smallest eigenvalue
    of a pixel in the maps (0: no masking). `soft`: weight smoothly by the eigenvalue instead of cropping (BART -S).
    `budget`: bytes for one chunk of rows. The result does not depend on it, and each slice is computed by itself.

    Raises `BadInput` when the centre is smaller than kernel + 2 or holds no signal in any slice.
    """
    _check(kspace, kernel, threshold, crop, sets, image_axes, calib_kspace)
    shape = tuple(kspace.shape[-image_axes:])
    source = kspace if calib_kspace is None else calib_kspace
    smallest = [min(kernel + 2, n) for n in source.shape[-image_axes:]]
    block = calibration_block(source, calib, smallest=smallest, mask=mask if calib_kspace is None else None)
    batch = tuple(block.shape[: block.ndim - image_axes - 1])
    items = block.reshape(-1, *block.shape[-image_axes - 1 :])
    with torch.no_grad():
        parts = [_one(item, shape, kernel, threshold, crop, sets, soft, budget) for item in items]
    maps, eigenvalues, kept, second = (torch.stack(part).reshape(batch + part[0].shape) for part in zip(*parts, strict=True))
    if sets == 1:
        maps, eigenvalues = maps.squeeze(len(batch)), eigenvalues.squeeze(len(batch))
    return Espirit(maps, eigenvalues, tuple(block.shape[-image_axes:]), kept, second, _warnings(kept, second, sets))


def _check(kspace: Tensor, kernel: int, threshold: float, crop: float, sets: int, image_axes: int, calib_kspace: Tensor | None) -> None:
    if image_axes not in (2, 3) or kspace.ndim <= image_axes or not kspace.is_complex():
        raise BadInput(
            f"espirit: k-space of shape {tuple(kspace.shape)} and {kspace.dtype}: expected complex (*batch, coil, y, x), "
            "or (*batch, coil, z, y, x) with image_axes=3"
        )
    n_coils = kspace.shape[-image_axes - 1]
    if calib_kspace is not None and (calib_kspace.ndim <= image_axes or calib_kspace.shape[-image_axes - 1] != n_coils):
        raise BadInput(f"espirit: calibration k-space of shape {tuple(calib_kspace.shape)} has not the {n_coils} coils of the scan")
    if not 1 <= sets <= n_coils:
        raise BadInput(f"espirit: {sets} sets of maps from {n_coils} coils: expected 1 to {n_coils}")
    if kernel < 2 or not 0 < threshold < 1 or not 0 <= crop < 1:
        raise BadInput(
            f"espirit: kernel {kernel}, threshold {threshold}, crop {crop}: expected kernel >= 2, 0 < threshold < 1, 0 <= crop < 1"
        )


def _one(
    block: Tensor, shape: tuple[int, ...], kernel: int, threshold: float, crop: float, sets: int, soft: bool, budget: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps (sets, coil, *shape), eigenvalues (sets, *shape), kept and second shares (0-dim) of one slice or volume."""
    n_coils = block.shape[0]
    real = real_dtype(block.dtype)
    peak = block.abs().max()
    if peak == 0:  # an empty slice of a volume
        nothing = block.real.new_zeros(())
        return block.new_zeros(sets, n_coils, *shape), torch.zeros(sets, *shape, dtype=real, device=block.device), nothing, nothing
    block = block / peak
    kernels = [min(kernel, n) if m > 1 else 1 for n, m in zip(block.shape[1:], shape, strict=True)]
    lags, kept = lag_kernel(block, kernels, threshold)
    reference = _principal(block)
    planes = [_solve(LagField(plane, (shape[-2], shape[-1]), reference), crop, sets, budget) for plane in _planes(lags, shape)]
    vectors = torch.stack([plane.vectors for plane in planes], 1)  # sets, z, y, x, coil
    values = torch.stack([plane.values for plane in planes], 1)
    coarse = torch.stack([plane.coarse for plane in planes], 1)
    weights = soft_weights(values, crop) if soft else (values >= crop).to(real)
    maps = (vectors * weights.unsqueeze(-1)).movedim(-1, 1).contiguous()
    support = coarse[0] >= max(crop, TRUSTED)
    second = (coarse[1][support] > SECOND).sum() / support.sum().clamp_min(1)
    return maps.reshape(sets, n_coils, *shape), values.reshape(sets, *shape), kept, second


def _solve(field: LagField, crop: float, sets: int, budget: int | None) -> Eigenmaps:
    return dominant(field, floor=max(crop, TRUSTED), budget=budget) if sets == 1 else leading(field, sets, budget=budget)


def lag_kernel(block: Tensor, kernels: Sequence[int], threshold: float) -> tuple[Tensor, Tensor]:
    """Correlation over lag of the projector on the signal space of a calibration block (coil, *axes).

    (coil, coil, *(2 kernel - 1)), divided by the number of kernel positions; and the share of singular vectors kept.
    """
    axes = len(kernels)
    patches = block
    for axis, k in enumerate(kernels):
        patches = patches.unfold(1 + axis, k, 1)  # coil, *positions, *kernels
    patches = patches.movedim(0, axes).flatten(axes).flatten(0, axes - 1)  # position, (coil, *kernels)
    vectors, kept = _signal_space(patches, threshold)
    # a patch read as a column lies in the span of the conjugate of the right singular vectors
    projector = (vectors.conj() @ vectors.mT).reshape(block.shape[0], *kernels, block.shape[0], *kernels)
    lags = projector.new_zeros(block.shape[0], block.shape[0], *[2 * k - 1 for k in kernels])
    whole = (slice(None),) * (1 + axes)
    for first in torch.cartesian_prod(*[torch.arange(k) for k in kernels]).reshape(-1, axes).tolist():
        target = [slice(k - 1 - i, 2 * k - 1 - i) for i, k in zip(first, kernels, strict=True)]
        lags[(slice(None), slice(None), *target)] += projector[(slice(None), *first, *whole)]
    return lags / math.prod(kernels), kept


def _signal_space(patches: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Right singular vectors (n, r) of the kept singular values, and r over how many there could be.

    From the Gram matrix of the smaller side: squaring the condition is harmless as the threshold is on that scale.
    """
    wide = patches.shape[0] <= patches.shape[1]
    gram = patches @ patches.mH if wide else patches.mH @ patches
    values, basis = torch.linalg.eigh(gram)
    keep = values > threshold * values[-1]
    basis, values = basis[:, keep], values[keep]
    vectors = patches.mH @ (basis * values.rsqrt()) if wide else basis
    return vectors, keep.to(values.dtype).mean()


def _principal(block: Tensor) -> Tensor:
    """(coil,) dominant eigenvector of the coil covariance of a block (coil, ...), its largest entry real positive."""
    flat = block.flatten(1)
    vector = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    return vector * vector[vector.abs().argmax()].sgn().conj()


def _planes(lags: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The 2-D lag kernels (coil, coil, ly, lx) of each z plane, or the kernel itself in 2-D."""
    if len(shape) == 2:
        return [lags]
    phases = _phases(shape[0], lags.shape[2], lags)
    return list(torch.einsum("zl,abl...->zab...", phases, lags))


@dataclass(frozen=True)
class LagField:
    """The ESPIRiT operator of each pixel: sum over lags d of kernel[c, c', d] exp(-2 pi i d r / N), eigenvalues in [0, 1]."""

    kernel: Tensor  # (coil, coil, ly, lx)
    shape: tuple[int, int]
    reference: Tensor

    @property
    def n_coils(self) -> int:
        return int(self.kernel.shape[0])

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns, coil, coil): two matrix transforms of a few taps."""
        _, n, ly, lx = self.kernel.shape
        taps = self.kernel.permute(2, 3, 0, 1).reshape(ly, lx * n * n)
        along_y = (_phases(self.shape[0], ly, taps)[rows] @ taps).reshape(len(rows), lx, n * n)
        return (_phases(self.shape[1], lx, taps)[columns] @ along_y).reshape(len(rows), len(columns), n, n)


def _phases(n: int, taps: int, like: Tensor) -> Tensor:
    """exp(-2 pi i d r / n): (n, taps), r from -(n//2), d from -(taps//2)."""
    position = torch.arange(n, dtype=torch.float64) - n // 2
    lag = torch.arange(taps, dtype=torch.float64) - taps // 2
    angle = -2 * math.pi / n * position[:, None] * lag
    return torch.polar(torch.ones_like(angle), angle).to(dtype=like.dtype, device=like.device)


def soft_weights(eigenvalues: Tensor, crop: float) -> Tensor:
    """BART's smooth crop: 0 well below, 1 well above, and 1/2 where the root of the eigenvalue is `crop`."""
    t = (eigenvalues.clamp_min(0).sqrt() - crop) / (1 - crop)
    return torch.where(t < -1, torch.zeros_like(t), torch.where(t > 1, torch.ones_like(t), 0.5 + t / (1 + t.square())))


def _warnings(kept: Tensor, second: Tensor, sets: int) -> tuple[str, ...]:
    found = []
    if bool((kept == 0).any()):
        found.append(f"espirit: {int((kept == 0).sum())} slice(s) without signal in the calibration region: their maps are zero")
    if bool((kept > FILLED).any()):
        found.append(
            f"espirit: {float(kept.max()):.0%} of the singular vectors were kept: the calibration region is mostly noise, "
            "the maps mean little; raise the threshold or calibrate on better data"
        )
    if sets == 1 and bool((second > 0.01).any()):
        found.append(
            f"espirit: the second eigenvalue exceeds {SECOND} on {float(second.max()):.1%} of the object: "
            "it is larger than the field of view, or moved; two sets of maps (sets=2) explain it"
        )
    return tuple(found)
