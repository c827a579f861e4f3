"""The image of a CT scan: its grid in the patient and its pixels in the scanner's frame; and the scan in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.scan import CTScan
from medrecon.volume import Grid


def resized(grid: Grid, matrix: int | None, pixel: float | None) -> Grid:
    """The grid with `matrix` pixels a side of `pixel` mm, about the same centre; None: as they are, or to keep the field of view."""
    if matrix is None and pixel is None:
        return grid
    nz, ny, nx = grid.shape
    _, dy, dx = grid.spacing
    shape = (nz, ny, nx) if matrix is None else (nz, matrix, matrix)
    if pixel is None:
        factor = (ny / shape[1], nx / shape[2])  # the same field of view
    else:
        factor = (pixel / dy, pixel / dx)
    affine = grid.affine.copy()
    affine[:3, 0] *= factor[1]
    affine[:3, 1] *= factor[0]
    old = grid.affine @ [(nx - 1) / 2, (ny - 1) / 2, 0, 1]
    new = affine @ [(shape[2] - 1) / 2, (shape[1] - 1) / 2, 0, 1]
    affine[:3, 3] += (old - new)[:3]
    return replace(grid, shape=shape, affine=affine)


def pixels_of(grid: Grid, scan: CTScan) -> Pixels:
    """The image in the scanner's frame: centred on the axis, along z on the scan's height or the middle of the source's way."""
    if scan.image_axes == 2:
        return Pixels(grid.shape[1:], grid.spacing[1:])
    if scan.height is not None:
        return Pixels(grid.shape, grid.spacing, (scan.height, 0.0, 0.0))
    heights = scan.geometry.vectors()[:, 2] if scan.geometry.kind == "cone3d" else np.zeros(1)
    return Pixels(grid.shape, grid.spacing, (float(heights.max() + heights.min()) / 2, 0.0, 0.0))


def description(scan: CTScan) -> dict[str, Any]:
    """What `medrecon info` says of a scan, from its header and geometry alone."""
    names = ("slice", "view", "bin") if scan.image_axes == 2 else ("volume", "view", "row", "bin")
    geometry = scan.geometry
    facts: dict[str, Any] = {
        "modality": "emission tomography raw data" if scan.stored == "emission" else "CT raw data",
        "projections": dict(zip(names, map(int, scan.projections.shape), strict=True)),
        "stored": scan.stored,
        "geometry": type(geometry).__name__,
        "lengths": "mm" if scan.sized else "bins (size unknown)",
        "field_of_view": round(2 * geometry.fov_radius(), 3),
        "image": dict(zip(("z", "y", "x"), scan.grid.shape, strict=True)),
        "spacing_mm": dict(zip(("z", "y", "x"), (round(s, 4) for s in scan.grid.spacing), strict=True)),
        "orientation": scan.grid.axis_codes if scan.grid.orientation == "known" else "unknown",
        "flat_fields": None if scan.flat is None else int(scan.flat.shape[1]),
        "simulated": scan.simulated,
    }
    for name in ("bin_spacing", "row_spacing", "dso", "dsd", "detector", "offset", "feed"):
        if hasattr(geometry, name):
            facts[name] = getattr(geometry, name)
    if hasattr(geometry, "angles"):
        angles = geometry.angles
        facts["angles_deg"] = {"first": round(float(np.rad2deg(angles[0])), 4), "last": round(float(np.rad2deg(angles[-1])), 4)}
    simple = (str, int, float, bool, type(None))
    facts["header"] = {k: v if isinstance(v, simple) else str(v) for k, v in scan.header.items()}
    return facts
