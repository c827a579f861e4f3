"""Cartesian multi-coil encoding A = M F S, its fast normal operator and its exact spectrum by columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity
from medrecon.linop.fourier import Fourier, fft, ifft
from medrecon.linop.operator import LinearOperator, Spectrum
from medrecon.physics.mri.columns import ColumnBasis, column_normal
from medrecon.tensors import real_dtype

CACHE_BYTES = 1 << 21
"""Coils are transformed in groups of about this size, so that a group stays in the processor's cache."""


def sense(
    maps: Tensor,
    mask: Tensor,
    *,
    image_axes: int | None = None,
    sets: bool = False,
    axes: Sequence[int] | None = None,
    exact: bool = False,
) -> Sense:
    """y_c = M F (S_c x) for images (*batch, [z,] y, x), or (*batch, set, [z,] y, x) with several map sets (soft-SENSE).

    `maps`: (*batch, [set,] coil, [z,] y, x) complex. `mask`: bool, or weights >= 0 of the data term, of the true rank:
    (ny,) and (ny, 1) mean whole readout lines, (ny, nx), (nz, ny, 1), ..., with batch axes before if it varies.
    `image_axes`: 2 or 3, by default 3 for a 3-D mask without batch axes. `axes`: transformed axes (negative), by
    default all; leave out fully sampled ones to work on hybrid data whose readout was transformed back once.
    `exact`: offer the exact eigenbasis of each column as `spectrum` (undersampling along one axis only).
    """
    n_axes = image_axes or (3 if mask.ndim >= 3 else 2)
    mask = mask[:, None] if mask.ndim == 1 else mask
    return Sense(maps, mask, image_axes=n_axes, sets=sets, axes=axes, exact=exact)


class Sense(LinearOperator):
    """See `sense`."""

    maps: Tensor
    weights: Tensor
    complex_range = True

    def __init__(
        self, maps: Tensor, mask: Tensor, *, image_axes: int, sets: bool = False, axes: Sequence[int] | None = None, exact: bool = False
    ) -> None:
        super().__init__()
        if maps.ndim < image_axes + 1 + int(sets) or not maps.is_complex():
            raise BadInput(
                f"coil maps of shape {tuple(maps.shape)} and {maps.dtype}: expected complex "
                f"(*batch, {'set, ' if sets else ''}coil, {'z, ' if image_axes == 3 else ''}y, x)"
            )
        self.image = tuple(maps.shape[-image_axes:])
        self.coils, self.sets = int(maps.shape[-image_axes - 1]), sets
        covered = tuple(mask.shape[-image_axes:])
        if len(covered) != image_axes or any(m not in (1, n) for m, n in zip(covered, self.image, strict=True)):
            raise BadInput(f"mask covers {tuple(mask.shape)}, the maps {self.image}: crop the mask or calibrate on the same matrix")
        self.varying = tuple(axis for axis in range(-image_axes, 0) if covered[axis] > 1)
        self.axes = tuple(range(-image_axes, 0)) if axes is None else tuple(sorted(axes))
        if not set(self.varying) <= set(self.axes):
            raise BadInput(f"the mask varies along axes {self.varying}, transformed are only {self.axes}")
        self.register_buffer("maps", maps)
        weights = mask.to(real_dtype(maps.dtype))
        if bool((weights < 0).any()):
            raise BadInput("sampling weights: expected 0 (not sampled) or positive numbers")
        self.register_buffer("weights", weights.unsqueeze(-image_axes - 1))  # the coil axis
        self.exact = exact
        self.domain = (int(maps.shape[-image_axes - 2]), *self.image) if sets else self.image
        self.range = (self.coils, *self.image)

    @property
    def n_samples(self) -> int:
        """Acquired positions times coils; the mean over the batch if masks differ."""
        sampled = float((self.weights != 0).double().mean())
        return round(sampled * math.prod(self.range))

    def coil_images(self, x: Tensor) -> Tensor:
        """S x: (*batch, *domain) -> (*batch, coil, *image)."""
        images = self.maps * x.unsqueeze(-1 - len(self.image))
        return images.sum(-2 - len(self.image)) if self.sets else images

    def combine(self, coil_images: Tensor) -> Tensor:
        """Sᴴ: (*batch, coil, *image) -> (*batch, *domain)."""
        if self.sets:
            coil_images = coil_images.unsqueeze(-2 - len(self.image))
        return (self.maps.conj() * coil_images).sum(-1 - len(self.image))

    @cached_property
    def _root(self) -> Tensor:
        return self.weights.sqrt()

    def _forward(self, x: Tensor) -> Tensor:
        return fft(self.coil_images(x), self.axes) * self._root

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.combine(ifft(y * self._root, self.axes))

    @property
    def normal(self) -> LinearOperator:
        return SenseNormal(self)

    @cached_property
    def _columns(self) -> Spectrum:
        values, vectors = torch.linalg.eigh(column_normal(self.maps, self.weights.squeeze(-len(self.image) - 1)))
        return Spectrum(ColumnBasis(vectors, self.image), values.clamp_min(0))

    @property
    def spectrum(self) -> Spectrum | None:
        """The eigenbasis of each readout column where `exact` was asked for; the Fourier basis for one coil of ones."""
        if self.coils == 1 and not self.sets and bool((self.maps == 1).all()):
            transform = Fourier(self.image, self.varying) if self.varying else Identity(self.image)
            return Spectrum(transform, self.weights.squeeze(-len(self.image) - 1))
        if not self.exact:
            return None
        if self.varying != (-2,) or self.sets or len(self.image) != 2:
            raise BadInput("exact columns need 2-D images, one set of maps and undersampling along y alone: use conjugate gradients")
        return self._columns


