"""Orthonormal periodic Daubechies wavelets of images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.linop.basic import Identity
from medrecon.linop.operator import LinearOperator, Spectrum

LOWPASS = {
    "db1": (0.7071067811865476, 0.7071067811865476),
    "db2": (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037),
    "db3": (0.3326705529500826, 0.8068915093110925, 0.4598775021184916, -0.1350110200102546, -0.0854412738820267, 0.0352262918857095),
    "db4": (
        0.23037781330889648,
        0.71484657055291565,
        0.63088076792985895,
        -0.027983769416859854,
        -0.18703481171909308,
        0.030841381835560763,
        0.032883011666885197,
        -0.010597401785069032,
    ),
}
"""Synthesis low-pass filters by name; dbN has N vanishing moments and 2N taps (Daubechies 1988, table 1)."""


class Wavelet(LinearOperator):
    """Multi-level wavelet transform over `axes` of (*batch, *shape), an orthonormal basis for every size.

    Coefficients have the image's shape: the coarse image in the first corner, details after it along each axis, finest
    last. Where a length is odd, its last sample passes unchanged into the coarse part, which keeps the transform
    orthonormal, so adjoint = inverse and soft-thresholding is exact. Even lengths follow PyWavelets' "periodization".
    """

    lowpass: Tensor

    def __init__(self, shape: Sequence[int], name: str = "db2", levels: int = 4, axes: Sequence[int] | None = None) -> None:
        super().__init__()
        if name not in LOWPASS:
            raise BadInput(f"wavelet {name!r} is not one of {', '.join(LOWPASS)}{nearest(name, tuple(LOWPASS))}")
        if levels < 0:
            raise BadInput(f"wavelet levels: expected 0 or more, got {levels}")
        self.domain = self.range = tuple(shape)
        self.axes = tuple(range(-len(self.domain), 0)) if axes is None else tuple(axes)
        self.name, self.levels = name, levels
        self.filters = _polyphase(LOWPASS[name])

    def blocks(self) -> list[tuple[int, ...]]:
        """Shapes of the image, then of the coarse part after each level."""
        shapes = [self.domain]
        for _ in range(self.levels):
            halved = list(shapes[-1])
            for axis in self.axes:
                halved[axis] = (halved[axis] + 1) // 2
            shapes.append(tuple(halved))
        return shapes

    def _forward(self, x: Tensor) -> Tensor:
        result = x.clone()
        for shape in self.blocks()[:-1]:
            corner = _corner(result, shape)
            block = corner
            for axis in self.axes:
                block = _analyse(block, axis, self.filters)
            corner.copy_(block)
        return result

    def _adjoint(self, y: Tensor) -> Tensor:
        result = y.clone()
        for shape in reversed(self.blocks()[:-1]):
            corner = _corner(result, shape)
            block = corner
            for axis in reversed(self.axes):
                block = _synthesise(block, axis, self.filters)
            corner.copy_(block)
        return result

    @property
    def normal(self) -> LinearOperator:
        return Identity(self.domain)

    @property
    def spectrum(self) -> Spectrum:
        return Identity(self.domain).spectrum


def _corner(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first block of the trailing axes, a view."""
    for axis, n in zip(range(-len(shape), 0), shape, strict=True):
        x = x.narrow(axis, 0, n)
    return x


Filters = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _polyphase(low: tuple[float, ...]) -> Filters:
    """Even and odd taps of the low-pass, even and odd taps of the high-pass g[j] = (-1)^j h[L - 1 - j]."""
    high = tuple((-1) ** j * low[-1 - j] for j in range(len(low)))
    return low[0::2], low[1::2], high[0::2], high[1::2]


def _analyse(x: Tensor, axis: int, filters: Filters) -> Tensor:
    """One level along one axis: coarse[k] = sum_j h[j] x[2k + j - o], details with g, o = taps/2 - 1, periodic."""
    low_even, low_odd, high_even, high_odd = filters
    half, taps = x.shape[axis] // 2, len(low_even)
    if half == 0:
        return x
    # Sample 2k + j - o: even and odd j, extended periodically so that every tap is a plain window.
    first = 2 * torch.arange(half + taps - 1, device=x.device) - (taps - 1)
    even, odd = (_planes(x.index_select(axis, (first + parity) % (2 * half))) for parity in (0, 1))
    at = axis - 1 if x.is_complex() else axis
    coarse = _windows(even, low_even, odd, low_odd, at, half)
    detail = _windows(even, high_even, odd, high_odd, at, half)
    rest = _planes(x).narrow(at, 2 * half, x.shape[axis] - 2 * half)
    return _like(torch.cat([coarse, rest, detail], at), x)


def _synthesise(y: Tensor, axis: int, filters: Filters) -> Tensor:
    """The adjoint and inverse of `_analyse`."""
    low_even, low_odd, high_even, high_odd = (f[::-1] for f in filters)
    n = y.shape[axis]
    half, taps = n // 2, len(low_even)
    if half == 0:
        return y
    index = (torch.arange(half + taps - 1, device=y.device) - (taps - 1)) % half
    coarse, detail = (_planes(y.index_select(axis, index + start)) for start in (0, n - half))
    at = axis - 1 if y.is_complex() else axis
    even = _windows(coarse, low_even, detail, high_even, at, half)
    odd = _windows(coarse, low_odd, detail, high_odd, at, half)
    whole = torch.stack([even, odd], at).flatten(at - 1, at).roll(1 - taps, at)
    rest = _planes(y).narrow(at, half, n - 2 * half)
    return _like(torch.cat([whole, rest], at) if n % 2 else whole, y)


def _windows(a: Tensor, a_taps: tuple[float, ...], b: Tensor, b_taps: tuple[float, ...], axis: int, length: int) -> Tensor:
    """sum_m a_taps[m] a[k + m] + b_taps[m] b[k + m] for k < length."""
    total = a.narrow(axis, 0, length) * a_taps[0]
    total = total.add_(b.narrow(axis, 0, length), alpha=b_taps[0])
    for m in range(1, len(a_taps)):
        total = total.add_(a.narrow(axis, m, length), alpha=a_taps[m]).add_(b.narrow(axis, m, length), alpha=b_taps[m])
    return total


def _planes(x: Tensor) -> Tensor:
    """Complex numbers as pairs on a last axis: real arithmetic is faster and equal."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _like(planes: Tensor, x: Tensor) -> Tensor:
    return torch.view_as_complex(planes.contiguous()) if x.is_complex() else planes
