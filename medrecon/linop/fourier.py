"""Centred orthonormal Fourier transforms over any trailing axes.

Index n of an axis of length N stands for position n - N//2, even or odd, on both sides. The forward sign is
exp(-2 pi i k r / N). The adjoint is the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity
from medrecon.linop.operator import LinearOperator, Spectrum


def fft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Image to k-space over `axes`; complex, same shape."""
    axes = tuple(axes)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def ifft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """k-space to image over `axes`; the adjoint and inverse of `fft`."""
    axes = tuple(axes)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


class Fourier(LinearOperator):
    """`fft` over the given axes of (*batch, *shape); `axes` are negative, by default all axes of `shape`."""

    complex_range = True
    unitary = True

    def __init__(self, shape: Sequence[int], axes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.domain = self.range = tuple(shape)
        self.axes = tuple(range(-len(self.domain), 0)) if axes is None else tuple(axes)
        if any(not -len(self.domain) <= axis < 0 for axis in self.axes) or len(set(self.axes)) != len(self.axes):
            raise BadInput(f"Fourier: axes {self.axes} of {self.domain}: expected distinct negative axes from {-len(self.domain)} to -1")

    def _forward(self, x: Tensor) -> Tensor:
        return fft(x, self.axes) if self.axes else x

    def _adjoint(self, y: Tensor) -> Tensor:
        return ifft(y, self.axes) if self.axes else y

    @property
    def normal(self) -> LinearOperator:
        return Identity(self.domain)

    @property
    def spectrum(self) -> Spectrum:
        return Identity(self.domain).spectrum
