"""Pixel-driven backprojection of filtered rows with linear interpolation; for analytic reconstruction, not the transpose of a projector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.geometry import Array
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.rays import projections

Turning = ParallelBeam2D | FanBeam2D | ParallelBeam3D | ConeBeam
"""Geometries whose detector is not tilted: a column depends on (x, y) alone."""

SLACK = 1e-6
"""Bins by which rounding may put a place beyond the first or last bin, which then still counts."""

CHUNK = 1 << 22
"""Samples at once on devices that have no kernel of their own."""

PARALLEL, FLAT, CURVED = 0, 1, 2


@dataclass(frozen=True)
class Shadow:
    """Where points fall on the detector, view by view, float64.

    Parallel: column = `across` . (x, y, 1). Otherwise across and `depth` . (x, y, 1) are mm from the source sideways and towards the
    detector, the ratio (or its angle) times `scale`, plus `middle`, is the column, and a sample counts 1 / distance^2: depth on a flat
    detector, in-plane distance on a curved one. Row = (z_source + (z - z_source) dsd / distance - z_centre) / row spacing + middle row,
    `source_z` and `first_row` (z of row 0) in mm.
    """

    kind: int
    across: Array
    depth: Array
    scale: float
    middle: float
    dsd: float = 1.0
    row_spacing: float = 1.0
    source_z: Array | None = None
    first_row: Array | None = None


def in_plane(geometry: Turning) -> ParallelBeam2D | FanBeam2D:
    """The geometry of the plane of rotation."""
    if isinstance(geometry, ParallelBeam3D):
        return geometry.slices()
    if isinstance(geometry, ConeBeam):
        return FanBeam2D(
            angles=geometry.angles,
            n_bins=geometry.n_bins,
            bin_spacing=geometry.bin_spacing,
            offset=geometry.offset,
            dso=geometry.dso,
            dsd=geometry.dsd,
            detector=geometry.detector,
            axis_shift=geometry.axis_shift,
        )
    return geometry


def shadow(geometry: Turning) -> Shadow:
    """The `Shadow` of a geometry."""
    plane = in_plane(geometry)
    across, depth = projections(plane)
    middle = (plane.n_bins - 1) / 2
    if isinstance(plane, ParallelBeam2D):
        kind, scale, dsd, middle = PARALLEL, 1.0, 1.0, 0.0
    elif plane.curved:
        kind, scale, dsd = CURVED, plane.dsd / plane.bin_spacing, plane.dsd
    else:
        # Both come multiplied by the step between bins; the column holds the middle already.
        kind, scale, dsd = FLAT, 1.0, plane.dsd
        across, depth, middle = across / plane.bin_spacing, depth / plane.bin_spacing, 0.0
    if isinstance(geometry, ParallelBeam3D | ConeBeam):
        heights = geometry.heights() if isinstance(geometry, ConeBeam) else np.zeros(geometry.n_views)
        first = heights + geometry.row_offset - (geometry.n_rows - 1) / 2 * geometry.row_spacing
        return Shadow(kind, across, depth, scale, middle, dsd, geometry.row_spacing, heights, first)
    return Shadow(kind, across, depth, scale, middle, dsd)


def centres(pixels: Pixels) -> tuple[Array, ...]:
    """Coordinates of the pixels' centres, mm: (ny,) y and (nx,) x, in three dimensions (nz,) z before them."""
    steps: list[Array] = [s * (np.arange(n, dtype=np.float64) - (n - 1) / 2) for n, s in zip(pixels.shape, pixels.spacing, strict=True)]
    steps[-2] = -steps[-2]
    return tuple(c + step for c, step in zip(pixels.centre, steps, strict=True))


def backprojected(rows: Tensor, geometry: Turning, pixels: Pixels) -> Tensor:
    """(batch, *pixels): sum over views of filtered `rows` (batch, view, [row,] bin), real, interpolated where each pixel falls.

    Fans and cones: each sample over the squared distance from the source, mm (see `Shadow`). Pixels beyond the detector get nothing from
    a view. Rows of the detector reach half a row beyond their centres.
    """
    if rows.device.type == "cpu" and not (rows.requires_grad and torch.is_grad_enabled()):
        from medrecon.physics.ct.backproject_cpu import backprojected_cpu

        return backprojected_cpu(rows, shadow(geometry), centres(pixels))
    return backprojected_torch(rows, shadow(geometry), centres(pixels))


