"""Identity, diagonal operators and sampling masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.operator import LinearOperator, Spectrum


class Identity(LinearOperator):
    """x to x, (*batch, *shape)."""

    unitary = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.domain = self.range = tuple(shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    @property
    def H(self) -> LinearOperator:
        return self

    @property
    def normal(self) -> LinearOperator:
        return self

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(self, torch.ones((), dtype=torch.float64))


class Diagonal(LinearOperator):
    """x to values * x, (*batch, *shape). `values` broadcast over `shape` and may have batch axes before it."""

    values: Tensor

    def __init__(self, values: Tensor, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.domain = self.range = tuple(values.shape if shape is None else shape)
        try:
            whole = torch.broadcast_shapes(values.shape, self.domain)
        except RuntimeError:
            whole = ()
        if whole[len(whole) - len(self.domain) :] != self.domain:
            raise BadInput(f"{type(self).__name__}: values of shape {tuple(values.shape)} do not broadcast over {self.domain}")
        self.complex_range = values.is_complex()

    def _forward(self, x: Tensor) -> Tensor:
        return self.values * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.values.conj() * y

    @property
    def normal(self) -> LinearOperator:
        return Diagonal(self.values.abs() ** 2, self.domain)

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(Identity(self.domain), self.values.abs() ** 2)

    @property
    def n_samples(self) -> int:
        """How many entries have a non-zero factor; the mean over the batch when the values have batch axes."""
        return round(math.prod(self.domain) * float((self.values != 0).double().mean()))


class Mask(LinearOperator):
    """Keeps the entries where `mask` (bool) is true and sets the others to exactly 0, NaN included: (*batch, *shape).

    `mask` broadcasts over `shape` and may have batch axes before it. Weights are a `Diagonal`.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        if mask.dtype != torch.bool:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise BadInput("Mask: the values are not all 0 or 1: use Diagonal(weights.sqrt()) for weights")
            mask = mask.bool()
        self.register_buffer("mask", mask)
        self.domain = self.range = Diagonal(mask, shape).domain

    def _forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, torch.zeros((), dtype=x.dtype, device=x.device))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self

    @property
    def normal(self) -> LinearOperator:
        return self

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(Identity(self.domain), self.mask.double())

    @property
    def n_samples(self) -> int:
        """How many entries are kept; the mean over the batch when the mask has batch axes."""
        return round(math.prod(self.domain) * float(self.mask.double().mean()))
