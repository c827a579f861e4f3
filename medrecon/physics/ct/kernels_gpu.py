"""Joseph's projectors on a GPU, compiled by Triton, with transposes that gather.

A pixel asks every view for the bins whose rays pass it by less than a pixel, between the projections of its neighbours, and takes their
weights from the table that the projection used. Nothing is added to one number by two threads: no atomics, the same bits in every run.
Rays are laid out in float64 on the host, `BUDGET` bytes of them at a time, and stay on the device up to `KEPT` bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput, MissingExtra, NotSupported
from medrecon.physics.ct import triton_kernels as kernels
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.lines import lines
from medrecon.physics.ct.rays import projections

BUDGET = 1 << 28
"""Bytes of rays in float64 while their lines are computed on the host."""

LINE_BYTES = 512
"""Of one ray then."""

KEPT = 1 << 30
"""Bytes of lines that stay on the device from one call to the next."""

BLOCK = 64
"""Rays or pixels of one program."""


class _Joseph:
    """What both share: lines on the device, views in turns."""

    def __init__(self, geometry: Geometry, pixels: Pixels) -> None:
        if not kernels.INSTALLED:
            raise MissingExtra("the GPU projectors need triton, which comes with torch for CUDA: install that, or use impl torch")
        if geometry.dimensions != len(pixels.shape):
            raise BadInput(f"{geometry.kind} and pixels {pixels.shape}: expected a geometry and an image of the same dimensions")
        if geometry.focus() is not None:
            raise NotSupported("a source off the middle of its detector (flying focal spot) is projected on the CPU: impl numba")
        self.geometry, self.pixels = geometry, pixels
        self.maps = _in_pixels(_plane_maps(geometry) if geometry.dimensions == 2 else _space_maps(geometry), pixels)
        self._lines: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor, int]] = {}

    def forward(self, image: Tensor) -> Tensor:
        work = image.detach().to(_computed(image.dtype)).contiguous()
        found = torch.empty(len(image), math.prod(self.geometry.shape), dtype=work.dtype, device=work.device)
        with torch.cuda.device_of(work):
            for _, first, axis, table, _ in self._turns(work):
                n = axis.numel()
                kernel = kernels.project2d if self.geometry.dimensions == 2 else kernels.project3d
                if len(image):
                    grid = (-(-n // BLOCK), len(image))
                    kernel[grid](work, axis, table, found[:, first:], found.shape[1], n, *self.pixels.shape, BLOCK=BLOCK)
        return found.view(len(image), *self.geometry.shape).to(image.dtype)

    def adjoint(self, projections: Tensor) -> Tensor:
        work = projections.detach().to(_computed(projections.dtype)).reshape(len(projections), -1).contiguous()
        found = torch.zeros(len(work), *self.pixels.shape, dtype=work.dtype, device=work.device)
        grid = (-(-math.prod(self.pixels.shape) // BLOCK), len(work))
        with torch.cuda.device_of(work):
            for views, first, axis, table, axes in self._turns(work):
                maps = torch.from_numpy(self.maps[views]).to(work.device, work.dtype)
                sizes = (work.shape[1], len(maps), *self.geometry.shape[1:], *self.pixels.shape)
                arguments = (work[:, first:], axis, table, maps, found, *sizes)
                if not len(work):
                    continue
                if self.geometry.dimensions == 2:
                    kernels.spread2d[grid](*arguments, CURVED=self.geometry.curved, BLOCK=BLOCK)
                else:
                    kernels.spread3d[grid](*arguments, AXES=axes, CURVED=self.geometry.curved, BLOCK=BLOCK)
        return found.to(projections.dtype)

    def _turns(self, like: Tensor) -> Iterator[tuple[slice, int, Tensor, Tensor, int]]:
        """Views, their first ray, and their lines: axis (ray), table (number, ray), and the axes there are, as bits."""
        rays = math.prod(self.geometry.shape[1:])
        n = max(1, BUDGET // (LINE_BYTES * rays))
        for start in range(0, self.geometry.n_views, n):
            views = slice(start, min(start + n, self.geometry.n_views))
            key = (start, like.device, like.dtype)
            held = self._lines.get(key) or self._laid_out(views, like)
            if sum(axis.nbytes + table.nbytes for axis, table, _ in self._lines.values()) < KEPT:
                self._lines[key] = held
            yield views, start * rays, *held

    def _laid_out(self, views: slice, like: Tensor) -> tuple[Tensor, Tensor, int]:
        axis, table = lines(self.geometry, self.pixels, views)
        columns = np.ascontiguousarray(table.reshape(-1, table.shape[-1]).T)
        axes = sum(1 << int(a) for a in np.unique(axis))
        return torch.from_numpy(axis.ravel()).to(like.device), torch.from_numpy(columns).to(like.device, like.dtype), axes


class TritonJoseph2D(_Joseph):
    """The projector of a geometry in the plane, (batch, y, x) to (batch, view, bin); float32 and float64 on CUDA."""


class TritonJoseph3D(_Joseph):
    """The projector of a geometry in space, (batch, z, y, x) to (batch, view, row, bin); float32 and float64 on CUDA.

    Raises `NotSupported` for a flying focal spot.
    """


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _plane_maps(geometry: Geometry) -> tuple[Array, Array]:
    """Affine functions of (y, x, 1) and two numbers, (view, 2, 3) and (view, 2): see `triton_kernels._bin2d`."""
    numerator, denominator = projections(geometry)
    vectors, scale = geometry.vectors(), np.ones(geometry.n_views)
    if geometry.curved:
        scale = np.linalg.norm(vectors[:, 2:4] - vectors[:, :2], axis=1) / np.linalg.norm(vectors[:, 4:6], axis=1)
    elif not geometry.parallel:
        # Positive in front of the source, whichever way the bins count.
        turned = np.sign((denominator[:, :2] * vectors[:, 2:4]).sum(1) + denominator[:, 2])[:, None]
        numerator, denominator = numerator * turned, denominator * turned
    affine = np.stack([numerator, denominator], 1)[..., [1, 0, 2]]
    return affine, np.stack([scale, np.full(geometry.n_views, (geometry.n_bins - 1) / 2)], 1)


def _space_maps(geometry: Geometry) -> tuple[Array, Array]:
    """Affine functions of (z, y, x, 1) and three numbers, (view, 3, 4) and (view, 3): see `triton_kernels._bin3d`.

    On a flat detector s + t (X - s) = d + a u + b v, so that (a, b, 1) / t = [u v d - s]^-1 (X - s); on a curved one u and d - s are
    unit vectors, and t (|d - s| sin, |d - s| cos) are the first and the last of them.
    """
    first, centre, u, v = geometry.vectors().reshape(-1, 4, 3).swapaxes(0, 1)
    ray = first if geometry.parallel else centre - first
    distance, pitch = np.linalg.norm(ray, axis=1), np.linalg.norm(u, axis=1)
    if geometry.curved:
        ray, u = ray / distance[:, None], u / pitch[:, None]
    inverse = np.linalg.inv(np.stack([u, v, ray], -1))
    through = centre if geometry.parallel else first
    affine = np.concatenate([inverse, -(inverse @ through[..., None])], -1)
    scale = distance / pitch
    if geometry.curved:
        affine[:, 1] *= distance[:, None]
    if geometry.parallel:
        affine[:, 2] = (0, 0, 0, 1)
    middles = np.broadcast_to([(geometry.n_bins - 1) / 2, ((geometry.rows or 1) - 1) / 2], (len(scale), 2))
    return affine[..., [2, 1, 0, 3]], np.concatenate([scale[:, None], middles], 1)


def _in_pixels(maps: tuple[Array, Array], pixels: Pixels) -> Array:
    """(view, number): the maps of indices instead of mm, then their numbers."""
    affine, numbers = maps
    spacing, sizes = np.array(pixels.spacing), np.array(pixels.shape)
    spacing[-2] = -spacing[-2]
    start = np.array(pixels.centre) - spacing * (sizes - 1) / 2
    constant = affine[..., -1:] + (affine[..., :-1] * start).sum(-1, keepdims=True)
    found = np.concatenate([affine[..., :-1] * spacing, constant], -1)
    return np.concatenate([found.reshape(len(found), -1), numbers], 1)
