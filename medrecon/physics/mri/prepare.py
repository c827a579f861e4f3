"""From an MRI scan to inverse problems: whiten, remove oversampling, compress, calibrate, scale; streamed by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medrecon.compute import chunk_length, memory_budget
from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.linop.fourier import fft, ifft
from medrecon.linop.operator import LinearOperator, Scaled
from medrecon.physics.mri.calibration import HELP
from medrecon.physics.mri.coils import rss, svd_compression
from medrecon.physics.mri.espirit import espirit
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.sense import sense
from medrecon.physics.mri.survey import Survey, brightness, read_slices, survey, whitened_blocks
from medrecon.physics.noise import mix_coils
from medrecon.physics.scan import Problem, SliceArray
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import centre_crop, fastmri_crop

SMALLEST_CENTRE = 8
"""A centre narrower than this calibrates nothing."""


def _one(calib_lines: int | None) -> float:
    return 1.0


@dataclass(frozen=True)
class Preparation:
    """Settings of `MRIScan.problems` and of `--set`.

    `noise_std`: noise per real component in the file's units; None: from the noise scan, else estimated from the border
    of k-space. `whiten`: decorrelate the coils. `maps`: ready coil maps (slice or 1, [set,] coil, y, x); `calib`:
    k-space of a reference scan (slice or 1, coil, y, x); `calib_size`: longest side of the centre used. `kernel`,
    `threshold`, `map_crop`: ESPIRiT. `sets`: maps per pixel. `virtual_coils`: compress to so many coils (0: keep all).
    `nan`: "error" or "zero". `exact`: offer the exact columns as spectrum. `combine`: "maps", or "rss" for separate
    coil images. `kappa`: the prior's brightness ratio (see `Prior.scale`). `copies`: images per slice that the method
    holds, for the memory estimate.
    """

    noise_std: float | None = None
    whiten: bool = True
    maps: Tensor | None = None
    calib: SliceArray | None = None
    calib_size: int = 24
    kernel: int = 6
    threshold: float = 1e-3
    map_crop: float = 0.8
    sets: int = 1
    virtual_coils: int = 0
    nan: str = "error"
    exact: bool = False
    combine: str = "maps"
    kappa: Callable[[int | None], float] = _one
    copies: int = 1
    look: Callable[[int, int], None] | None = None

    @classmethod
    def named(cls) -> list[str]:
        """Names that a user may set."""
        return [f.name for f in fields(cls) if f.name not in ("kappa", "copies", "look")]


def prepared(scan: MRIScan, budget: int | None, device: torch.device, **settings: Any) -> Iterator[Problem]:
    """The problems of a scan, one batch of slices after the other; all share scale and noise."""
    known = [f.name for f in fields(Preparation)]
    for name in settings:
        if name not in known:
            raise BadInput(f"MRI preparation has no setting {name!r}{nearest(name, known)}")
    plan = _checked(Preparation(**settings))
    found = survey(scan, calib=plan.calib_size, noise_std=plan.noise_std, whiten=plan.whiten, nan=plan.nan, look=plan.look)
    encoding = _Encoding.of(scan, found.mask)
    compression, kept = _compression(found, plan)
    scale = _scale(scan, found, plan)
    facts = _facts(scan, found, plan, scale, encoding, kept)
    bytes_each = encoding.bytes_per_item(scan.n_coils, plan.copies)
    limit = memory_budget(device) if budget is None else budget
    for start, stop, data in encoding.batches(chunk_length(bytes_each, limit, encoding.n_items), plan.nan, device):
        coil_axis = -3
        for matrix in (found.whitener.matrix if found.whitener else None, compression):
            data = data if matrix is None else mix_coils(matrix, data, axis=coil_axis)
        operator, warnings = _operator(scan, data, encoding, plan, found, compression, start, stop)
        level = found.noise_std or 1.0
        likelihood = Gaussian(Scaled(operator, scale / level), encoding.shaped(data, plan.combine) / level)
        yield Problem(
            likelihood=likelihood,
            grid=encoding.grid(start, stop),
            scale=scale,
            noise_std=found.noise_std,
            slices=range(start, stop),
            facts={**facts, "warnings": [*facts["warnings"], *warnings]},
            display=_display(plan),
            crop=encoding.crop,
            arrange=encoding.arrange,
            study=scan.study,
        )


def _checked(plan: Preparation) -> Preparation:
    if plan.nan not in ("error", "zero"):
        raise BadInput(f"nan = {plan.nan!r}: expected error or zero")
    if plan.combine not in ("maps", "rss"):
        raise BadInput(f"combine = {plan.combine!r}: expected maps or rss")
    if plan.combine == "rss" and plan.virtual_coils:
        raise BadInput("coil compression changes a root sum of squares: leave virtual_coils out")
    if plan.sets < 1 or plan.calib_size < SMALLEST_CENTRE or plan.virtual_coils < 0:
        raise BadInput(f"sets {plan.sets}, calib_size {plan.calib_size}, virtual_coils {plan.virtual_coils}: one is out of range")
    return plan


@dataclass(frozen=True)
class _Encoding:
    """How k-space becomes 2-D problems: the readout, where fully sampled, is transformed back and cropped once.

    2-D scans: items are slices, problems (y, x). 3-D scans: items are readout positions, problems (z, y).
    """

    scan: MRIScan
    mask: Tensor
    hybrid: bool
    start: int
    width: int

    @classmethod
    def of(cls, scan: MRIScan, mask: Tensor) -> _Encoding:
        hybrid = mask.shape[-1] == 1
        nx = scan.matrix[-1]
        # Columns decouple when the readout is complete, so cropping first gives the same columns at half the cost.
        width = min(scan.crop[1], nx) if scan.crop is not None and hybrid else nx
        if scan.image_axes == 3 and not hybrid:
            raise NotSupported("3-D k-space with a mask that varies along the readout: reconstruct it with medrecon.solve and a 3-D prior")
        return cls(scan, mask, hybrid, (nx - width) // 2, width)

    @property
    def volumetric(self) -> bool:
        return self.scan.image_axes == 3

    @property
    def n_items(self) -> int:
        return self.width if self.volumetric else self.scan.n_slices

    @property
    def image(self) -> tuple[int, int]:
        """Matrix of one 2-D problem."""
        matrix = self.scan.matrix
        return (matrix[0], matrix[1]) if self.volumetric else (matrix[0], self.width)

    @property
    def sampling(self) -> Tensor:
        """Mask of one 2-D problem."""
        return self.mask[..., 0] if self.volumetric else self.mask

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of a 2-D problem that are still in k-space."""
        return (-2, -1) if self.volumetric or not self.hybrid else (-2,)

    def bytes_per_item(self, n_coils: int, copies: int) -> int:
        """Data, maps in two layouts, calibration, and for every copy its coil images and a few images."""
        one = self.image[0] * self.image[1] * 8
        return one * (6 * n_coils + copies * (2 * n_coils + 12))

    def batches(self, length: int, nan: str, device: torch.device) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, data (item, coil, ...)) in hybrid space, oversampling removed."""
        if self.volumetric:
            if self.scan.n_slices != 1:
                raise NotSupported(f"{self.scan.n_slices} volumes in one scan: pick one (--slices 0:1)")
            whole = self._readout(read_slices(self.scan, 0, 1, nan, torch.device("cpu")))[0].movedim(-1, 0)
            for start in range(0, self.width, length):
                stop = min(self.width, start + length)
                yield start, stop, whole[start:stop].to(device)
            return
        for start in range(0, self.scan.n_slices, length):
            stop = min(self.scan.n_slices, start + length)
            kspace = read_slices(self.scan, start, stop, nan, device)
            yield start, stop, self._readout(kspace) if self.hybrid else kspace

    def _readout(self, kspace: Tensor) -> Tensor:
        return ifft(kspace, (-1,))[..., self.start : self.start + self.width]

    def calibration(self, data: Tensor) -> Tensor:
        """k-space again of hybrid data whose sampled centre lies along y: (item, coil, y, x)."""
        return data if self.axes == (-2, -1) else fft(data, (-1,))

    def shaped(self, data: Tensor, combine: str) -> Tensor:
        """Data in the range of the operator: coils one by one for separate coil images."""
        return data.unsqueeze(-3) if combine == "rss" else data

    def crop(self, image: Tensor) -> Tensor:
        """The shown part of the solved images, as fastMRI cuts it."""
        if self.scan.crop is None or self.volumetric:
            return image
        target = [min(n, m) for n, m in zip(self.scan.crop, image.shape[-2:], strict=True)]
        return fastmri_crop(image, target)

    def arrange(self, image: Tensor) -> Tensor:
        """Items stacked at axis -3 to (..., z, y, x)."""
        return image.movedim(-3, -1) if self.volumetric else image

    def grid(self, start: int, stop: int) -> Any:
        """Where the voxels of items start..stop are."""
        nz, ny, nx = self.scan.grid.shape
        if self.volumetric:
            return self.scan.grid.crop((0, 0, start), (nz, ny, stop - start))
        return self.scan.grid.crop((start, 0, 0), (stop - start, ny, nx))


def _compression(found: Survey, plan: Preparation) -> tuple[Tensor | None, float | None]:
    """The matrix of the whole volume's strongest virtual coils, and the share of energy they keep."""
    if not plan.virtual_coils:
        return None, None
    blocks = whitened_blocks(found)
    if blocks is None:
        raise BadInput("coil compression needs a fully sampled centre of k-space, which this scan lacks: leave virtual_coils out")
    if plan.virtual_coils >= blocks.shape[1]:
        return None, None
    return svd_compression(blocks.movedim(1, 0).flatten(1), plan.virtual_coils)


