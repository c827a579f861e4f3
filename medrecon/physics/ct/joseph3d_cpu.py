"""Joseph's projector in three dimensions on the CPU, bilinear across the ray, and its exact transpose.

Where rows of the detector step along z, as on scanners they do, the rays of a column share one line in the plane: at each step two
lines of z are interpolated to one, which all rows then read. Other detectors are taken ray by ray.
The transpose owns bands of y instead of rays and adds only what falls on them: no private volumes, no atomics, and the same numbers
whatever the number of threads. Memory: one copy of the volumes, and `BUDGET`, since views are taken in turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct import joseph3d_kernels as kernels
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.lines import Columns, columns, lines
from medrecon.physics.ct.workers import pieces, shared_out

BUDGET = 1 << 28
"""Bytes of rays, lines and projections in the making."""

LINE_BYTES = 512
"""That a ray takes in float64 while its line is computed."""

BAND = 8
"""Rows of y that fit a fast cache, with all their x and z."""


class Joseph3D:
    """The projector of any geometry in space; float32 and float64, others are computed in float32."""

    def __init__(self, geometry: Geometry, pixels: Pixels) -> None:
        if geometry.dimensions != 3 or len(pixels.shape) != 3:
            raise BadInput(f"expected a geometry in space and a volume, got {geometry.kind} and pixels {pixels.shape}")
        self.geometry, self.pixels = geometry, pixels

    @cached_property
    def _columns(self) -> Columns | None:
        return columns(self.geometry, self.pixels)

    def forward(self, image: Tensor) -> Tensor:
        volumes = self._volumes(len(image), image.dtype)
        _inside(volumes).copy_(image.detach().permute(0, 2, 3, 1))
        found = torch.empty(len(image), *self.geometry.shape, dtype=volumes.dtype)
        for views in self._turns(volumes.element_size()):
            if self._columns is not None:
                axis, table = _of(self._columns, views)
                for volume, into in zip(volumes, found[:, views], strict=True):
                    rays = torch.zeros(len(axis), into.shape[1], dtype=into.dtype)
                    self._shared(kernels.project_columns, (volume.numpy(), axis, table, rays.numpy()), len(axis), 64)
                    kernels.weigh_columns(rays.numpy(), table, self.pixels.spacing[0], 0, len(axis))
                    into.copy_(rays.view(len(into), -1, into.shape[1]).transpose(1, 2))
            else:
                axis, table = self._lines(views)
                for volume, into in zip(volumes, found[:, views], strict=True):
                    self._shared(kernels.project_lines, (volume.numpy(), axis, table, into.view(-1).numpy()), len(axis), 64)
        return found.to(image.device, image.dtype)

    def adjoint(self, projections: Tensor) -> Tensor:
        volumes = self._volumes(len(projections), projections.dtype)
        ny = volumes.shape[1]
        for views in self._turns(volumes.element_size()):
            part = projections.detach()[:, views].to("cpu", volumes.dtype)
            if self._columns is not None:
                axis, table = _of(self._columns, views)
                for one, volume in zip(part, volumes, strict=True):
                    rays = one.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(len(axis), -1)
                    kernels.weigh_columns(rays.numpy(), table, self.pixels.spacing[0], 0, len(axis))
                    self._shared(kernels.spread_columns, (rays.numpy(), axis, table, volume.numpy()), ny, -(-ny // BAND))
            else:
                axis, table = self._lines(views)
                for one, volume in zip(part, volumes, strict=True):
                    # Every part looks at every ray: not more parts than keep the threads busy. The sums are the same.
                    arguments = (one.contiguous().view(-1).numpy(), axis, table, volume.numpy())
                    self._shared(kernels.spread_lines, arguments, ny, 4 * torch.get_num_threads())
        found = _inside(volumes).permute(0, 3, 1, 2).to(projections.device, projections.dtype)
        return found.contiguous()

    def _volumes(self, batch: int, dtype: torch.dtype) -> Tensor:
        """Zeros (batch, y, x, z) with the kernels' margin."""
        nz, ny, nx = self.pixels.shape
        return torch.zeros(batch, ny + 3, nx + 3, nz + 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def _turns(self, element: int) -> Iterator[slice]:
        """Views that fit the budget together: each ray's line, if it has one of its own, and two copies of its number."""
        ray = 2 * element + (LINE_BYTES if self._columns is None else 0)
        n = max(1, BUDGET // (ray * math.prod(self.geometry.shape[1:])))
        for start in range(0, self.geometry.n_views, n):
            yield slice(start, min(start + n, self.geometry.n_views))

    def _lines(self, views: slice) -> tuple[Any, Array]:
        axis, table = lines(self.geometry, self.pixels, views)
        return axis.ravel(), np.ascontiguousarray(table.reshape(-1, table.shape[-1]))

    def _shared(self, kernel: Callable[..., None], arguments: tuple[Any, ...], n: int, parts: int) -> None:
        steps = math.prod(self.geometry.shape) * max(self.pixels.shape)
        shared_out(kernel, [(*arguments, *edge) for edge in pieces(n, parts)], steps)


def _inside(volumes: Tensor) -> Tensor:
    return volumes[:, 1:-2, 1:-2, 1:-2]


def _of(found: Columns, views: slice) -> tuple[Any, Array]:
    """axis (ray) and table (ray, 7) of the columns of some views."""
    return found.axis[views].ravel(), found.table[views].reshape(-1, found.table.shape[-1])
