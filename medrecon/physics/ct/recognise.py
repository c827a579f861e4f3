"""Vectors that are those of a turning scanner, as its geometry."""

from __future__ import annotations

from typing import Any

import numpy as np

from medrecon.errors import BadInput
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry

EXACT = 1e-6
"""mm, beside the length of the vectors' numbers: how near a turning scanner must come."""


def recognised(geometry: VectorGeometry) -> Geometry | None:
    """The parallel beam, fan, cone or helix about the z axis that has these vectors, without tilt; None where there is none."""
    if geometry.focus() is not None:
        return None
    try:
        found = (_parallel if geometry.parallel else _diverging)(geometry)
    except BadInput:
        return None
    vectors = geometry.vectors()
    if not np.allclose(found.vectors(), _scaled(geometry, vectors), rtol=0, atol=EXACT):
        return None
    return found


def _scaled(geometry: VectorGeometry, vectors: Array) -> Array:
    """Parallel rays of unit direction, as a turning scanner gives them, the detector's centre moved along them to the axis."""
    if not geometry.parallel:
        return vectors
    size = geometry.dimensions
    ray, centre, rest = vectors[:, :size], vectors[:, size : 2 * size], vectors[:, 2 * size :]
    ray = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    centre = centre - (ray * centre).sum(1, keepdims=True) * ray
    # A line has two directions; that of the first column tells which is ours.
    u = vectors[:, 2 * size : 2 * size + 2]
    forward = np.sign(ray[:, 0] * u[:, 1] - ray[:, 1] * u[:, 0])[:, None]
    return np.concatenate([ray * forward, centre, rest], 1)


def _parallel(geometry: VectorGeometry) -> Geometry:
    vectors, size = geometry.vectors(), geometry.dimensions
    u, centre = vectors[:, 2 * size : 2 * size + 2], vectors[:, size : 2 * size]
    spacing = float(np.median(np.linalg.norm(u, axis=1)))
    angles = np.arctan2(u[:, 1], u[:, 0])
    offset = float(np.median((centre[:, :2] * u).sum(1) / spacing))
    if size == 2:
        return ParallelBeam2D(angles=angles, n_bins=geometry.n_bins, bin_spacing=spacing, offset=offset)
    return ParallelBeam3D(
        angles=angles,
        n_bins=geometry.n_bins,
        bin_spacing=spacing,
        offset=offset,
        n_rows=geometry.rows or 1,
        row_spacing=float(np.median(vectors[:, -1])),
        row_offset=float(np.median(centre[:, 2])),
    )


def _diverging(geometry: VectorGeometry) -> Geometry:
    vectors, size = geometry.vectors(), geometry.dimensions
    source, centre, u = (vectors[:, i * size : i * size + 2] for i in range(3))
    spacing = float(np.median(np.linalg.norm(u, axis=1)))
    if geometry.curved:
        # The columns' direction turns with the offset on a curved detector, so the source tells the angle, without a shift.
        angles = np.arctan2(source[:, 0], -source[:, 1])
    else:
        angles = np.arctan2(u[:, 1], u[:, 0])
    towards, along = np.stack([np.sin(angles), -np.cos(angles)], 1), np.stack([np.cos(angles), np.sin(angles)], 1)
    out = centre - source
    ahead, aside = float(np.median(-(out * towards).sum(1))), float(np.median((out * along).sum(1)))
    dsd = float(np.hypot(ahead, aside)) if geometry.curved else ahead
    common: dict[str, Any] = {
        "angles": angles,
        "n_bins": geometry.n_bins,
        "bin_spacing": spacing,
        "offset": float(np.arctan2(aside, ahead)) * dsd if geometry.curved else aside,
        "dso": float(np.median((source * towards).sum(1))),
        "dsd": dsd,
        "detector": "curved" if geometry.curved else "flat",
        "axis_shift": 0.0 if geometry.curved else float(np.median((source * along).sum(1))),
    }
    if size == 2:
        return FanBeam2D(**common)
    heights = vectors[:, 2]
    common |= {
        "n_rows": geometry.rows or 1,
        "row_spacing": float(np.median(vectors[:, -1])),
        "row_offset": float(np.median(vectors[:, 5] - heights)),
        "z": float(heights[0]),
    }
    if np.ptp(heights) > EXACT:
        angles = np.unwrap(angles)
        slope = float(np.polyfit(angles - angles[0], heights, 1)[0])
        return HelicalCone(**{**common, "angles": angles}, feed=2 * np.pi * slope)
    return ConeBeam(**common)