class SenseNormal(LinearOperator):
    """AᴴA by transforming only the axes along which the mask varies, without any shift.

    Image-side shifts are modulations in k-space and commute with the mask; the k-side shift goes into the mask once.
    A single varying axis is kept last in memory, which is twice as fast as a strided transform. Works through groups
    of coils: it holds one group of coil images beside the maps.
    """

    def __init__(self, operator: Sense) -> None:
        super().__init__()
        n = len(operator.image)
        self.domain = self.range = operator.domain
        self.complex_range, self.sets = True, operator.sets
        self.turn = operator.varying == (-2,)
        self.axes = (-1,) if self.turn else operator.varying
        maps, weights = operator.maps, torch.fft.ifftshift(operator.weights, operator.varying) if operator.varying else operator.weights
        if self.turn:
            maps, weights = maps.mT, weights.mT
        self.image_axes = n
        self.register_buffer("maps", maps.contiguous(), persistent=False)
        self.register_buffer("weights", weights.contiguous(), persistent=False)

    maps: Tensor
    weights: Tensor

    @property
    def H(self) -> LinearOperator:
        return self

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _forward(self, x: Tensor) -> Tensor:
        coil = -1 - self.image_axes
        if self.turn:
            x = x.mT.contiguous()
        x = x.unsqueeze(coil)
        lead = math.prod(torch.broadcast_shapes(x.shape[: coil - int(self.sets)], self.maps.shape[: coil - int(self.sets)]))
        one = lead * math.prod(self.maps.shape[coil + 1 :]) * x.element_size()
        group = max(1, CACHE_BYTES // one)
        total: Tensor | None = None
        for maps in self.maps.split(group, coil):
            part = self._group(maps, x)
            total = part if total is None else total.add_(part) if not part.requires_grad else total + part
        assert total is not None
        return total.mT if self.turn else total

    def _group(self, maps: Tensor, x: Tensor) -> Tensor:
        coil = -1 - self.image_axes
        images = maps * x
        if self.sets:
            images = images.sum(coil - 1)
        if self.axes:
            images = torch.fft.ifftn(torch.fft.fftn(images, dim=self.axes).mul_(self.weights), dim=self.axes)
        else:
            images = images * self.weights
        if self.sets:
            images = images.unsqueeze(coil - 1)
        # A group of one coil needs no sum; mul_ on our own buffer saves a pass over memory.
        product = images * maps.conj() if self.sets else images.mul_(maps.conj())
        return product.sum(coil)
