"""One streamed look at a whole scan: is it finite, how noisy, how bright. Scale and noise are per volume, never per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import ifft
from medrecon.physics.mri.calibration import calibration_size
from medrecon.physics.mri.coils import rss
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.noise import EdgeSamples, NoiseEstimate, Whitener, edge_samples, estimate, mix_coils, noise_covariance, whitener
from medrecon.tensors import bright_level, centre_crop, centre_pad

FINER = 4
"""The low-resolution image behind the scale is looked at on a grid this much finer than its own."""


@dataclass(frozen=True)
class Survey:
    """What calibration needs to know of the whole scan.

    `mask` of true rank; `centre`: side of the fully sampled centre (0: none); `blocks` (slice, coil, *centre): that
    part of k-space, not whitened. `whitener` with the noise level after it, `noise_source` in words.
    """

    mask: Tensor
    centre: tuple[int, ...]
    blocks: Tensor | None
    whitener: Whitener | None
    noise_std: float
    noise_source: str
    warnings: tuple[str, ...]


def read_slices(scan: MRIScan, mask: Tensor, start: int, stop: int, nan: str) -> tuple[Tensor, Tensor | None]:
    """Finite k-space (slice, coil, ..., y, x) of slices start..stop on the CPU, samples outside `mask` exactly zero.

    The second item: positions (slice, *mask.shape) lost to NaN or infinity with nan="zero", None where there are none.
    Raises `BadInput` that names slice and coil of the first one otherwise.
    """
    kspace = scan.kspace[start:stop]
    zero = torch.zeros((), dtype=kspace.dtype)
    kspace = torch.where(mask, kspace, zero)
    bad = ~torch.isfinite(torch.view_as_real(kspace)).all(-1)
    if not bool(bad.any()):
        return kspace, None
    if nan != "zero":
        z, coil = (int(i) for i in bad.nonzero()[0][:2])
        raise BadInput(
            f"k-space has {int(bad.sum())} NaN or infinite samples, the first in slice {start + z}, coil {coil} "
            "(counted from 0): repair the file, or give --nan zero to take them as not acquired"
        )
    # All coils share a mask, and a mask of whole lines can lose whole lines only.
    lost = bad.any(1)
    for axis, n in enumerate(mask.shape, start=1):
        lost = lost.any(axis, keepdim=True) if n == 1 else lost
    return torch.where(lost.unsqueeze(1), zero, kspace), lost


def survey(
    scan: MRIScan,
    *,
    calib: int,
    noise_std: float | None,
    whiten: bool,
    nan: str,
    look: Callable[[int, int], None] | None = None,
) -> Survey:
    """The survey; `look(done, total)` is told of every slice read."""
    mask = _mask(scan)
    limits = [min(calib, n) for n in scan.matrix]
    centre = calibration_size(mask, limits)
    square = min(n for n, m in zip(centre, scan.matrix, strict=True) if m > 1)
    side = tuple(min(square, m) for m in scan.matrix)
    estimated = noise_std is None and scan.noise is None
    blocks: list[Tensor] = []
    gaps: list[int] = []

    def edges() -> Iterator[EdgeSamples]:
        for z in range(scan.n_slices):
            kspace, lost = read_slices(scan, mask, z, z + 1, nan)
            gaps.append(0 if lost is None else int(lost.sum()))
            if square:
                blocks.append(centre_crop(kspace, side).clone())
            if look is not None:
                look(z + 1, scan.n_slices)
            if estimated and bool((kspace != 0).any()):
                yield edge_samples(kspace, mask, image_axes=scan.image_axes)

    found: NoiseEstimate | None = None
    unknown: tuple[str, ...] = ()
    if estimated:
        try:
            found = estimate(edges())
        except BadInput as error:
            if len(gaps) < scan.n_slices:  # reading failed, not the estimate
                raise
            # Methods that need no noise level can still run; the others ask for it.
            unknown = (str(error),)
    else:
        for _ in edges():
            pass
    white, level, source, warnings = _noise(scan, noise_std, whiten, found)
    stacked = torch.cat(blocks) if blocks else None
    return Survey(mask, centre, stacked, white, level, source, (*unknown, *warnings, *_lost(gaps, mask)))


def _lost(gaps: list[int], mask: Tensor) -> tuple[str, ...]:
    """A warning about positions taken as not acquired."""
    if not any(gaps):
        return ()
    what = "readout lines" if mask.shape[-1] == 1 else "positions"
    first = next(z for z, n in enumerate(gaps) if n)
    return (f"NaN or infinite samples: {sum(gaps)} {what} taken as not acquired, the first in slice {first}",)


def _mask(scan: MRIScan) -> Tensor:
    """Bool of true rank: the scan's own, else the positions that are not zero in some coil of some slice."""
    mask = scan.mask
    if mask is None:
        mask = torch.zeros(scan.matrix, dtype=torch.bool)
        for z in range(scan.n_slices):
            mask |= (scan.kspace[z : z + 1] != 0).flatten(0, 1).any(0)
    elif (
        mask.dtype != torch.bool
        or mask.ndim != scan.image_axes
        or any(m not in (1, n) for m, n in zip(mask.shape, scan.matrix, strict=True))
    ):
        raise BadInput(f"mask is {mask.dtype} {tuple(mask.shape)}, k-space has {scan.matrix}: expected bool of true rank, as (ny, 1)")
    if not bool(mask.any()):
        raise BadInput("the sampling mask is empty: nothing was acquired; check the mask or the file")
    lines = mask.any(-1, keepdim=True)
    return lines if bool((mask == lines).all()) else mask


