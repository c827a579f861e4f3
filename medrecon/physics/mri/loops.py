"""Synthetic receive coils: current loops on an elliptic cylinder around the object, fields by Biot-Savart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

SEGMENTS = 32
COARSE = 33
"""Fields are smooth: they are computed on COARSE x COARSE points of a slice and interpolated."""


@dataclass(frozen=True)
class LoopArray:
    """Loops as short straight wires in mm about the centre of the object, coordinates (x, y, z); z is the slice axis.

    `wires` and `steps` are (coil, segment, 3): middle and vector of each wire.
    """

    wires: Tensor
    steps: Tensor

    @property
    def n_coils(self) -> int:
        """How many loops there are."""
        return len(self.wires)

    def maps(self, z: float, y: Tensor, x: Tensor) -> Tensor:
        """Complex64 (coil, ny, nx) in the plane `z` at rows `y` and columns `x` (mm), root sum of squares 1 everywhere.

        A loop receives Bx - i By of the field that a unit current in it makes (reciprocity, Hoult and Richards 1976).
        """
        rows = torch.linspace(float(y[0]), float(y[-1]), COARSE, dtype=torch.float64)
        columns = torch.linspace(float(x[0]), float(x[-1]), COARSE, dtype=torch.float64)
        field = self._field(z, rows, columns)
        parts = torch.stack([field.real, -field.imag], 1).float()
        fine = functional.interpolate(parts, (len(y), len(x)), mode="bicubic", align_corners=True)
        maps = torch.complex(fine[:, 0], fine[:, 1])
        return maps / maps.abs().square().sum(0).sqrt()

    def _field(self, z: float, y: Tensor, x: Tensor) -> Tensor:
        """Bx + i By (coil, y, x), in arbitrary units: sum of dl x r / |r|^3 over the wires."""
        rx = x - self.wires[:, :, 0, None, None]
        ry = y[:, None] - self.wires[:, :, 1, None, None]
        rz = z - self.wires[:, :, 2, None, None]
        lx, ly, lz = (self.steps[:, :, i, None, None] for i in range(3))
        cube = (rx.square() + ry.square() + rz.square()).pow(-1.5)
        return torch.complex(((ly * rz - lz * ry) * cube).sum(1), ((lz * rx - lx * rz) * cube).sum(1))


def loop_array(coils: int, extent: tuple[float, float, float]) -> LoopArray:
    """Loops around an object of `extent` (z, y, x) mm: one ring of up to 8, else two staggered rings.

    Neighbours in a ring overlap a little, as in a head coil.
    """
    size_z, size_y, size_x = extent
    rings = 1 if coils <= 8 else 2
    per_ring = math.ceil(coils / rings)
    half_x, half_y = 0.75 * size_x, 0.75 * size_y  # no wire in the corners of the field of view
    radius = min(0.6 * math.pi * (half_x + half_y) / per_ring, 0.45 * min(size_x, size_y))
    angles = torch.arange(SEGMENTS, dtype=torch.float64) * (2 * math.pi / SEGMENTS)
    corners = []
    for coil in range(coils):
        ring, place = coil % rings, coil // rings
        turn = 2 * math.pi * (place + 0.5 * ring) / per_ring
        middle = torch.tensor([half_x * math.cos(turn), half_y * math.sin(turn), (ring - (rings - 1) / 2) * max(size_z / 2, radius)])
        along = torch.tensor([-half_x * math.sin(turn), half_y * math.cos(turn), 0.0])
        along = along / along.norm()
        up = torch.tensor([0.0, 0.0, 1.0])
        corners.append(middle + radius * (angles.cos()[:, None] * along + angles.sin()[:, None] * up))
    points = torch.stack(corners).double()
    following = points.roll(-1, dims=1)
    return LoopArray((points + following) / 2, following - points)
