"""Phantoms with known projections: ellipses and ellipsoids, and smooth blobs, in the scanner's frame; mm and 1/mm, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics import phantom
from medrecon.physics.ct.backproject import centres
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.rays import rays

BLOCK = 1 << 21
"""Rays or points in the making at a time."""


class Shape(Protocol):
    """Something with attenuation whose line integrals are known. Points and directions (..., 2 or 3): x, y, z."""

    def line_integral(self, points: Array, directions: Array) -> Array:
        """(...,) along the whole lines through `points` in unit `directions`."""

    def value(self, points: Array) -> Array:
        """(...,) attenuation there, 1/mm."""


@dataclass(frozen=True)
class Ellipsoid:
    """A uniform ellipse or ellipsoid that adds `mu`, 1/mm. `centre`, half `axes` mm: (y, x) or (z, y, x); `angle` rad turns the x half axis
    towards y, about z. An ellipse in three dimensions is a cylinder without ends along z."""

    mu: float
    centre: tuple[float, ...]
    axes: tuple[float, ...]
    angle: float = 0.0

    def __post_init__(self) -> None:
        if len(self.centre) != len(self.axes) or len(self.axes) not in (2, 3) or min(self.axes) <= 0:
            raise BadInput(f"centre {self.centre}, axes {self.axes}: expected two or three numbers each, axes positive")

    def line_integral(self, points: Array, directions: Array) -> Array:
        p, d = self._own(points, self.centre), self._own(directions, (0.0,) * len(self.centre))
        # |p + t d| = 1 at two t: their distance.
        dd = (d * d).sum(-1)
        across = p - ((p * d).sum(-1) / dd)[..., None] * d
        found: Array = self.mu * 2 * np.sqrt(np.maximum(1 - (across * across).sum(-1), 0) / dd)
        return found

    def value(self, points: Array) -> Array:
        found: Array = self.mu * ((self._own(points, self.centre) ** 2).sum(-1) <= 1)
        return found

    def _own(self, vectors: Array, centre: tuple[float, ...]) -> Array:
        """Along the half axes, in units of them."""
        if vectors.shape[-1] < len(self.axes):
            raise BadInput("an ellipsoid has no projections in two dimensions: give an ellipse")
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = vectors[..., 0] - centre[-1], vectors[..., 1] - centre[-2]
        parts = [(cos * x + sin * y) / self.axes[-1], (cos * y - sin * x) / self.axes[-2]]
        if len(self.axes) == 3:
            parts.append((vectors[..., 2] - centre[0]) / self.axes[0])
        return np.stack(parts, -1)


@dataclass(frozen=True)
class Blob:
    """A Gaussian of peak `mu`, 1/mm, about `centre` mm, (y, x) or (z, y, x), with standard deviation `sigma` mm in every direction."""

    mu: float
    centre: tuple[float, ...]
    sigma: float

    def line_integral(self, points: Array, directions: Array) -> Array:
        p = self._from_centre(points)
        d = directions[..., : len(self.centre)]
        length = np.sqrt((d * d).sum(-1))
        across = p - ((p * d).sum(-1) / length**2)[..., None] * d
        found: Array = self.mu * math.sqrt(2 * math.pi) * self.sigma / length * np.exp(-(across**2).sum(-1) / (2 * self.sigma**2))
        return found

    def value(self, points: Array) -> Array:
        found: Array = self.mu * np.exp(-(self._from_centre(points) ** 2).sum(-1) / (2 * self.sigma**2))
        return found

    def _from_centre(self, points: Array) -> Array:
        if points.shape[-1] < len(self.centre):
            raise BadInput("a blob of three dimensions has no projections in two: give (y, x)")
        return points[..., : len(self.centre)] - np.array(self.centre[::-1])


def exact_projections(shapes: Sequence[Shape], geometry: Geometry, *, samples: int = 1) -> Tensor:
    """Exact projections (view, [row,] bin) float64: along the central ray, or the mean over `samples` rays across every bin
    (`samples`^2 where there are rows)."""
    fine = geometry if samples == 1 else _finer(geometry, samples)
    step = max(1, BLOCK // math.prod(fine.shape[1:]))
    found = np.zeros(fine.shape)
    for start in range(0, fine.n_views, step):
        views = slice(start, start + step)
        points, directions = rays(fine, views)
        for shape in shapes:
            found[views] += shape.line_integral(points, directions)
    if samples > 1:
        if geometry.rows is None:
            found = found.reshape(*geometry.shape, samples).mean(-1)
        else:
            n_views, n_rows, n_bins = geometry.shape
            found = found.reshape(n_views, n_rows, samples, n_bins, samples).mean((2, 4))
    return torch.from_numpy(found)


def _finer(geometry: Geometry, samples: int) -> Geometry:
    """The same detector with `samples` bins (and rows) for each of its own."""
    vectors, size = geometry.vectors().copy(), geometry.dimensions
    vectors[:, 2 * size :] /= samples
    return VectorGeometry(
        kind_of=geometry.kind,
        rows_of_vectors=vectors,
        n_bins=geometry.n_bins * samples,
        n_rows=None if geometry.rows is None else geometry.rows * samples,
        curved_detector=geometry.curved,
        foci=geometry.focus(),
    )


def raster(shapes: Sequence[Shape], pixels: Pixels, *, samples: int = 8) -> Tensor:
    """The image (*pixels) float64: the mean over `samples` points along each side of every pixel."""
    flat = len(pixels.shape) == 2
    fine = replace(pixels, shape=tuple(n * samples for n in pixels.shape), spacing=tuple(s / samples for s in pixels.spacing))
    *z, y, x = centres(fine)
    heights: list[float | None] = [None] if flat else [float(h) for h in z[0]]
    ny, nx = pixels.shape[-2:]
    planes = np.zeros((len(heights), ny, nx))
    step = max(1, BLOCK // (nx * samples**2))
    for k, height in enumerate(heights):
        for start in range(0, ny, step):
            rows = y[start * samples : (start + step) * samples]
            grid = np.stack(np.broadcast_arrays(x, rows[:, None], *([] if height is None else [np.array(height)])), -1)
            for shape in shapes:
                planes[k, start : start + step] += shape.value(grid).reshape(-1, samples, nx, samples).mean((1, 3))
    return torch.from_numpy(planes[0] if flat else planes.reshape(pixels.shape[0], samples, ny, nx).mean(1))


def disc(radius: float, mu: float, centre: tuple[float, ...] = (0.0, 0.0)) -> tuple[Ellipsoid, ...]:
    """A disc, or with three numbers in `centre` (z, y, x) a sphere."""
    return (Ellipsoid(mu, centre, (radius,) * len(centre)),)


def head(radius: float, water: float = 0.0192) -> tuple[Ellipsoid, ...]:
    """The Shepp-Logan head (`physics.phantom.shepp_logan`) of half height 0.92 `radius` mm, its skull of attenuation `water`, 1/mm."""
    # There lengths are of a field of view from -1/2 to 1/2, and y counts down.
    size = 2 * radius
    return tuple(
        Ellipsoid(water * e.value, (-size * e.centre[0], size * e.centre[1]), (size * e.axes[0], size * e.axes[1]), -e.angle)
        for e in phantom.shepp_logan()
    )