def _noise(
    scan: MRIScan, noise_std: float | None, whiten: bool, found: NoiseEstimate | None
) -> tuple[Whitener | None, float, str, tuple[str, ...]]:
    if noise_std is not None:
        if not 0 <= noise_std < float("inf"):
            raise BadInput(f"noise_std = {noise_std}: expected 0 or a positive number, per real component, in the file's units")
        return None, float(noise_std), "given", ()
    if found is None and scan.noise is None:
        return None, 0.0, "unknown", ()
    if found is None:
        assert scan.noise is not None
        covariance = noise_covariance(scan.noise.samples, scan.noise.bandwidth_ratio)
        source, warnings = f"noise scan of {scan.noise.samples.shape[1]} samples per coil", tuple[str, ...]()
    else:
        covariance, source, warnings = found.covariance, found.source, found.warnings
    white = whitener(covariance)
    return (white if whiten else None), white.noise_std, source, (*warnings, *white.warnings)


def brightness(blocks: Tensor, matrix: tuple[int, ...], crop: tuple[int, ...]) -> float:
    """`bright_level` over the volume of the root sum of squares seen through the k-space centre `blocks`.

    blocks (slice, coil, *centre); `matrix`: the encoded size; `crop`: the shown size in the last axes (oversampling
    removed). Evaluated on a grid a few times finer than the block, which is all that its bandwidth holds.
    """
    axes = len(matrix)
    fine = [min(n, FINER * b) for n, b in zip(matrix, blocks.shape[-axes:], strict=True)]
    trailing = tuple(range(-axes, 0))
    gain = 1.0
    for f, n in zip(fine, matrix, strict=True):
        gain *= (f / n) ** 0.5
    shown = [max(1, round(f * c / n)) for f, c, n in zip(fine, crop, matrix, strict=True)]
    images = [centre_crop(rss(ifft(centre_pad(block, fine), trailing), -axes - 1), shown) for block in blocks]
    return float(bright_level(torch.stack(images))) * gain


def whitened_blocks(found: Survey) -> Tensor | None:
    """The centre of k-space after whitening."""
    if found.blocks is None or found.whitener is None:
        return found.blocks
    return mix_coils(found.whitener.matrix, found.blocks, axis=1)
