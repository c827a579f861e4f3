"""Rays as straight lines through the indices of an image, the numbers that both directions of Joseph's method share; float64.

Joseph, IEEE Trans. Med. Imaging 1 (1982) 192: along the axis whose pixels a ray crosses most often it is sampled once a pixel,
interpolated linearly in the other axes, and weighted by the length from one sample to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.rays import rays


def lines(geometry: Geometry, pixels: Pixels, views: slice = slice(None)) -> tuple[NDArray[np.int8], Array]:
    """The axis that every ray marches along, an index into the image's shape: (view, [row,] bin); and its line, (..., 3 or 5).

    A line is (slope, intercept) for each other axis, in the image's order, and the step in mm: where the ray meets index c of its
    axis, its index on another is slope c + intercept. No slope is steeper than 1, whatever the spacing.
    """
    points, directions = (a[..., ::-1] for a in rays(geometry, views))
    spacing, sizes = np.array(pixels.spacing), np.array(pixels.shape)
    spacing[-2] = -spacing[-2]
    points = (points - pixels.centre) / spacing + (sizes - 1) / 2
    directions = directions / spacing
    last = len(sizes) - 1
    # Of two equal axes the later one: x before y before z.
    axis = last - np.argmax(np.abs(directions[..., ::-1]), axis=-1)
    others = np.array([[a for a in range(last + 1) if a != lead] for lead in range(last + 1)])[axis]
    lead = np.take_along_axis(directions, axis[..., None], -1)
    slopes = np.take_along_axis(directions, others, -1) / lead
    intercepts = np.take_along_axis(points, others, -1) - slopes * np.take_along_axis(points, axis[..., None], -1)
    table = np.concatenate([np.stack([slopes, intercepts], -1).reshape(*axis.shape, -1), 1 / np.abs(lead)], -1)
    return axis.astype(np.int8), table


@dataclass(frozen=True)
class Columns:
    """Lines of a detector whose rows step along z alone: those of a column share one line in the plane.

    `axis` (view, bin): 1 (y) or 2 (x). `table` (view, bin, 7): slope and intercept in the plane; slope and intercept in z of row 0
    and what each further row adds to both; the square of the step's length in the plane, mm^2.
    """

    axis: NDArray[np.int8]
    table: Array


def columns(geometry: Geometry, pixels: Pixels) -> Columns | None:
    """The columns of a three-dimensional geometry; None where rows do not step along z, or a ray climbs steeply."""
    vectors, rows = geometry.vectors(), geometry.rows or 1
    step = vectors[:, 9:12]
    if (np.abs(step[:, :2]).max(axis=1) > 1e-12 * np.abs(step[:, 2])).any():
        return None
    # In a column the height is linear in the row: the first and the last row say everything.
    ends = vectors.copy()
    ends[:, 9:12] *= rows - 1
    outer = VectorGeometry(
        kind_of=geometry.kind,
        rows_of_vectors=ends,
        n_bins=geometry.n_bins,
        n_rows=2,
        curved_detector=geometry.curved,
        foci=geometry.focus(),
    )
    axis, table = lines(outer, pixels)
    if (axis == 0).any():
        return None
    first, gain = table[:, 0], (table[:, 1] - table[:, 0]) / max(rows - 1, 1)
    plane = first[..., 4] ** 2 - (pixels.spacing[0] * first[..., 0]) ** 2
    found = [first[..., 2], first[..., 3], first[..., 0], first[..., 1], gain[..., 0], gain[..., 1], plane]
    return Columns(np.ascontiguousarray(axis[:, 0]), np.ascontiguousarray(np.stack(found, -1)))
