"""Series whose small neighbourhoods have few time courses: singular values shrunk block by block."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.handcrafted.base import Curves, Handcrafted, level_like
from medrecon.prior.tiles import IRRATIONAL
from medrecon.prior.wrapped import refuse_gradient

IMAGE, BLOCKS = (-5, -4, -3, -2, -1), (-1, -5, -3, -4, -2)
"""Where t, block row, y, block column, x stand in an image that is cut and in its blocks."""


class LocallyLowRank(Handcrafted):
    """Series (*batch, t, y, x), every block of `block` x `block` pixels a matrix (pixel, t) whose singular values shrink to
    s sqrt((1 - (b+ / s)^2) (1 - (b- / s)^2)), 0 below b+; b+- = |noise| (sqrt(n) +- sqrt(m)) for n x m, m <= n.

    b+ is the largest singular value of noise alone (Marchenko and Pastur), |noise| = sigma, sqrt(2) sigma for complex series;
    the rule has the least squared error of all that shrink singular values (Gavish and Donoho 2017, eq. 7). A point estimate.

    `offset`: the blocks start so many pixels earlier, in y and x. By default it moves from call to call, the same for all
    series, so that no border stays in place over the noise levels; it follows from the number of calls since the noise
    level last rose, hence is the same in every run. Borders are periodic. `t` is any axis along which pixels of one tissue
    behave alike (time, echo, energy), of a few to some tens of entries. It cannot be differentiated and says so.
    """

    summary: ClassVar[str] = "Locally low rank, for series (t, y, x): shrunk singular values (Gavish and Donoho 2017), without gradient."
    curves: ClassVar[Curves] = {
        "real": (
            (0.01, 2.6e-05),
            (0.03, 0.000208),
            (0.1, 0.00198),
            (0.3, 0.0135),
            (1.0, 0.0861),
            (3.0, 0.377),
            (10.0, 0.996),
            (20.0, 1.24),
        ),
        "complex": (
            (0.01, 2.62e-05),
            (0.03, 0.000209),
            (0.1, 0.00199),
            (0.3, 0.0135),
            (1.0, 0.0894),
            (3.0, 0.384),
            (10.0, 0.979),
            (20.0, 1.03),
        ),
    }
    image_axes = 3

    def __init__(self, *, block: int = 8, offset: tuple[int, int] | None = None, field: str = "complex", data_std: float = 0.3) -> None:
        super().__init__(field=field, data_std=data_std)
        if block < 1:
            raise BadInput(f"block = {block}: expected at least 1")
        self.block, self.offset = block, offset
        self._calls, self._level = 0, 0.0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        refuse_gradient(noisy, "the locally low-rank prior")
        if noisy.ndim < 3:
            raise BadInput(f"series of shape {tuple(noisy.shape)}: expected (*batch, t, y, x); use tv or wavelet for single images")
        shape, shifts = noisy.shape[-2:], self._next_offset(sigma)
        rows, columns = (places(n, self.block, shift).to(noisy.device) for n, shift in zip(shape, shifts, strict=True))
        pixels = noisy.index_select(-2, rows.flatten()).index_select(-1, columns.flatten())
        blocks = pixels.unflatten(-1, columns.shape).unflatten(-3, rows.shape).movedim(IMAGE, BLOCKS)
        level = level_like(noisy, sigma)
        shrunk = shrunk_singular_values(blocks.flatten(-3, -2), level.unsqueeze(-1) if level.ndim else level).reshape(blocks.shape)
        image = shrunk.movedim(BLOCKS, IMAGE).flatten(-2).flatten(-3, -2)
        return image[..., : shape[0], : shape[1]].roll([-shift for shift in shifts], (-2, -1))

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return 4 * 8 * n_images * n_pixels  # the blocks, their singular vectors and what comes back

    def _next_offset(self, sigma: Tensor) -> tuple[int, int]:
        level = float(torch.as_tensor(sigma).max())
        self._calls = 0 if level > self._level else self._calls + 1
        self._level = level
        if self.offset is not None:
            return self.offset
        y, x = (int(self._calls * share % 1 * self.block) for share in IRRATIONAL[:2])
        return y, x


def places(n: int, block: int, shift: int) -> Tensor:
    """(count, block): the pixels of every block along an axis of length n, the first block `shift` pixels before 0.

    They go on periodically until the last block is full, for noise fills every block alike.
    """
    size = min(n, block)
    count = math.ceil(n / size)
    return ((torch.arange(count * size) - shift) % n).reshape(count, size)


def shrunk_singular_values(matrices: Tensor, level: Tensor) -> Tensor:
    """Matrices (*batch, n, m) with noise of standard deviation `level` per real component, 0-dim or (*batch, 1, 1), taken off."""
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    sides = matrices.shape[-2:]
    noise = (math.sqrt(2) if matrices.is_complex() else 1.0) * (level.squeeze(-1) if level.ndim else level)
    upper, lower = (noise * (math.sqrt(max(sides)) + sign * math.sqrt(min(sides))) for sign in (1, -1))
    gain = ((1 - (upper / values) ** 2).clamp_min(0) * (1 - (lower / values) ** 2)).sqrt()
    kept = torch.where(values > upper, gain * values, 0)
    return (left * kept.unsqueeze(-2)) @ right
