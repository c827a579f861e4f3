"""Separable footprints in the plane on the CPU: every bin takes the mean over its width of what pixels throw on the detector.

The shadow of a pixel is a trapezoid between the projections of its corners, as high as the longest way through the pixel along the ray
of its centre; in parallel beams that is exact. Long, Fessler, Balter, IEEE Trans. Med. Imaging 29 (2010) 1839. Pixels of one line of
the image are computed together; the transpose owns lines of the image, the projector owns views: no atomics either way.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from medrecon.errors import BadInput
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.rays import projections
from medrecon.physics.ct.workers import LANES, compiled, in_groups, pieces, shared_out

BLOCK = 8
"""Lines of the image that a thread of the transpose takes together."""

PARTS = 16
"""Into which views are dealt out."""

PARALLEL, FLAT, CURVED = 0, 1, 2

ATAN_P = (
    -8.750608600031904122785e-1,
    -1.615753718733365076637e1,
    -7.500855792314704667340e1,
    -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)
ATAN_Q = (
    2.485846490142306297962e1,
    1.650270098316988542046e2,
    4.328810604912902668951e2,
    4.853903996359136964868e2,
    1.945506571482613964425e2,
)
"""Rational approximation of (atan(x) - x) / x^3 in x^2, |x| < 0.66: Moshier, Methods and Programs for Mathematical Functions (1989)."""


@compiled
def _atan(x):  # type: ignore[no-untyped-def]
    """Without branches, so that it is computed for several numbers at once."""
    a = abs(x)
    far, middle = a > 2.414213562373095, a > 0.66
    t = -1.0 / a if far else ((a - 1.0) / (a + 1.0) if middle else a)
    offset = 1.5707963267948966 if far else (0.7853981633974483 if middle else 0.0)
    z = t * t
    p = (((ATAN_P[0] * z + ATAN_P[1]) * z + ATAN_P[2]) * z + ATAN_P[3]) * z + ATAN_P[4]
    q = ((((z + ATAN_Q[0]) * z + ATAN_Q[1]) * z + ATAN_Q[2]) * z + ATAN_Q[3]) * z + ATAN_Q[4]
    y = offset + (t + t * (z * p / q))
    return y if x >= 0 else -y


@compiled
def _corners(numbers, c, kind, out):  # type: ignore[no-untyped-def]
    """Where the corners of a line's pixels, at c along the march, fall on the detector, in bins."""
    base, below = numbers[0] * c + numbers[2] - 0.5 * numbers[1], numbers[3] * c + numbers[5] - 0.5 * numbers[4]
    for i in range(len(out)):
        out[i] = (base + numbers[1] * i) / (below + numbers[4] * i)
    if kind == CURVED:
        for i in range(len(out)):
            out[i] = _atan(out[i]) * numbers[6] + numbers[7]


@compiled
def _fan(numbers, c, before, after, bins, margin, bin0, knots, height):  # type: ignore[no-untyped-def]
    """Trapezoids of line c: first bin, knots (4, pixel) counted from it, height in mm; returns how many bins the widest meets.

    `before`, `after`: projections of the corners on both sides of the line.
    """
    count = np.int32(0)
    dc, di = numbers[10], numbers[11]
    rc = (c - numbers[8]) * dc
    real = height.dtype.type
    for i in range(len(height)):
        a, b = min(before[i], before[i + 1]), max(before[i], before[i + 1])
        d, e = min(after[i], after[i + 1]), max(after[i], after[i + 1])
        t0, t3 = min(a, d), max(b, e)
        f, g = max(a, d), min(b, e)
        t1, t2 = min(f, g), max(f, g)
        seen = t3 > -0.5 and t0 < bins - 0.5
        k = math.floor(min(max(t0 + 0.5, -margin), bins))
        bin0[i] = np.int32(k) + margin
        knots[0, i], knots[1, i], knots[2, i], knots[3, i] = t0 - k, t1 - k, t2 - k, t3 - k
        x, y = real(abs(rc)), real(abs((i - numbers[9]) * di))
        longest = np.sqrt(x * x + y * y) * (real(dc) / x if x * real(di) > y * real(dc) else real(di) / y)
        height[i] = longest if seen else real(0)
        count = max(count, np.int32(t3 - k + 0.5) + np.int32(1) if seen else np.int32(0))
    return min(count, margin + 1)


