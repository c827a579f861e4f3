"""A parallel-beam scanner as an explicit matrix, and an object to scan."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.linop.operator import LinearOperator


class Rays(LinearOperator):
    """Image to sinogram by a matrix (*batch, view, bin, pixel): (*batch, y, x) -> (*batch, view, bin)."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, image: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.domain, self.range = image, tuple(matrix.shape[-3:-1])

    def _forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...vkp,...p->...vk", self.matrix, x.flatten(-2))

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("...vkp,...vk->...p", self.matrix, y).unflatten(-1, self.domain)


class Cuttable(Rays):
    """`Rays` that can be cut into views."""

    def subset(self, views: slice) -> Cuttable:
        return Cuttable(self.matrix[..., views, :, :], self.domain)


def parallel_beam(image: tuple[int, int], n_views: int, n_bins: int, pixel: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(view, bin, pixel): each pixel's mass spread over the two bins about its centre, views even over pi."""
    ny, nx = image
    y, x = torch.meshgrid((ny - 1) / 2 - torch.arange(ny), torch.arange(nx) - (nx - 1) / 2, indexing="ij")
    angles = torch.arange(n_views, dtype=torch.float64) * math.pi / n_views
    place = torch.cos(angles)[:, None] * x.flatten() + torch.sin(angles)[:, None] * y.flatten() + (n_bins - 1) / 2
    bins = torch.arange(n_bins, dtype=torch.float64)
    return (pixel * (1 - (place[:, None, :] - bins[:, None]).abs()).clamp(min=0)).to(dtype)


def disc(image: tuple[int, int]) -> Tensor:
    """A disc with a denser and a lighter insert, 0 outside; (y, x), float64."""
    ny, nx = image
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    inside = (x**2 + y**2 < 0.8).double()
    return inside + 0.5 * ((x - 0.3) ** 2 + y**2 < 0.06).double() - 0.5 * ((x + 0.3) ** 2 + (y - 0.2) ** 2 < 0.05).double()
