"""Images of any size in bounded memory: the denoiser sees overlapping tiles, their answers are blended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, product

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.prior.denoiser import Prior
from medrecon.prior.network import UNet
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.recompute import checkpointed
from medrecon.prior.wrapped import Wrapped
from medrecon.tensors import real_dtype

Span = tuple[int, int]
"""First index and one past the last."""

IRRATIONAL = (0.6180339887, 0.7548776662, 0.8191725134)
"""By these shares of the stride the tiles move from call to call, in y, x, z: any few calls in a row spread well."""


class Tiled(Wrapped):
    """sum_i w_i D(tile i) / sum_i w_i, w_i raised cosines over the overlap, for images of `image_axes` axes.

    `tile`, `overlap`: pixels, one number or one for each axis; overlap: half a tile by default. An image no larger than a
    tile along an axis is whole along it. Tiles lie inside the image: those at its border see the true border, as the
    denoiser would without tiles (reflected pixels would be others), and weigh fully there.

    `offset`: all tiles but the first start so many pixels earlier, one number or one for each axis. By default it moves
    from call to call, the same for all images, so that no border stays in place over the noise levels; it follows from the
    number of calls since the noise level last rose, hence is the same in every run. Fix it (0) inside a cache, which would
    else extrapolate the little that it changes.

    `margin`: so many pixels at the inner borders of a tile weigh nothing, by default a quarter of the overlap. `grid`: tiles
    start at multiples of it, by default the coarsest grid of the network, on which its strided convolutions stand. A denoiser
    that sees no farther than the margin is then computed exactly; see `exactly_tiled`.

    Measured with the prior "brain" on 256 x 256, tiles of 128, at sigma = 0.05, 0.2, 1, 5, RMS of what tiling changes: 0.03 to
    0.06 % of sigma, at most 2.4 % of the prior's own error; without margin 0.1 %; off the grid 5, 2, 0.6 and 0.3 %.

    Only the denoiser is tiled. The data step stands around this prior and sees the whole image, for Fourier and Radon operators
    tie all pixels together. Unlimited-size restoration (Wang et al. 2023, arXiv:2303.00354) instead finishes tile after tile and
    holds the overlap with finished ones fixed (mask shift): that is right only where the data of a tile do not depend on the
    others (inpainting, denoising), and errors add up along the way; it is not done here.

    The cost grows by (tile / stride) for each axis, 4 in 2-D by default. `images_at_once` bounds memory: so many tiles (at
    least one for each image of the batch) are denoised together.
    """

    def __init__(
        self,
        prior: Prior,
        tile: int | Sequence[int],
        *,
        overlap: int | Sequence[int] | None = None,
        offset: int | Sequence[int] | None = None,
        margin: int | Sequence[int] | None = None,
        grid: int | None = None,
        images_at_once: int = 8,
    ) -> None:
        super().__init__(prior)
        axes = prior.image_axes
        self.tile = _each(tile, axes, "tile")
        self.grid = _network_grid(prior) if grid is None else grid
        if self.grid < 1 or images_at_once < 1:
            raise BadInput(f"grid = {grid}, images_at_once = {images_at_once}: expected at least 1")
        self.overlap = tuple(t // 2 // self.grid * self.grid for t in self.tile) if overlap is None else _each(overlap, axes, "overlap")
        self.offset = None if offset is None else _each(offset, axes, "offset")
        self.margin = tuple(shared // 4 for shared in self.overlap) if margin is None else _each(margin, axes, "margin")
        self.images_at_once = images_at_once
        if any(length % self.grid for length in (*self.tile, *self.overlap, *(self.offset or ()))):
            raise BadInput(f"tile {self.tile}, overlap {self.overlap}, offset {self.offset}: expected multiples of grid = {self.grid}")
        for length, shared, cut in zip(self.tile, self.overlap, self.margin, strict=True):
            if not 2 * cut <= shared < length:
                raise BadInput(f"tile {length}, overlap {shared}, margin {cut}: expected 2 margin <= overlap < tile")
        self._calls, self._level = 0, 0.0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        shape = noisy.shape[-self.image_axes :]
        offset = self._next_offset(sigma)
        if all(n <= t for n, t in zip(shape, self.tile, strict=True)):
            return self.prior.denoise(noisy, sigma)
        layout = zip(shape, self.tile, self.overlap, offset, strict=True)
        spans = [placed(n, t, t - shared, o, self.grid) for n, t, shared, o in layout]
        weights = [
            [w.to(noisy.device, real_dtype(noisy.dtype)) for w in windows(n, found, shared, cut)]
            for n, found, shared, cut in zip(shape, spans, self.overlap, self.margin, strict=True)
        ]
        result = torch.zeros_like(noisy)
        for places in self._batches(spans, noisy.shape[: noisy.ndim - self.image_axes].numel()):
            tiles = [[along[k] for along, k in zip(spans, place, strict=True)] for place in places]
            denoised = checkpointed(self.prior.denoise, torch.stack([_part(noisy, tile) for tile in tiles]), sigma)
            for place, tile, image in zip(places, tiles, denoised, strict=True):
                _part(result, tile).add_(image * _outer([along[k] for along, k in zip(weights, place, strict=True)]))
        return result

    def workspace(self, n_images: int, n_pixels: int) -> int:
        size = min(n_pixels, math.prod(self.tile))
        together = max(n_images, self.images_at_once)
        return self.prior.workspace(together, size) + 3 * 8 * together * size

    def _next_offset(self, sigma: Tensor) -> tuple[int, ...]:
        level = float(torch.as_tensor(sigma).max())
        self._calls = 0 if level > self._level else self._calls + 1
        self._level = level
        if self.offset is not None:
            return self.offset
        strides = [(t - shared) // self.grid for t, shared in zip(self.tile, self.overlap, strict=True)]
        shares = IRRATIONAL[: self.image_axes]
        return tuple(int(self._calls * share % 1 * stride) * self.grid for share, stride in zip(shares, strides, strict=True))

    def _batches(self, spans: list[list[Span]], n_images: int) -> Iterator[list[tuple[int, ...]]]:
        """Places of tiles of one size, as many as may be denoised together."""
        places = list(product(*(range(len(along)) for along in spans)))

        def size(place: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(along[k][1] - along[k][0] for along, k in zip(spans, place, strict=True))

        at_once = max(1, self.images_at_once // max(1, n_images))
        for _, alike in groupby(sorted(places, key=size), key=size):
            same = list(alike)
            yield from (same[i : i + at_once] for i in range(0, len(same), at_once))


def exactly_tiled(prior: Prior, tile: int | Sequence[int], *, images_at_once: int = 8) -> Tiled:
    """Tiles that change nothing: their borders are cut off by as much as the network sees, 93 pixels for the shipped priors.

    The tile must be well larger than twice that: of 512 x 512 pixels, 320 x 320 count, at 2.6 times the cost.
    """
    network = _network(prior)
    if network is None:
        raise NotSupported(f"{type(prior).__name__} does not say how far it sees: use Tiled with a margin of your own")
    overlap = math.ceil(2 * network.radius / network.grid) * network.grid
    return Tiled(prior, tile, overlap=overlap, offset=0, margin=network.radius, images_at_once=images_at_once)


def _network(prior: Prior) -> UNet | None:
    """The network inside, if it is one that knows its grid."""
    while isinstance(prior, Wrapped):
        prior = prior.prior
    return prior.network if isinstance(prior, NetworkPrior) and isinstance(prior.network, UNet) else None


def _network_grid(prior: Prior) -> int:
    network = _network(prior)
    return 1 if network is None else network.grid


def placed(n: int, tile: int, stride: int, offset: int, grid: int) -> list[Span]:
    """Tiles that cover 0..n, every `stride`, the first by `offset` less, none beyond the image, all starts multiples of `grid`.

    The last one is shorter by less than `grid` where the image is no multiple of it.
    """
    if n <= tile:
        return [(0, n)]
    last = math.ceil((n - tile) / grid) * grid
    starts = sorted({min(max(0, start), last) for start in range(-offset, last + stride, stride)})
    return [(start, min(n, start + tile)) for start in starts]


def windows(n: int, spans: Sequence[Span], overlap: int, margin: int) -> list[Tensor]:
    """Weights along one axis, (length of the span,) each, float64, adding to 1 at every pixel.

    A raised cosine at borders inside the image, from `margin` inwards over what is left of the overlap; never 0 beyond.
    """
    raw = [_ramp(stop - start, overlap - 2 * margin, margin, start > 0, stop < n) for start, stop in spans]
    total = torch.zeros(n, dtype=torch.float64)
    for (start, stop), weight in zip(spans, raw, strict=True):
        total[start:stop] += weight
    return [weight / total[start:stop] for (start, stop), weight in zip(spans, raw, strict=True)]


def _ramp(length: int, width: int, margin: int, rises: bool, falls: bool) -> Tensor:
    middle = torch.arange(length, dtype=torch.float64) + 0.5 - margin
    inside = torch.full((length,), math.inf, dtype=torch.float64)
    if rises:
        inside = torch.minimum(inside, middle)
    if falls:
        inside = torch.minimum(inside, middle.flip(0))
    return (inside / max(width, 1e-9)).clamp(0, 1).mul(math.pi / 2).sin().square()


def _part(image: Tensor, tile: Sequence[Span]) -> Tensor:
    """A view of the trailing block."""
    for axis, (start, stop) in enumerate(tile, start=image.ndim - len(tile)):
        image = image.narrow(axis, start, stop - start)
    return image


def _outer(weights: Sequence[Tensor]) -> Tensor:
    result = weights[0]
    for weight in weights[1:]:
        result = result.unsqueeze(-1) * weight
    return result


def _each(value: int | Sequence[int], axes: int, name: str) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or any(v < 0 for v in values):
        raise BadInput(f"{name} = {value}: expected one number of pixels, or one for each of {axes} axes")
    return values
