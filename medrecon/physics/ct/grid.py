"""Pixels of an image in the scanner's frame, and what a projector's implementation is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from medrecon.errors import BadInput


@dataclass(frozen=True)
class Pixels:
    """`shape` (ny, nx) or (nz, ny, nx), `spacing` mm and `centre` mm in the same order: x to the right, rows from the largest y down,
    z grows with its index.

    Pixel (k, i, j) has its centre at x = centre_x + (j - (nx - 1) / 2) dx, y = centre_y + ((ny - 1) / 2 - i) dy,
    z = centre_z + (k - (nz - 1) / 2) dz.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    centre: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        shape, spacing = tuple(int(n) for n in self.shape), tuple(float(s) for s in self.spacing)
        centre = tuple(float(c) for c in self.centre) or (0.0,) * len(shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise BadInput(f"shape {self.shape}: expected (ny, nx) or (nz, ny, nx) of positive sizes")
        if len(spacing) != len(shape) or not all(0 < s < 1e4 for s in spacing):
            raise BadInput(f"spacing {self.spacing}: expected {len(shape)} positive numbers of millimetres, for {shape}")
        if len(centre) != len(shape) or not np.isfinite(centre).all():
            raise BadInput(f"centre {self.centre}: expected {len(shape)} finite numbers of millimetres")
        for name, value in (("shape", shape), ("spacing", spacing), ("centre", centre)):
            object.__setattr__(self, name, value)

    @property
    def radius(self) -> float:
        """mm from the axis (x = y = 0) to the farthest corner."""
        extent = [abs(c) + n * s / 2 for n, s, c in zip(self.shape, self.spacing, self.centre, strict=True)]
        return float(np.hypot(extent[-1], extent[-2]))


class Projector(Protocol):
    """One way to compute a projection and its transpose: made of (geometry, pixels), same dtype and device in and out."""

    def forward(self, image: Tensor) -> Tensor:
        """(batch, *image) to (batch, *projections), real."""

    def adjoint(self, projections: Tensor) -> Tensor:
        """(batch, *projections) to (batch, *image), the transpose."""
