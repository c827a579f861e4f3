"""Joseph's projector in the plane on the CPU, one ray a bin, and its exact transpose.

Joseph, IEEE Trans. Med. Imaging 1 (1982) 192. Views are cut into fans of rays that march along one axis. For each step of the march
the bins of a fan meet one line of the image, which stays in the fastest cache while they are interpolated from it, or added to it. The
transpose owns lines of the image instead of views: no private images, no atomics, and the same numbers whatever the number of threads.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.lines import lines
from medrecon.physics.ct.workers import LANES, compiled, in_groups, pieces, shared_out

BLOCK, BLOCK_OF_LANES = 16, 4
"""Lines of the image that a thread of the transpose holds in its cache."""

VIEWS_AT_ONCE = 1 << 16
"""Rays whose lines are computed together."""


@compiled
def _seen(slope, intercept, c, width, first, end, low, high):  # type: ignore[no-untyped-def]
    """Bins [low, high) of a fan [first, end) whose rays meet line c within (-1, width); walks from those of the line before."""
    if intercept[end - 1] + slope[end - 1] * c >= intercept[first] + slope[first] * c:
        while low > first and intercept[low - 1] + slope[low - 1] * c > -1:
            low -= 1
        while low < end and intercept[low] + slope[low] * c <= -1:
            low += 1
        while high > first and intercept[high - 1] + slope[high - 1] * c >= width:
            high -= 1
        while high < end and intercept[high] + slope[high] * c < width:
            high += 1
    else:
        while low > first and intercept[low - 1] + slope[low - 1] * c < width:
            low -= 1
        while low < end and intercept[low] + slope[low] * c >= width:
            low += 1
        while high > first and intercept[high - 1] + slope[high - 1] * c <= -1:
            high -= 1
        while high < end and intercept[high] + slope[high] * c > -1:
            high += 1
    return low, max(low, high)


@compiled
def _met(slope, intercept, c, index, fraction):  # type: ignore[no-untyped-def]
    """Where rays meet line c: the index before, counted from -1, and the fraction towards the next."""
    for k in range(len(slope)):
        r = intercept[k] + slope[k] * c + 1.0
        index[k] = np.int32(r)
        fraction[k] = r - index[k]


@compiled
def _interpolate(line, index, fraction, total):  # type: ignore[no-untyped-def]
    """Adds to total (bin[, lane]) what line (pixel[, lane]) has between its pixels."""
    for k in range(len(total)):
        i, f = np.uint32(index[k]), fraction[k]
        if line.ndim == 1:
            near = line[i]
            total[k] += near + f * (line[i + np.uint32(1)] - near)
        else:
            for b in range(LANES):
                near = line[i, b]
                total[k, b] += near + f * (line[i + np.uint32(1), b] - near)


@compiled
def _spread(values, index, fraction, line):  # type: ignore[no-untyped-def]
    """Adds values (bin[, lane]) to line (pixel, 2[, lane]): what goes to the pixel before and to the one after."""
    for k in range(len(values)):
        i, f = np.uint32(index[k]), fraction[k]
        if line.ndim == 2:
            after = f * values[k]
            line[i, 0] += values[k] - after
            line[i, 1] += after
        else:
            for b in range(LANES):
                after = f * values[k, b]
                line[i, 0, b] += values[k, b] - after
                line[i, 1, b] += after


@compiled
def _project(image, fans, slope, intercept, step, out, part, stop):  # type: ignore[no-untyped-def]
    """image (line, width + 3[, lane]) with a margin; adds the fans [part, stop) to out (view, bin[, lane])."""
    n, width = image.shape[0], image.shape[1] - 3
    index, fraction = np.empty(out.shape[1], np.int32), np.empty(out.shape[1], out.dtype)
    for s in range(part, stop):
        v, first, end = fans[s]
        low = high = first
        for c in range(n):
            low, high = _seen(slope[v], intercept[v], float(c), width, first, end, low, high)
            _met(slope[v, low:high], intercept[v, low:high], float(c), index, fraction)
            _interpolate(image[c], index, fraction, out[v, low:high])
        for k in range(first, end):
            out[v, k] *= step[v, k]


@compiled
def _backproject(sinogram, fans, slope, intercept, out, part, stop):  # type: ignore[no-untyped-def]
    """sinogram (view, bin[, lane]); adds to lines [part, stop) of out (line, width + 3, 2[, lane])."""
    width = out.shape[1] - 3
    index, fraction = np.empty(sinogram.shape[1], np.int32), np.empty(sinogram.shape[1], out.dtype)
    for s in range(len(fans)):
        v, first, end = fans[s]
        low = high = first
        for c in range(part, stop):
            low, high = _seen(slope[v], intercept[v], float(c), width, first, end, low, high)
            _met(slope[v, low:high], intercept[v, low:high], float(c), index, fraction)
            _spread(sinogram[v, low:high], index, fraction, out[c])


@compiled
def _entries(fans, slope, intercept, step, sizes, strides, place, columns, values, fill):  # type: ignore[no-untyped-def]
    """Counts every row's entries in `place` (view, bin); where `fill`, place begins as the first entry of the row."""
    n, width = sizes
    bins = slope.shape[1]
    index, fraction = np.empty(bins, np.int32), np.empty(bins)
    for v, first, end in fans:
        low = high = first
        for c in range(n):
            low, high = _seen(slope[v], intercept[v], float(c), width, first, end, low, high)
            _met(slope[v, low:high], intercept[v, low:high], float(c), index, fraction)
            for k in range(low, high):
                for upper in range(2):
                    i = index[k - low] - 1 + upper
                    if i >= 0 and i < width:
                        p = place[v, k]
                        if fill:
                            columns[p] = c * strides[0] + i * strides[1]
                            values[p] = step[v, k] * (fraction[k - low] if upper else 1 - fraction[k - low])
                        place[v, k] += 1


