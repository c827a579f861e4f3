"""Penalties R(x) = g(K x): a linear operator K and a g whose proximal step is exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.linop.difference import Gradient
from medrecon.linop.operator import LinearOperator
from medrecon.linop.wavelet import Wavelet
from medrecon.tensors import real_dtype, trailing


class Regulariser(ABC):
    """R(x) = g(K x) for images (*batch, *K.domain). Weights are numbers or (*batch, 1, ..., 1) over the image's axes."""

    operator: LinearOperator
    """K."""

    @abstractmethod
    def penalty(self, z: Tensor) -> Tensor:
        """g(z), (*batch,)."""

    @abstractmethod
    def shrink(self, z: Tensor, weight: Tensor | float) -> Tensor:
        """argmin over u of |u - z|^2 / 2 + weight g(u)."""

    def value(self, x: Tensor) -> Tensor:
        """R(x), (*batch, 1, ..., 1) with as many ones as the image has axes."""
        penalty = self.penalty(self.operator(x))
        return penalty.reshape(*penalty.shape, *[1] * len(self.operator.domain))

    def prox(self, v: Tensor, weight: Tensor | float) -> Tensor:
        """argmin over x of |x - v|^2 / 2 + weight R(x), exactly; `NotSupported` unless K is a unitary basis."""
        if not self.unitary:
            raise NotSupported(f"{type(self).__name__} has no exact proximal step: use admm or pdhg, which need `shrink` only")
        return self.operator.H(self.shrink(self.operator(v), weight))

    @property
    @abstractmethod
    def unitary(self) -> bool:
        """K^H K = 1 and K K^H = 1."""

    def project(self, dual: Tensor, weight: Tensor | float) -> Tensor:
        """The proximal step of the conjugate of weight g: dual - shrink(dual, weight) by Moreau, for a norm g."""
        return dual - self.shrink(dual, weight)

    def spread(self, weight: Tensor | float) -> Tensor | float:
        """A weight over the image's axes as one over K's range."""
        if not isinstance(weight, Tensor) or weight.ndim == 0:
            return weight
        batch = weight.shape[: weight.ndim - len(self.operator.domain)]
        return weight.reshape(*batch, *[1] * len(self.operator.range))


class L1(Regulariser):
    """sum |K x| over the range of any operator K, complex magnitude: with `Difference`, total variation along one axis."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    @property
    def unitary(self) -> bool:
        return self.operator.unitary

    def penalty(self, z: Tensor) -> Tensor:
        return z.abs().sum(trailing(len(self.operator.range)))

    def shrink(self, z: Tensor, weight: Tensor | float) -> Tensor:
        return _shrink(z, z.abs(), self.spread(weight))


class WaveletL1(L1):
    """sum |W x| over all coefficients of an orthonormal wavelet transform, complex magnitude."""

    def __init__(self, shape: Sequence[int], name: str = "db2", levels: int = 4, axes: Sequence[int] | None = None) -> None:
        super().__init__(Wavelet(shape, name, levels, axes))

    @property
    def unitary(self) -> bool:
        return True


class TotalVariation(Regulariser):
    """sum over pixels of |gradient|_2: isotropic, periodic, one magnitude over axes and real and imaginary parts."""

    def __init__(self, shape: Sequence[int], axes: Sequence[int] | None = None, spacing: Sequence[float] | None = None) -> None:
        self.operator = Gradient(shape, axes, spacing)
        self._component = -len(self.operator.range)

    @property
    def unitary(self) -> bool:
        return False

    def penalty(self, z: Tensor) -> Tensor:
        return self._size(z).sum(trailing(len(self.operator.range)))

    def shrink(self, z: Tensor, weight: Tensor | float) -> Tensor:
        return _shrink(z, self._size(z), self.spread(weight))

    def _size(self, z: Tensor) -> Tensor:
        if not z.is_complex():
            return torch.linalg.vector_norm(z, dim=self._component, keepdim=True)
        # Faster than the norm of a complex tensor, and equal.
        square = torch.view_as_real(z.resolve_conj()).square().sum(-1)
        return square.sum(self._component, keepdim=True).sqrt()


def _shrink(z: Tensor, size: Tensor, weight: Tensor | float) -> Tensor:
    """z with its size lowered by weight, not below 0."""
    if isinstance(weight, Tensor):
        weight = weight.to(device=z.device, dtype=real_dtype(z.dtype))
    tiny = torch.finfo(size.dtype).tiny
    return z * ((size - weight).clamp_min_(0) / size.clamp_min(tiny))