@compiled
def _beam(numbers, c, bins, margin, bin0, knots, height):  # type: ignore[no-untyped-def]
    """As `_fan`, of parallel rays: all trapezoids of a view are one, moved."""
    count = np.int32(0)
    half, top = 0.5 * (abs(numbers[0]) + abs(numbers[1])), 0.5 * abs(abs(numbers[0]) - abs(numbers[1]))
    base = numbers[0] * c + numbers[2]
    for i in range(len(height)):
        t = base + numbers[1] * i
        seen = t + half > -0.5 and t - half < bins - 0.5
        k = math.floor(min(max(t - half + 0.5, -margin), bins))
        bin0[i] = np.int32(k) + margin
        t -= k
        knots[0, i], knots[1, i], knots[2, i], knots[3, i] = t - half, t - top, t + top, t + half
        height[i] = numbers[12] if seen else 0.0
        count = max(count, np.int32(t + half + 0.5) + np.int32(1) if seen else np.int32(0))
    return min(count, margin + 1)


@compiled
def _share(j, last, knots, height, below, weight):  # type: ignore[no-untyped-def]
    """What the j-th bin of every trapezoid gets; `below`: the area before it, and afterwards that up to its end."""
    real = height.dtype.type
    half, zero = real(0.5), real(0)
    end = real(j) + half
    for i in range(len(height)):
        t0, t1, t2, t3 = knots[0, i], knots[1, i], knots[2, i], knots[3, i]
        rise, fall = t1 - t0, t3 - t2
        u, w = min(max(end - t0, zero), rise), min(max(t3 - end, zero), fall)
        up = half * u * u / rise if rise > 0 else zero
        down = half * w * w / fall if fall > 0 else zero
        area = up + min(max(end - t1, zero), t2 - t1) + (half * fall - down)
        if last:
            area = half * (rise + fall) + (t2 - t1)
        weight[i] = (area - below[i]) * height[i]
        below[i] = area


@compiled
def _trapezoids(numbers, c, kind, before, after, bins, margin, bin0, knots, height):  # type: ignore[no-untyped-def]
    """Those of line c, whose corners before it are in `before`; leaves those after it in `after`. Returns as `_fan`."""
    if kind == PARALLEL:
        return _beam(numbers, float(c), bins, margin, bin0, knots, height)
    _corners(numbers, c + 0.5, kind, after)
    return _fan(numbers, float(c), before, after, bins, margin, bin0, knots, height)


@compiled
def _throw(line, bin0, j, weight, row):  # type: ignore[no-untyped-def]
    """Adds what the pixels of a line give their j-th bins."""
    for i in range(len(line)):
        k, w = np.uint32(bin0[i] + j), weight[i]
        if line.ndim == 1:
            row[k] += w * line[i]
        else:
            for b in range(LANES):
                row[k, b] += w * line[i, b]


@compiled
def _fetch(row, bin0, j, weight, line):  # type: ignore[no-untyped-def]
    """Adds what the pixels of a line get from their j-th bins."""
    for i in range(len(line)):
        k, w = np.uint32(bin0[i] + j), weight[i]
        if line.ndim == 1:
            line[i] += w * row[k]
        else:
            for b in range(LANES):
                line[i, b] += w * row[k, b]


@compiled
def _project(image, views, table, kind, bins, margin, out, part, stop):  # type: ignore[no-untyped-def]
    """image (line, pixel[, lane]); adds to rows views[part:stop] of out (view, margin + bin + margin[, lane])."""
    n, width = image.shape[0], image.shape[1]
    before, after = np.empty(width + 1), np.empty(width + 1)
    bin0, knots = np.empty(width, np.int32), np.empty((4, width), out.dtype)
    height, below, weight = np.empty(width, out.dtype), np.empty(width, out.dtype), np.empty(width, out.dtype)
    for v in views[part:stop]:
        _corners(table[v], -0.5, kind, after)
        for c in range(n):
            before, after = after, before
            count = _trapezoids(table[v], c, kind, before, after, bins, margin, bin0, knots, height)
            below[:] = 0
            for j in range(count):
                _share(j, j == count - 1, knots, height, below, weight)
                _throw(image[c], bin0, j, weight, out[v])