def fans(along: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(fan, 3): view, first bin, one past the last, of the longest runs of bins that are True; along (view, bin)."""
    edges = np.diff(along.astype(np.int8), axis=1, prepend=0, append=0)
    view, first = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    return np.ascontiguousarray(np.stack([view, first, end], 1).astype(np.int64))


class Joseph2D:
    """The projector of a geometry in the plane; float32 and float64 on the CPU."""

    def __init__(self, geometry: Geometry, pixels: Pixels) -> None:
        self.geometry, self.pixels = geometry, pixels

    @cached_property
    def _table(self) -> tuple[NDArray[np.bool_], Array, Array, Array]:
        """(view, bin) each: whether a ray marches along x; slope, intercept and step in mm."""
        V, K = self.geometry.shape
        along, numbers = np.empty((V, K), bool), np.empty((3, V, K))
        for start in range(0, V, max(1, VIEWS_AT_ONCE // K)):
            views = slice(start, start + max(1, VIEWS_AT_ONCE // K))
            axis, table = lines(self.geometry, self.pixels, views)
            along[views], numbers[:, views] = axis == 1, np.moveaxis(table, -1, 0)
        return along, numbers[0], numbers[1], numbers[2]

    @cached_property
    def _fans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those that march along x, and along y."""
        return fans(self._table[0]), fans(~self._table[0])

    def _weighted(self, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self._table[3]).to(dtype)

    def forward(self, image: Tensor) -> Tensor:
        return in_groups(image, self._forward, self.geometry.shape)

    def adjoint(self, projections: Tensor) -> Tensor:
        return in_groups(projections, self._adjoint, self.pixels.shape)

    def _forward(self, image: Tensor) -> Tensor:
        """image (ny, nx[, lane]) to (view, bin[, lane])."""
        _, slope, intercept, _ = self._table
        lanes = image.shape[2:]
        step = self._weighted(image.dtype).numpy()
        out = image.new_zeros(*self.geometry.shape, *lanes)
        margin = (0,) * (2 * len(lanes)) + (1, 2)
        parts: list[tuple[Any, ...]] = []
        for turned, group in zip((image.transpose(0, 1), image), self._fans, strict=True):
            laid = pad(turned, margin).contiguous().numpy()
            parts += [(laid, group, slope, intercept, step, out.numpy(), *part) for part in pieces(len(group), 16)]
        shared_out(_project, parts, self._steps)
        return out

    def _adjoint(self, projections: Tensor) -> Tensor:
        """projections (view, bin[, lane]) to (ny, nx[, lane])."""
        _, slope, intercept, _ = self._table
        ny, nx = self.pixels.shape
        lanes = projections.shape[2:]
        weighted = (projections * self._weighted(projections.dtype)[(...,) + (None,) * len(lanes)]).contiguous().numpy()
        both = [projections.new_zeros(n, width + 3, 2, *lanes) for n, width in ((nx, ny), (ny, nx))]
        parts: list[tuple[Any, ...]] = []
        for out, group in zip(both, self._fans, strict=True):
            block = BLOCK_OF_LANES if lanes else BLOCK
            parts += [(weighted, group, slope, intercept, out.numpy(), *part) for part in pieces(len(out), -(-len(out) // block))]
        shared_out(_backproject, parts, self._steps)
        columns, rows = (spread[:, 1:-2, 0] + spread[:, :-3, 1] for spread in both)
        return columns.transpose(0, 1) + rows

    def list_entries(self, place: NDArray[np.int64], columns: NDArray[np.int32], values: NDArray[Any], fill: bool) -> None:
        """Fills in columns and values of the matrix, a row's from `place` (view, bin) on; else counts the rows' entries there."""
        _, slope, intercept, step = self._table
        ny, nx = self.pixels.shape
        for group, sizes, strides in zip(self._fans, ((nx, ny), (ny, nx)), ((1, nx), (nx, 1)), strict=True):
            _entries(group, slope, intercept, step, sizes, strides, place, columns, values, fill)

    @property
    def _steps(self) -> int:
        return math.prod(self.geometry.shape) * max(self.pixels.shape)
