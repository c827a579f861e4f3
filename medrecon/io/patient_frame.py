"""The one place where patient axes turn: voxel indices to RAS+ mm here, planes in LPS mm in DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrecon.volume import LPS_TO_RAS, Grid

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Planes:
    """Slices as DICOM says them, in LPS mm.

    `row`, `column`: unit directions of increasing column index (x) and row index (y), together
    ImageOrientationPatient. `spacing`: PixelSpacing, (between rows dy, between columns dx). `step`: from one slice
    to the next. `positions`: (n, 3), centres of the voxels (x=0, y=0).
    """

    row: Vector
    column: Vector
    spacing: tuple[float, float]
    step: Vector
    positions: Vector

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane, row x column."""
        return np.cross(self.row, self.column)


def turned(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A RAS affine in LPS, or an LPS affine in RAS: the turn is its own inverse."""
    return LPS_TO_RAS @ affine


def planes_of(grid: Grid) -> Planes:
    """The slices of a grid in LPS. Of an unknown orientation only the spacing is meant: axial, rows along +L, columns along +P."""
    depth = grid.shape[0]
    _, dy, dx = grid.spacing
    lps = turned(grid.affine) if grid.orientation == "known" else Grid.unplaced(grid.shape, grid.spacing).affine
    positions = np.array([(lps @ [0.0, 0.0, k, 1.0])[:3] for k in range(depth)])
    return Planes(lps[:3, 0] / dx, lps[:3, 1] / dy, (dy, dx), lps[:3, 2], positions)


def affine_of(planes: Planes) -> NDArray[np.float64]:
    """The RAS affine of (x, y, z) voxel indices; a tilted gantry stays a shear."""
    dy, dx = planes.spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = planes.row * dx, planes.column * dy, planes.step
    affine[:3, 3] = planes.positions[0]
    return turned(affine)


def shear_gap(affine: NDArray[np.float64], shape: Sequence[int]) -> float:
    """Largest distance in mm that a corner of the (z, y, x) block moves when its axes are made orthogonal."""
    steps = affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    left, _, right = np.linalg.svd(steps / lengths)
    depth, height, width = shape
    moved = np.abs(steps - (left @ right) * lengths)
    return float(np.linalg.norm(moved @ [width - 1, height - 1, depth - 1]))
