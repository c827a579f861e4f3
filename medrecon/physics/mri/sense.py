"""Cartesian multi-coil encoding A = M F S, its fast normal operator and its exact spectrum by columns."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity
from medrecon.linop.fourier import Fourier, fft, ifft
from medrecon.linop.operator import LinearOperator, Spectrum
from medrecon.physics.mri.columns import ColumnBasis, column_normal
from medrecon.tensors import real_dtype

CACHE_BYTES = 1 << 22
"""Coils are transformed in groups of about this size, so that a group stays near the processor and still keeps its threads busy."""

ACCELERATOR_BYTES = 1 << 28
"""The same on other devices, which want much work at once: a bound on memory."""


def cache_bytes(device: torch.device) -> int:
    """The size of a group of coils."""
    return CACHE_BYTES if device.type == "cpu" else ACCELERATOR_BYTES


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
    root: Tensor
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
        self.register_buffer("root", self.weights.sqrt(), persistent=False)
        if exact and (self.varying != (-2,) or sets or image_axes != 2):
            raise BadInput("exact columns need 2-D images, one set of maps and undersampling along y alone: use conjugate gradients")
        self.exact = exact
        self.domain = (int(maps.shape[-image_axes - 2]), *self.image) if sets else self.image
        self.range = (self.coils, *self.image)

    @property
    def n_samples(self) -> int:
        """Acquired positions times coils; the mean over the batch if masks differ."""
        sampled = float((self.weights != 0).double().mean())
        return round(sampled * math.prod(self.range))

    @property
    def support(self) -> Tensor:
        """Bool (*batch, *domain): pixels that any coil sees. The data say nothing of the others."""
        return (self.maps != 0).any(-1 - len(self.image))

    def _spread(self, maps: Tensor, x: Tensor) -> Tensor:
        """S x for a group of coils: (*batch, *domain) -> (*batch, coil, *image)."""
        images = maps * x.unsqueeze(-1 - len(self.image))
        return images.sum(-2 - len(self.image)) if self.sets else images

    def _gathered(self, maps: Tensor, coil_images: Tensor) -> Tensor:
        """Sᴴ of a group of coils: (*batch, coil, *image) -> (*batch, *domain)."""
        if self.sets:
            coil_images = coil_images.unsqueeze(-2 - len(self.image))
        return (maps.conj() * coil_images).sum(-1 - len(self.image))

    def _forward(self, x: Tensor) -> Tensor:
        parts = [
            fft(self._spread(maps, x), self.axes) * self.root for maps in self.maps.split(self._group(x, len(self.domain)), self._coil)
        ]
        return torch.cat(parts, self._coil) if len(parts) > 1 else parts[0]

    def _adjoint(self, y: Tensor) -> Tensor:
        group = self._group(y, len(self.range))
        pairs = zip(self.maps.split(group, self._coil), y.split(group, self._coil), strict=True)
        parts = (self._gathered(maps, ifft(some * self.root, self.axes)) for maps, some in pairs)
        return functools.reduce(torch.add, parts)

    @property
    def _coil(self) -> int:
        """The coil axis of maps and data."""
        return -1 - len(self.image)

    def _group(self, data: Tensor, axes: int) -> int:
        """How many coils are transformed at a time: temporary copies of all would need several times the memory of the data."""
        items = math.prod(data.shape[: data.ndim - axes])
        return max(1, cache_bytes(data.device) // max(1, items * math.prod(self.image) * data.element_size()))

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
        return self._columns if self.exact else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sense:
        self.__dict__.pop("_columns", None)  # made of tensors that are about to move
        return super()._apply(fn, recurse)


class SenseNormal(LinearOperator):
    """AᴴA by transforming only the axes along which the mask varies, without any shift.

    Image-side shifts are modulations in k-space and commute with the mask; the k-side shift goes into the mask once.
    A single varying axis is kept last in memory, which is twice as fast as a strided transform, and readout columns
    that no map reaches are left out. Works item by item and through groups of coils: it holds one group of coil images
    beside the maps.
    """

    maps: Tensor
    conjugate: Tensor
    weights: Tensor

    def __init__(self, operator: Sense) -> None:
        super().__init__()
        self.domain = self.range = operator.domain
        self.complex_range, self.sets, self.image_axes = True, operator.sets, len(operator.image)
        self.turn = operator.varying == (-2,)
        self.axes = (-1,) if self.turn else operator.varying
        maps, weights = operator.maps, torch.fft.ifftshift(operator.weights, operator.varying) if operator.varying else operator.weights
        self.first, self.last = _reached(maps) if self.turn else (0, operator.image[-1])
        if self.turn:
            maps, weights = maps[..., self.first : self.last].mT, weights.mT
        self.register_buffer("maps", maps.contiguous(), persistent=False)
        # a product with a conjugate would be made in memory at every step
        self.register_buffer("conjugate", self.maps.conj().resolve_conj(), persistent=False)
        self.register_buffer("weights", weights.contiguous(), persistent=False)

    @property
    def H(self) -> LinearOperator:
        return self

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _forward(self, x: Tensor) -> Tensor:
        if self.turn:
            x = x[..., self.first : self.last].mT.contiguous()
        axes, sets = self.image_axes, int(self.sets)
        parts, tails = (x, self.maps, self.conjugate, self.weights), (axes + sets, axes + 1 + sets, axes + 1 + sets, axes + 1)
        lead = torch.broadcast_shapes(*(t.shape[: t.ndim - tail] for t, tail in zip(parts, tails, strict=True)))
        one = math.prod(self.maps.shape[-axes:]) * x.element_size()
        limit = cache_bytes(x.device)
        whole = [t.expand(*lead, *t.shape[t.ndim - tail :]) for t, tail in zip(parts, tails, strict=True)]
        if math.prod(lead) * one <= limit:
            total = self._grouped(limit // max(1, math.prod(lead) * one), *whole)
        else:
            items = [self._grouped(limit // one, *(t[i] for t in whole)) for i in itertools.product(*map(range, lead))]
            total = torch.stack(items).reshape(*lead, *items[0].shape)
        return functional.pad(total.mT, (self.first, self.domain[-1] - self.last)) if self.turn else total

    def _grouped(self, group: int, x: Tensor, maps: Tensor, conjugate: Tensor, weights: Tensor) -> Tensor:
        """AᴴA x in the turned layout, summed over groups of coils."""
        coil = -1 - self.image_axes
        x = x.unsqueeze(coil)
        total: Tensor | None = None
        for some, back in zip(maps.split(max(1, group), coil), conjugate.split(max(1, group), coil), strict=True):
            part = self._group(x, some, back, weights)
            if total is None:
                total = part
            else:
                total = total + part if part.requires_grad else total.add_(part)
        assert total is not None
        return total

    def _group(self, x: Tensor, maps: Tensor, conjugate: Tensor, weights: Tensor) -> Tensor:
        coil = -1 - self.image_axes
        images = maps * x
        if self.sets:
            images = images.sum(coil - 1)
        if self.axes:
            images = torch.fft.ifftn(torch.fft.fftn(images, dim=self.axes).mul_(weights), dim=self.axes)
        else:
            images = images * weights
        if self.sets:
            return (images.unsqueeze(coil - 1) * conjugate).sum(coil)
        return images.mul_(conjugate).sum(coil)


def _reached(maps: Tensor) -> tuple[int, int]:
    """First and one past the last readout column of maps (..., y, x) that is not zero everywhere; all if there is none."""
    used = (maps != 0).flatten(0, -2).any(0).nonzero()
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, int(maps.shape[-1]))