def _scale(scan: MRIScan, found: Survey, plan: Preparation) -> float:
    """Scan units per prior unit: brightness of the low-resolution image over the prior's kappa for that resolution."""
    blocks = whitened_blocks(found)
    shown = scan.crop or scan.matrix[-2:]
    crop = (*scan.matrix[:-2], *(min(a, b) for a, b in zip(shown, scan.matrix[-2:], strict=True)))
    if blocks is None or min(found.centre) < SMALLEST_CENTRE:
        return _rough_scale(scan, found, plan)
    level = brightness(blocks, scan.matrix, crop)
    if not level > 0:
        raise BadInput("the centre of k-space is zero in every slice: there is no image to reconstruct")
    return level / plan.kappa(min(n for n, m in zip(blocks.shape[2:], scan.matrix, strict=True) if m > 1))


def _rough_scale(scan: MRIScan, found: Survey, plan: Preparation) -> float:
    """Without a sampled centre: the zero-filled root sum of squares, corrected for the share of energy not sampled."""
    axes = tuple(range(-scan.image_axes, 0))
    peaks = []
    for z in range(0, scan.n_slices, max(1, scan.n_slices // 8)):
        kspace = read_slices(scan, z, z + 1, plan.nan, torch.device("cpu"))
        peaks.append(rss(ifft(kspace, axes), -scan.image_axes - 1).flatten())
    level = float(torch.cat(peaks).quantile(0.995)) if sum(map(len, peaks)) < 1 << 24 else float(torch.cat(peaks).max())
    if not level > 0:
        raise BadInput("k-space is zero: there is no image to reconstruct")
    return level / float(found.mask.double().mean()) ** 0.5


def _operator(
    scan: MRIScan,
    data: Tensor,
    encoding: _Encoding,
    plan: Preparation,
    found: Survey,
    compression: Tensor | None,
    start: int,
    stop: int,
) -> tuple[LinearOperator, list[str]]:
    """The encoding operator of one batch and what calibration has to say."""
    if plan.combine == "rss" or data.shape[1] == 1:
        ones = torch.ones(1, *encoding.image, dtype=data.dtype, device=data.device)
        return sense(ones, encoding.sampling.to(data.device), image_axes=2, axes=encoding.axes), []
    warnings: list[str] = []
    if plan.maps is not None:
        maps = _given_maps(plan.maps, encoding, found, compression, data, start, stop)
    else:
        maps, warnings = _calibrated(scan, data, encoding, plan, found, compression, start, stop)
    operator = sense(maps, encoding.sampling.to(data.device), image_axes=2, sets=plan.sets > 1, axes=encoding.axes, exact=plan.exact)
    return operator, warnings


def _calibrated(
    scan: MRIScan, data: Tensor, encoding: _Encoding, plan: Preparation, found: Survey, compression: Tensor | None, start: int, stop: int
) -> tuple[Tensor, list[str]]:
    reference = plan.calib if plan.calib is not None else scan.calib
    arguments: dict[str, Any] = {"kernel": plan.kernel, "threshold": plan.threshold, "crop": plan.map_crop, "sets": plan.sets}
    if reference is not None:
        if encoding.volumetric:
            raise NotSupported("a separate reference scan for 3-D k-space: give coil maps (--set maps=FILE)")
        block = reference[start:stop] if reference.shape[0] > 1 else reference[0:1]
        for matrix in (found.whitener.matrix if found.whitener else None, compression):
            block = block.to(data) if matrix is None else mix_coils(matrix, block.to(data), axis=-3)
        part = ifft(block, (-1,))
        width = max(1, round(block.shape[-1] * encoding.width / scan.matrix[-1]))
        block = fft(centre_crop(part, (block.shape[-2], width)), (-1,)).expand(len(data), *([-1] * 3))
        result = espirit(data, plan.calib_size, calib_kspace=block, **arguments)
    else:
        if min(found.centre) < plan.kernel + 2:
            size = " x ".join(map(str, found.centre))
            raise BadInput(f"calibration: the fully sampled centre measures {size} samples, expected at least {plan.kernel + 2}: {HELP}")
        lines = min(plan.calib_size, found.centre[-2] if not encoding.volumetric else min(found.centre[:2]))
        side = (lines, encoding.image[1]) if encoding.axes == (-2,) else (lines, min(lines, encoding.image[1]))
        block = encoding.calibration(centre_crop(data, side))
        result = espirit(data, plan.calib_size, calib_kspace=block, **arguments)
    return result.maps, list(result.warnings)


def _given_maps(
    maps: Tensor, encoding: _Encoding, found: Survey, compression: Tensor | None, data: Tensor, start: int, stop: int
) -> Tensor:
    ny, nx = encoding.image
    full = encoding.scan.matrix[-1]
    if maps.shape[-2] != ny or maps.shape[-1] not in (nx, full) or maps.ndim < 3:
        raise BadInput(f"coil maps of shape {tuple(maps.shape)}: expected (slice or 1, coil, {ny}, {nx}) like the scan's matrix")
    if maps.shape[-1] != nx:
        maps = maps[..., encoding.start : encoding.start + nx]
    maps = maps if maps.ndim > 3 else maps[None]
    if maps.shape[0] not in (1, encoding.n_items):
        raise BadInput(f"coil maps for {maps.shape[0]} slices, the scan has {encoding.n_items}")
    part = (maps if maps.shape[0] == 1 else maps[start:stop]).to(device=data.device, dtype=data.dtype)
    for matrix in (found.whitener.matrix if found.whitener else None, compression):
        part = part if matrix is None else mix_coils(matrix, part, axis=-3)
    if part.shape[-3] != data.shape[-3]:
        raise BadInput(f"coil maps have {part.shape[-3]} coils, the data {data.shape[-3]}")
    return part


def _display(plan: Preparation) -> Callable[[Tensor], Tensor]:
    if plan.combine == "rss":
        return rss
    return partial(rss, axis=-3) if plan.sets > 1 else lambda image: image


def _facts(scan: MRIScan, found: Survey, plan: Preparation, scale: float, encoding: _Encoding, kept: float | None) -> dict[str, Any]:
    sampled = float(found.mask.double().mean())
    facts: dict[str, Any] = {
        "noise_std": found.noise_std,
        "noise_source": found.noise_source,
        "scale": scale,
        "acceleration": round(1 / sampled, 3),
        "calibration_centre": list(found.centre),
        "coils": scan.n_coils,
        "matrix": list(scan.matrix),
        "shown": list(scan.grid.shape),
        "simulated": scan.simulated,
        "warnings": [*scan.header.get("warnings", ()), *found.warnings],
    }
    if kept is not None:
        facts["virtual_coils"], facts["energy_kept"] = plan.virtual_coils, round(kept, 5)
    return facts


def description(scan: MRIScan) -> dict[str, Any]:
    """What `medrecon info` says of a scan, from its header and mask alone."""
    axes = ("volume" if scan.image_axes == 3 else "slice", "coil", "z", "y", "x")
    names = axes if scan.image_axes == 3 else (axes[0], axes[1], axes[3], axes[4])
    facts: dict[str, Any] = {
        "modality": "MRI raw data",
        "kspace": dict(zip(names, map(int, scan.kspace.shape), strict=True)),
        "image": dict(zip(("z", "y", "x"), scan.grid.shape, strict=True)),
        "spacing_mm": dict(zip(("z", "y", "x"), (round(s, 4) for s in scan.grid.spacing), strict=True)),
        "orientation": scan.grid.axis_codes if scan.grid.orientation == "known" else "unknown",
        "noise_scan": None if scan.noise is None else f"{scan.noise.samples.shape[1]} samples per coil",
        "reference_scan": scan.calib is not None,
        "simulated": scan.simulated,
    }
    if scan.mask is not None:
        from medrecon.physics.mri.calibration import calibration_size

        share = float(scan.mask.double().mean())
        facts["acceleration"] = round(1 / share, 3) if share else None
        facts["sampled_centre"] = dict(zip(names[2:], calibration_size(scan.mask, [64] * scan.image_axes), strict=True))
    facts["header"] = _plain(scan.header)
    return facts


def _plain(header: Mapping[str, Any]) -> dict[str, Any]:
    simple = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, simple) else [str(i) for i in v] if isinstance(v, (list, tuple)) else str(v) for k, v in header.items()}
