"""Forward differences: the periodic gradient with its Fourier spectrum, and one axis that ends, with its cosine spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity
from medrecon.linop.fourier import Fourier
from medrecon.linop.operator import LinearOperator, Spectrum


class Gradient(LinearOperator):
    """Periodic forward differences along `axes`: (*batch, *shape) -> (*batch, axis, *shape).

    Component i at n is (x[n + 1] - x[n]) / spacing[i]. `axes` are negative, by default all of `shape`; `spacing` is 1
    by default, or lengths (mm) where voxels are not cubes.
    """

    def __init__(self, shape: Sequence[int], axes: Sequence[int] | None = None, spacing: Sequence[float] | None = None) -> None:
        super().__init__()
        self.domain = tuple(shape)
        self.axes = tuple(range(-len(self.domain), 0)) if axes is None else tuple(axes)
        self.spacing = (1.0,) * len(self.axes) if spacing is None else tuple(float(s) for s in spacing)
        if len(self.spacing) != len(self.axes) or min(self.spacing, default=0.0) <= 0:
            raise BadInput(f"Gradient: spacing {self.spacing} for axes {self.axes}: expected one positive length an axis")
        if any(not -len(self.domain) <= axis < 0 for axis in self.axes):
            raise BadInput(f"Gradient: axes {self.axes} of {self.domain}: expected negative axes")
        self.range = (len(self.axes), *self.domain)

    def _forward(self, x: Tensor) -> Tensor:
        parts = [x.roll(-1, axis).sub_(x).div_(spacing) for axis, spacing in zip(self.axes, self.spacing, strict=True)]
        return torch.stack(parts, -1 - len(self.domain))

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.unbind(-1 - len(self.domain))
        result = torch.zeros_like(parts[0])
        for part, axis, spacing in zip(parts, self.axes, self.spacing, strict=True):
            result.add_(part.roll(1, axis).sub_(part), alpha=1 / spacing)
        return result

    @property
    def normal(self) -> LinearOperator:
        return Laplacian(self)

    @property
    def spectrum(self) -> Spectrum:
        """Fourier basis with sum over axes of (2 - 2 cos(2 pi k / N)) / spacing^2."""
        values = torch.zeros((), dtype=torch.float64)
        for axis, spacing in zip(self.axes, self.spacing, strict=True):
            n = self.domain[axis]
            k = torch.arange(n, dtype=torch.float64) - n // 2
            along = (2 - 2 * torch.cos(2 * math.pi * k / n)) / spacing**2
            values = values + along.reshape(n, *[1] * (-1 - axis))
        return Spectrum(Fourier(self.domain, self.axes), values)


class Laplacian(LinearOperator):
    """The negative periodic Laplacian, `Gradient`'s normal operator."""

    def __init__(self, gradient: Gradient) -> None:
        super().__init__()
        self.gradient = gradient
        self.domain = self.range = gradient.domain

    def _forward(self, x: Tensor) -> Tensor:
        centre = sum(2 / spacing**2 for spacing in self.gradient.spacing)
        result = centre * x
        for axis, spacing in zip(self.gradient.axes, self.gradient.spacing, strict=True):
            result.sub_(x.roll(1, axis), alpha=1 / spacing**2).sub_(x.roll(-1, axis), alpha=1 / spacing**2)
        return result

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self


class Difference(LinearOperator):
    """Forward differences along one axis that does not close on itself: (*batch, *shape) -> (*batch, *shape).

    At n it is (x[n + 1] - x[n]) / spacing, and 0 at the last n (Neumann): the ends of a volume or of a series are no
    neighbours. `axis` is negative; `spacing` a length (mm, ms, ...).
    """

    def __init__(self, shape: Sequence[int], axis: int = -3, spacing: float = 1.0) -> None:
        super().__init__()
        self.domain = self.range = tuple(shape)
        self.axis, self.spacing = axis, float(spacing)
        if not self.spacing > 0:
            raise BadInput(f"Difference: spacing {spacing}: expected a positive length")
        if not -len(self.domain) <= axis < 0:
            raise BadInput(f"Difference: axis {axis} of {self.domain}: expected a negative axis")

    def _forward(self, x: Tensor) -> Tensor:
        inner = x.diff(dim=self.axis).div_(self.spacing)
        return torch.cat([inner, torch.zeros_like(x.narrow(self.axis, 0, 1))], self.axis)

    def _adjoint(self, y: Tensor) -> Tensor:
        inner = y.narrow(self.axis, 0, self.domain[self.axis] - 1) / self.spacing
        result = torch.zeros_like(y, memory_format=torch.contiguous_format)
        result.narrow(self.axis, 1, inner.shape[self.axis]).add_(inner)
        result.narrow(self.axis, 0, inner.shape[self.axis]).sub_(inner)
        return result

    @property
    def spectrum(self) -> Spectrum:
        """Cosine basis with (2 - 2 cos(pi k / N)) / spacing^2."""
        n = self.domain[self.axis]
        k = torch.arange(n, dtype=torch.float64)
        values = (2 - 2 * torch.cos(math.pi * k / n)) / self.spacing**2
        return Spectrum(Cosine(self.domain, self.axis), values.reshape(n, *[1] * (-1 - self.axis)))


class Cosine(LinearOperator):
    """The orthonormal cosine transform (DCT-II) along one axis, by its matrix: (*batch, *shape) -> (*batch, *shape)."""

    unitary = True
    matrix: Tensor

    def __init__(self, shape: Sequence[int], axis: int) -> None:
        super().__init__()
        self.domain = self.range = tuple(shape)
        self.axis, n = axis, shape[axis]
        k = torch.arange(n, dtype=torch.float64)
        matrix = math.sqrt(2 / n) * torch.cos(math.pi * k[:, None] * (k + 0.5) / n)
        matrix[0] /= math.sqrt(2)
        self.register_buffer("matrix", matrix, persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        return self._along(x, self.matrix)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._along(y, self.matrix.mT)

    def _along(self, x: Tensor, matrix: Tensor) -> Tensor:
        return (x.movedim(self.axis, -1) @ matrix.mT.to(x)).movedim(-1, self.axis)

    @property
    def normal(self) -> LinearOperator:
        return Identity(self.domain)