@compiled
def _backproject(sinogram, views, table, kind, bins, margin, out, part, stop):  # type: ignore[no-untyped-def]
    """sinogram (view, margin + bin + margin[, lane]); adds to lines [part, stop) of out (line, pixel[, lane])."""
    width = out.shape[1]
    before, after = np.empty(width + 1), np.empty(width + 1)
    bin0, knots = np.empty(width, np.int32), np.empty((4, width), out.dtype)
    height, below, weight = np.empty(width, out.dtype), np.empty(width, out.dtype), np.empty(width, out.dtype)
    for v in views:
        _corners(table[v], part - 0.5, kind, after)
        for c in range(part, stop):
            before, after = after, before
            count = _trapezoids(table[v], c, kind, before, after, bins, margin, bin0, knots, height)
            below[:] = 0
            for j in range(count):
                _share(j, j == count - 1, knots, height, below, weight)
                _fetch(sinogram[v], bin0, j, weight, out[c])


@compiled
def _entries(views, table, kind, bins, margin, sizes, strides, place, columns, values, fill):  # type: ignore[no-untyped-def]
    """Counts every row's entries in `place` (view, bin); where `fill`, place begins as the first entry of the row."""
    n, width = sizes
    before, after = np.empty(width + 1), np.empty(width + 1)
    bin0, knots = np.empty(width, np.int32), np.empty((4, width), values.dtype)
    height, below, weight = np.empty(width, values.dtype), np.empty(width, values.dtype), np.empty(width, values.dtype)
    for v in views:
        _corners(table[v], -0.5, kind, after)
        for c in range(n):
            before, after = after, before
            count = _trapezoids(table[v], c, kind, before, after, bins, margin, bin0, knots, height)
            below[:] = 0
            for j in range(count):
                _share(j, j == count - 1, knots, height, below, weight)
                for i in range(width):
                    k = bin0[i] + j - margin
                    if weight[i] != 0 and k >= 0 and k < bins:
                        p = place[v, k]
                        if fill:
                            columns[p] = c * strides[0] + i * strides[1]
                            values[p] = weight[i]
                        place[v, k] += 1


