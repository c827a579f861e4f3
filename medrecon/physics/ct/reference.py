"""Joseph's projector in torch: any device and precision, two or three dimensions, differentiable in the geometry too; slow.

Joseph, IEEE Trans. Med. Imaging 1 (1982) 192. Where rays run is computed from the geometry's vectors by differentiable operations, so
that vectors can be estimated (calibration, motion); projections are piecewise smooth in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.grid import Pixels

SAMPLES = 1 << 22
"""Of rays that are interpolated together."""


def joseph(image: Tensor, geometry: Geometry, pixels: Pixels, vectors: Tensor | None = None) -> Tensor:
    """(batch, *image) to (batch, *projections), differentiable in `image` and in `vectors`.

    `vectors` (view, 6 or 12) take the place of geometry.vectors(), float64 if they are to be accurate.
    """
    vectors = _given(geometry, vectors)
    flat = image.reshape(len(image), -1)
    rows = []
    for first in range(0, len(vectors), _together(geometry, pixels)):
        views = slice(first, first + _together(geometry, pixels))
        row = image.new_zeros(len(image), vectors[views].shape[0] * math.prod(geometry.shape[1:]))
        for rays, index, weight in _samples(vectors[views], geometry, pixels, views):
            weight = weight.to(image.device, image.dtype)
            row = row.index_add(1, rays.to(image.device), (flat[:, index.to(image.device)] * weight).sum(-1))
        rows.append(row)
    return torch.cat(rows, 1).reshape(-1, *geometry.shape)


class TorchJoseph:
    """The projector of a geometry and its transpose, by the same samples."""

    def __init__(self, geometry: Geometry, pixels: Pixels) -> None:
        self.geometry, self.pixels = geometry, pixels

    def forward(self, image: Tensor) -> Tensor:
        return joseph(image, self.geometry, self.pixels)

    def adjoint(self, projections: Tensor) -> Tensor:
        vectors = _given(self.geometry, None)
        out = projections.new_zeros(len(projections), math.prod(self.pixels.shape))
        for first in range(0, len(vectors), _together(self.geometry, self.pixels)):
            views = slice(first, first + _together(self.geometry, self.pixels))
            part = projections[:, views].reshape(len(projections), -1)
            for rays, index, weight in _samples(vectors[views], self.geometry, self.pixels, views):
                spread = part[:, rays.to(part.device)][..., None] * weight.to(part.device, part.dtype)
                out.index_add_(1, index.reshape(-1).to(part.device), spread.reshape(len(part), -1))
        return out.reshape(-1, *self.pixels.shape)


def _given(geometry: Geometry, vectors: Tensor | None) -> Tensor:
    held = torch.from_numpy(geometry.vectors())
    if vectors is None:
        return held
    if vectors.shape != held.shape:
        raise BadInput(f"vectors {tuple(vectors.shape)}: expected {tuple(held.shape)}, as geometry.vectors() gives them")
    return vectors


def _together(geometry: Geometry, pixels: Pixels) -> int:
    return max(1, SAMPLES // (math.prod(geometry.shape[1:]) * max(pixels.shape)))


def _samples(vectors: Tensor, geometry: Geometry, pixels: Pixels, views: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ray,) index of the rays, (ray, step) index of the pixel and weight in mm; once for each axis and neighbour."""
    points, directions = _rays(vectors, geometry, views)
    size = len(pixels.shape)
    spacing, centre = vectors.new_tensor(pixels.spacing), vectors.new_tensor(pixels.centre)
    spacing[-2] = -spacing[-2]
    points = ((points.flip(-1) - centre) / spacing + (vectors.new_tensor(pixels.shape) - 1) / 2).reshape(-1, size)
    directions = (directions.flip(-1) / spacing).reshape(-1, size)
    steep = directions.detach().abs()
    # Of two equal axes the later one, as everywhere.
    axis = size - 1 - steep.flip(-1).argmax(-1)
    strides = [math.prod(pixels.shape[a + 1 :]) for a in range(size)]
    for lead in range(size):
        rays = (axis == lead).nonzero()[:, 0]
        if not len(rays):
            continue
        others = [a for a in range(size) if a != lead]
        p, d = points[rays], directions[rays]
        steps = torch.arange(pixels.shape[lead], dtype=vectors.dtype, device=vectors.device)
        at = [(d[:, a] / d[:, lead])[:, None] * (steps - p[:, lead, None]) + p[:, a, None] for a in others]
        length = 1 / d[:, lead, None].abs()
        for corner in range(1 << len(others)):
            weight, index = length, steps.long() * strides[lead]
            for bit, (a, position) in enumerate(zip(others, at, strict=True)):
                before = position.detach().floor()
                upper = corner >> bit & 1
                fraction = position - before
                pixel = before.long() + upper
                inside = (pixel >= 0) & (pixel < pixels.shape[a])
                weight = weight * (fraction if upper else 1 - fraction) * inside
                index = index + pixel.clamp(0, pixels.shape[a] - 1) * strides[a]
            yield rays, index, weight


def _rays(vectors: Tensor, geometry: Geometry, views: slice) -> tuple[Tensor, Tensor]:
    """As `medrecon.physics.ct.rays.rays`, differentiable in the vectors."""
    size = geometry.dimensions
    first, centre, u, *rest = vectors.split(size, 1)
    columns = _steps(geometry.n_bins, vectors)[:, None]
    if geometry.curved:
        ray = centre - first
        distance, pitch = ray.norm(dim=1)[:, None, None], u.norm(dim=1)[:, None, None]
        angle = columns * pitch / distance
        bins = first[:, None] + distance * (angle.cos() * ray[:, None] / distance + angle.sin() * u[:, None] / pitch)
    else:
        bins = centre[:, None] + columns * u[:, None]
    if rest:
        bins = bins[:, None] + _steps(geometry.rows or 1, vectors)[:, None, None] * rest[0][:, None, None]
    spread = (slice(None), *[None] * (bins.ndim - 2))
    if geometry.parallel:
        return bins, (first / first.norm(dim=1, keepdim=True))[spread].expand_as(bins)
    focus = geometry.focus()
    source = first if focus is None else torch.from_numpy(focus[views]).to(vectors)
    direction = bins - source[spread]
    return source[spread].expand_as(bins), direction / direction.norm(dim=-1, keepdim=True)


def _steps(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2
