"""From an MRI scan to inverse problems: whiten, remove oversampling, compress, calibrate, scale; streamed by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from medrecon.compute import chunk_length, memory_budget
from medrecon.errors import BadInput, nearest
from medrecon.linop.fourier import ifft
from medrecon.linop.operator import Scaled
from medrecon.physics.mri.calibration import calibration_size
from medrecon.physics.mri.coils import rss, svd_compression
from medrecon.physics.mri.encoding import Batch, Encoding, item_bytes
from medrecon.physics.mri.espirit import Espirit
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.sense import Sense, sense
from medrecon.physics.mri.sensitivity import Calibration, from_centre, from_reference, given, in_scan_units, mixed
from medrecon.physics.mri.survey import Survey, brightness, read_slices, survey, whitened_blocks
from medrecon.physics.scan import Problem, SliceArray
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import bright_level

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
    encoding = Encoding.of(scan, found.mask)
    compression, kept = _compression(found, plan)
    matrices = tuple(m for m in (found.whitener.matrix if found.whitener else None, compression) if m is not None)
    scale = _scale(scan, found, plan)
    facts = _facts(scan, found, plan, scale, kept)
    level = found.noise_std or 1.0
    limit = memory_budget(device) if budget is None else budget
    length = chunk_length(item_bytes(encoding.image, scan.n_coils, plan.copies, plan.combine), limit, encoding.n_items)
    for batch in encoding.batches(length, plan.nan, device):
        batch = replace(batch, data=mixed(matrices, batch.data))
        operator, warnings = _operator(batch, encoding, plan, found, matrices)
        data = batch.data.unsqueeze(-3) if plan.combine == "rss" else batch.data
        yield Problem(
            likelihood=Gaussian(Scaled(operator, scale / level), data / level, noisy=found.noise_std > 0),
            grid=encoding.grid(batch.start, batch.stop),
            scale=scale,
            noise_std=found.noise_std,
            slices=range(batch.start, batch.stop),
            facts={**facts, "warnings": [*facts["warnings"], *warnings]},
            display=_display(plan, operator),
            crop=encoding.crop,
            arrange=encoding.arrange,
            study=scan.study,
            gain=scale / level,
        )


KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("calib_size", "kernel", "sets", "virtual_coils"), (int, "a whole number")),
    **dict.fromkeys(("noise_std", "threshold", "map_crop"), ((int, float), "a number")),
    **dict.fromkeys(("whiten", "exact"), (bool, "true or false")),
}
"""What a setting may be; they come from people's keyboards."""


def _checked(plan: Preparation) -> Preparation:
    for name, (kind, words) in KINDS.items():
        value = getattr(plan, name)
        if not (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))) and not (name == "noise_std" and value is None):
            raise BadInput(f"{name} = {value!r}: expected {words}")
    if plan.nan not in ("error", "zero"):
        raise BadInput(f"nan = {plan.nan!r}: expected error or zero")
    if plan.combine not in ("maps", "rss"):
        raise BadInput(f"combine = {plan.combine!r}: expected maps or rss")
    if plan.combine == "rss" and plan.virtual_coils:
        raise BadInput("coil compression changes a root sum of squares: leave virtual_coils out")
    if plan.sets < 1 or plan.calib_size < SMALLEST_CENTRE or plan.virtual_coils < 0:
        raise BadInput(f"sets {plan.sets}, calib_size {plan.calib_size}, virtual_coils {plan.virtual_coils}: one is out of range")
    return plan


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
    blocks = found.blocks  # as received: whitening dims what all coils share
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
        kspace, _ = read_slices(scan, found.mask, z, z + 1, plan.nan)
        peaks.append(rss(ifft(kspace, axes), -scan.image_axes - 1).flatten())
    level = float(bright_level(torch.cat(peaks)))
    if not level > 0:
        raise BadInput("k-space is zero: there is no image to reconstruct")
    return level / float(found.mask.double().mean()) ** 0.5


def _operator(batch: Batch, encoding: Encoding, plan: Preparation, found: Survey, matrices: tuple[Tensor, ...]) -> tuple[Sense, list[str]]:
    """The encoding operator of one batch and what calibration has to say."""
    if plan.combine == "rss" or (batch.data.shape[1] == 1 and plan.maps is None):
        ones = torch.ones(1, *encoding.image, dtype=batch.data.dtype, device=batch.data.device)
        # separate coil images have the coil as a batch axis, behind that of slices
        sampling = batch.sampling.unsqueeze(1) if plan.combine == "rss" and batch.sampling.ndim > 2 else batch.sampling
        return sense(ones, sampling, image_axes=2, axes=encoding.axes), []
    warnings: list[str] = []
    if plan.maps is not None:
        maps = given(plan.maps, batch, encoding, matrices, sets=plan.sets)
    else:
        result = _calibrated(batch, encoding, plan, found, matrices)
        maps, warnings = in_scan_units(matrices, result.maps), [*result.warnings, *_unmapped(result.maps, batch.data)]
    return sense(maps, batch.sampling, image_axes=2, sets=plan.sets > 1, axes=encoding.axes, exact=plan.exact), warnings


def _unmapped(maps: Tensor, data: Tensor) -> list[str]:
    """A warning about slices with data but without maps, whose image will be zero."""
    lacking = int(((data != 0).flatten(1).any(1) & ~(maps != 0).flatten(1).any(1)).sum())
    if not lacking:
        return []
    return [
        f"calibration found no coil maps for {lacking} of {len(data)} slices, their image is zero: use a larger centre or lower map_crop"
    ]


def _calibrated(batch: Batch, encoding: Encoding, plan: Preparation, found: Survey, matrices: tuple[Tensor, ...]) -> Espirit:
    reference = plan.calib if plan.calib is not None else encoding.scan.calib
    calibration = Calibration(plan.calib_size, plan.kernel, plan.threshold, plan.map_crop, plan.sets)
    if reference is None:
        return from_centre(batch, encoding, calibration, found.centre)
    return from_reference(batch, encoding, calibration, reference, matrices)


def _display(plan: Preparation, operator: Sense) -> Callable[[Tensor], Tensor]:
    """Images of what was solved, empty where no coil sees anything: a prior would fill that with its own invention."""
    if plan.combine == "rss":
        return rss
    support = operator.support

    def display(image: Tensor) -> Tensor:
        seen = torch.where(support, image, torch.zeros((), dtype=image.dtype, device=image.device))
        return rss(seen, axis=-3) if plan.sets > 1 else seen

    return display


def _facts(scan: MRIScan, found: Survey, plan: Preparation, scale: float, kept: float | None) -> dict[str, Any]:
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
        share = float(scan.mask.double().mean())
        facts["acceleration"] = round(1 / share, 3) if share else None
        facts["sampled_centre"] = dict(zip(names[2:], calibration_size(scan.mask, [64] * scan.image_axes), strict=True))
    facts["header"] = _plain(scan.header)
    return facts


def _plain(header: Mapping[str, Any]) -> dict[str, Any]:
    simple = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, simple) else [str(i) for i in v] if isinstance(v, (list, tuple)) else str(v) for k, v in header.items()}