class Footprint2D:
    """The projector of a geometry in the plane; float32 and float64 on the CPU."""

    def __init__(self, geometry: Geometry, pixels: Pixels) -> None:
        self.geometry, self.pixels = geometry, pixels
        if not geometry.parallel and self._nearest.min() <= 0:
            raise BadInput("a source stands within the image: footprints need every pixel in front of it; make the image smaller")

    @cached_property
    def _numbers(self) -> tuple[NDArray[np.bool_], Array]:
        """Whether a view marches along x (view,), and the table of its numbers (view, 13).

        numerator and denominator of the detector's column in (position on the line, index of the line, 1): 0-5, as coefficients of
        (line, position, 1); 6, 7: scale and offset of a curved detector; 8, 9: the source's line and position; 10, 11: spacing of
        lines and positions, mm; 12: longest way through a pixel, of parallel rays.
        """
        vectors, (ny, nx), (dy, dx) = self.geometry.vectors(), self.pixels.shape, self.pixels.spacing
        cy, cx = self.pixels.centre
        inward = vectors[:, :2] if self.geometry.parallel else vectors[:, 2:4] - vectors[:, :2]
        along = np.abs(inward[:, 0]) / dx >= np.abs(inward[:, 1]) / dy
        table = np.zeros((len(vectors), 13))
        for at, affine in zip((0, 3), projections(self.geometry), strict=True):
            of_x, of_y = affine[:, 0] * dx, -affine[:, 1] * dy
            table[:, at], table[:, at + 1] = np.where(along, of_x, of_y), np.where(along, of_y, of_x)
            table[:, at + 2] = affine[:, 2] + affine[:, 0] * cx + affine[:, 1] * cy - of_x * (nx - 1) / 2 - of_y * (ny - 1) / 2
        j, i = (vectors[:, 0] - cx) / dx + (nx - 1) / 2, (ny - 1) / 2 - (vectors[:, 1] - cy) / dy
        table[:, 8], table[:, 9] = np.where(along, j, i), np.where(along, i, j)
        table[:, 10], table[:, 11] = np.where(along, dx, dy), np.where(along, dy, dx)
        if self.geometry.parallel:
            with np.errstate(divide="ignore"):
                table[:, 12] = (np.array([dx, dy]) * np.linalg.norm(inward, axis=1, keepdims=True) / np.abs(inward)).min(axis=1)
        if self.geometry.curved:
            table[:, 6] = np.linalg.norm(inward, axis=1) / np.linalg.norm(vectors[:, 4:6], axis=1)
            table[:, 7] = (self.geometry.n_bins - 1) / 2
        return along, table

    @cached_property
    def _nearest(self) -> Array:
        """(view,): the smallest denominator at any corner of the image: not positive behind a source."""
        along, table = self._numbers
        ny, nx = self.pixels.shape
        lines, positions = np.where(along, nx, ny), np.where(along, ny, nx)
        least = [np.minimum(-0.5 * t, (n - 0.5) * t) for t, n in ((table[:, 3], lines), (table[:, 4], positions))]
        found: Array = table[:, 5] + least[0] + least[1]
        return found

    @cached_property
    def _margin(self) -> int:
        """Bins beside the detector that pixels seen by it may still throw something on: no shadow is wider."""
        _, table = self._numbers
        K = self.geometry.n_bins
        if self.geometry.curved:
            reach = np.minimum((0.6 * K + 2) / table[:, 6], 1.5)
            ends, scale = (-np.tan(reach), np.tan(reach)), table[:, 6]
        else:
            ends, scale = (np.full(len(table), -0.1 * K - 2), np.full(len(table), 1.1 * K + 2)), np.ones(len(table))
        steep = np.max([np.abs(table[:, 0] - t * table[:, 3]) + np.abs(table[:, 1] - t * table[:, 4]) for t in ends], axis=0)
        return int(np.ceil((scale * steep / self._nearest).max())) + 3

    @property
    def _kind(self) -> int:
        return PARALLEL if self.geometry.parallel else CURVED if self.geometry.curved else FLAT

    @cached_property
    def _views(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those whose lines are columns of the image, and those whose lines are rows."""
        along, _ = self._numbers
        return np.flatnonzero(along), np.flatnonzero(~along)

    def forward(self, image: Tensor) -> Tensor:
        return in_groups(image, self._forward, self.geometry.shape)

    def adjoint(self, projections: Tensor) -> Tensor:
        return in_groups(projections, self._adjoint, self.pixels.shape)

    def _forward(self, image: Tensor) -> Tensor:
        """image (ny, nx[, lane]) to (view, bin[, lane])."""
        V, K = self.geometry.shape
        out = image.new_zeros(V, K + 2 * self._margin + 1, *image.shape[2:])
        parts: list[tuple[Any, ...]] = []
        for laid, views in zip((image.transpose(0, 1).contiguous(), image.contiguous()), self._views, strict=True):
            parts += [(laid.numpy(), views, *self._constants, out.numpy(), *part) for part in pieces(len(views), PARTS)]
        shared_out(_project, parts, self._steps)
        return out[:, self._margin : self._margin + K]

    def _adjoint(self, projections: Tensor) -> Tensor:
        """projections (view, bin[, lane]) to (ny, nx[, lane])."""
        ny, nx = self.pixels.shape
        lanes = projections.shape[2:]
        laid = pad(projections, (0, 0) * len(lanes) + (self._margin, self._margin + 1)).contiguous().numpy()
        columns, rows = projections.new_zeros(nx, ny, *lanes), projections.new_zeros(ny, nx, *lanes)
        parts: list[tuple[Any, ...]] = []
        for out, views in zip((columns, rows), self._views, strict=True):
            parts += [(laid, views, *self._constants, out.numpy(), *part) for part in pieces(len(out), -(-len(out) // BLOCK))]
        shared_out(_backproject, parts, self._steps)
        return columns.transpose(0, 1) + rows

    def list_entries(self, place: NDArray[np.int64], columns: NDArray[np.int32], values: NDArray[Any], fill: bool) -> None:
        """Fills in columns and values of the matrix, a row's from `place` (view, bin) on; else counts the rows' entries there."""
        ny, nx = self.pixels.shape
        for views, sizes, strides in zip(self._views, ((nx, ny), (ny, nx)), ((1, nx), (nx, 1)), strict=True):
            _entries(views, *self._constants, sizes, strides, place, columns, values, fill)

    @property
    def _constants(self) -> tuple[Any, ...]:
        return self._numbers[1], self._kind, self.geometry.n_bins, self._margin

    @property
    def _steps(self) -> int:
        return self.geometry.n_views * math.prod(self.pixels.shape)