def backprojected_torch(rows: Tensor, where: Shadow, places: tuple[Array, ...]) -> Tensor:
    """As `backprojected`, by torch alone: any device, differentiable; views in chunks."""
    *z_places, y_places, x_places = places
    exact = torch.float64 if rows.device.type != "mps" else torch.float32
    x, y = (torch.as_tensor(a, dtype=exact, device=rows.device) for a in (x_places, y_places[:, None]))
    n_views, n_bins = rows.shape[1], rows.shape[-1]
    image = rows.new_zeros(rows.shape[0], *(len(a) for a in places))
    step = max(1, CHUNK // (image[0].numel() * rows.shape[0]))
    for start in range(0, n_views, step):
        views = slice(start, start + step)
        across, depth = (torch.as_tensor(a[views], dtype=exact, device=rows.device)[:, :, None, None] for a in (where.across, where.depth))
        column, distance = _column(where, _affine(across, x, y), _affine(depth, x, y))
        weight = torch.where((column >= -SLACK) & (column <= n_bins - 1 + SLACK), 1 / distance**2, torch.zeros_like(column)).to(rows.dtype)
        if not z_places:
            image = image + _interpolated(rows[:, views], column, weight)
            continue
        assert where.source_z is not None
        assert where.first_row is not None
        source, first = (
            torch.as_tensor(a[views], dtype=exact, device=rows.device)[:, None, None] for a in (where.source_z, where.first_row)
        )
        planes = []
        for z in z_places[0]:
            row = (source + (float(z) - source) * where.dsd / distance - first) / where.row_spacing
            planes.append(_bilinear(rows[:, views], row, column, weight))
        image = image + torch.stack(planes, 1)
    return image


def _affine(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return coefficients[:, 0] * x + coefficients[:, 1] * y + coefficients[:, 2]


def _column(where: Shadow, across: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Detector column and the distance that magnifies, (view, ny, nx)."""
    if where.kind == PARALLEL:
        return across, torch.ones_like(across)
    if where.kind == FLAT:
        return across / depth, depth
    return torch.atan2(across, depth) * where.scale + where.middle, torch.hypot(across, depth)


def _parts(place: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sample before a place within [0, n - 1], and the part of the way to the next."""
    before = place.clamp(0, n - 1).floor().clamp(max=max(n - 2, 0))
    return before.long(), (place.clamp(0, n - 1) - before).to(dtype)


def _interpolated(rows: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    """(batch, ny, nx): the chunk's views summed."""
    before, part = _parts(column, rows.shape[-1], rows.dtype)
    return (weight * _between(rows, before, (before + 1).clamp(max=rows.shape[-1] - 1), part)).sum(1)


def _bilinear(rows: Tensor, row: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    """(batch, ny, nx) of one plane, from rows (batch, view, row, bin)."""
    n_rows, n_bins = rows.shape[-2:]
    weight = torch.where((row >= -0.5) & (row <= n_rows - 0.5), weight, torch.zeros_like(weight))
    above, down = _parts(row, n_rows, rows.dtype)
    before, part = _parts(column, n_bins, rows.dtype)
    after, samples = (before + 1).clamp(max=n_bins - 1), rows.flatten(2)
    upper, lower = (_between(samples, r * n_bins + before, r * n_bins + after, part) for r in (above, (above + 1).clamp(max=n_rows - 1)))
    return (weight * (upper + down * (lower - upper))).sum(1)


def _between(samples: Tensor, first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    """(batch, view, ny, nx) of samples (batch, view, n) at indices (view, ny, nx)."""
    low, high = (samples.gather(2, i.flatten(1).expand(samples.shape[0], -1, -1)).unflatten(2, part.shape[1:]) for i in (first, second))
    return low + part * (high - low)
