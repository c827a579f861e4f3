"""LinearOperator and its algebra: adjoint, product, sum, multiple, normal operator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from medrecon.errors import BadInput


@dataclass(frozen=True)
class Spectrum:
    """AᴴA = basisᴴ diag(values) basis, exactly; `basis` is unitary, `values` >= 0 broadcast over its range."""

    basis: LinearOperator
    values: Tensor


class LinearOperator(nn.Module, ABC):
    """A linear map between trailing axes: (*batch, *domain) -> (*batch, *range).

    A subclass sets `domain` and `range` and writes `_forward` and `_adjoint`. Shapes are checked at the door.
    Gradients with respect to the argument use the adjoint as backward pass (`opaque`); an operator whose own tensors
    are estimated sets `opaque = False` and is differentiated through its code instead.
    """

    domain: tuple[int, ...]
    range: tuple[int, ...]
    opaque: bool = True
    unitary: bool = False
    """True where AᴴA = AAᴴ = 1."""
    complex_range: bool = False
    """True where the range is complex even for a real domain; used by `n_data`."""

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        _check(self, "argument", x, self.domain)
        if self.opaque and torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, _Apply.apply(x, self, False))
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y."""
        _check(self, "argument of the adjoint", y, self.range)
        if self.opaque and torch.is_grad_enabled() and y.requires_grad:
            return cast(Tensor, _Apply.apply(y, self, True))
        return self._adjoint(y)

    @property
    def H(self) -> LinearOperator:
        """The adjoint operator."""
        return Adjoint(self)

    @property
    def normal(self) -> LinearOperator:
        """AᴴA as an operator; override where something faster than applying both is known."""
        return Normal(self)

    @property
    def spectrum(self) -> Spectrum | None:
        """The exact eigenbasis of AᴴA where it is known and affordable, else None."""
        return None

    @property
    def n_samples(self) -> int:
        """How many entries of the range are really acquired (a mask counts its ones), for one batch item."""
        return math.prod(self.range)

    @property
    def n_data(self) -> int:
        """How many real numbers are really acquired for one batch item."""
        return self.n_samples * (2 if self.complex_range else 1)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composed(self, other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, Scaled(other, -1.0))

    def __neg__(self) -> LinearOperator:
        return Scaled(self, -1.0)

    def __rmul__(self, factor: complex | Tensor) -> LinearOperator:
        return Scaled(self, factor)

    def extra_repr(self) -> str:
        return f"{self.domain} -> {self.range}"


def _check(operator: LinearOperator, what: str, x: Tensor, expected: tuple[int, ...]) -> None:
    got = tuple(x.shape[x.ndim - len(expected) :]) if x.ndim >= len(expected) else tuple(x.shape)
    if got != expected:
        raise BadInput(
            f"{type(operator).__name__}: the {what} has trailing shape {got} (whole shape {tuple(x.shape)}), expected {expected}"
        )


class _Apply(torch.autograd.Function):
    """A x with Aᴴ as its backward pass, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: LinearOperator, turned: bool) -> Tensor:
        ctx.operator, ctx.turned, ctx.was_complex = operator, turned, x.is_complex()
        return operator._adjoint(x) if turned else operator._forward(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        back = ctx.operator.forward(grad[0]) if ctx.turned else ctx.operator.adjoint(grad[0])
        # Over a batch that was broadcast inside the operator the shapes agree already; a real argument keeps a real gradient.
        return back if ctx.was_complex or not back.is_complex() else back.real, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        operator = cast(LinearOperator, ctx.operator)
        return operator._adjoint(tangents[0]) if ctx.turned else operator._forward(tangents[0])


class Adjoint(LinearOperator):
    """Aᴴ."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator
        self.domain, self.range, self.unitary = operator.range, operator.domain, operator.unitary
        self.opaque, self.complex_range = operator.opaque, operator.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self.operator


class Composed(LinearOperator):
    """A B: first B, then A."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__()
        if left.domain != right.range:
            raise BadInput(
                f"{type(left).__name__} takes {left.domain}, {type(right).__name__} gives {right.range}: the product does not exist"
            )
        self.left, self.right = left, right
        self.domain, self.range = right.domain, left.range
        self.unitary = left.unitary and right.unitary
        self.opaque = left.opaque and right.opaque
        self.complex_range = left.complex_range or right.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.left._forward(self.right._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.right._adjoint(self.left._adjoint(y))

    @property
    def normal(self) -> LinearOperator:
        return _Sandwich(self.right, self.left.normal)

    @property
    def spectrum(self) -> Spectrum | None:
        """The left factor's, seen through a unitary right factor: Mask @ Fourier has one."""
        inner = self.left.spectrum if self.right.unitary else None
        return None if inner is None else Spectrum(Composed(inner.basis, self.right), inner.values)

    @property
    def n_samples(self) -> int:
        return self.left.n_samples


class _Sandwich(LinearOperator):
    """Bᴴ N B for a self-adjoint N: keeps a fast normal operator of the outer factor."""

    def __init__(self, inner: LinearOperator, normal: LinearOperator) -> None:
        super().__init__()
        self.inner, self.middle = inner, normal
        self.domain = self.range = inner.domain
        self.opaque = inner.opaque and normal.opaque
        self.complex_range = inner.complex_range or normal.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.inner._adjoint(self.middle._forward(self.inner._forward(x)))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self


class Scaled(LinearOperator):
    """a A; `factor` is a number or a tensor that broadcasts over the batch (shape (*batch, 1, ...) on both sides)."""

    factor: Tensor

    def __init__(self, operator: LinearOperator, factor: complex | Tensor) -> None:
        super().__init__()
        self.operator = operator
        kind = torch.complex128 if isinstance(factor, complex) else torch.float64
        number = factor if isinstance(factor, Tensor) else torch.tensor(factor, dtype=kind)
        self.register_buffer("factor", number)
        self.domain, self.range, self.opaque = operator.domain, operator.range, operator.opaque and not number.requires_grad
        self.complex_range = operator.complex_range or number.is_complex()

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(x) * self._like(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint(y) * self._like(y).conj()

    def _like(self, x: Tensor) -> Tensor:
        # A 0-dim double never promotes a float32 tensor, a plain batch of numbers would.
        if self.factor.ndim == 0:
            return self.factor
        return self.factor.to(x.dtype if self.factor.is_complex() else x.real.dtype)

    @property
    def normal(self) -> LinearOperator:
        return Scaled(self.operator.normal, self.factor.abs() ** 2)

    @property
    def spectrum(self) -> Spectrum | None:
        inner = self.operator.spectrum
        if inner is None:
            return None
        return Spectrum(inner.basis, inner.values * (self.factor.abs() ** 2).to(inner.values.dtype))

    @property
    def n_samples(self) -> int:
        return self.operator.n_samples


class Sum(LinearOperator):
    """A + B."""

    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        super().__init__()
        if (first.domain, first.range) != (second.domain, second.range):
            raise BadInput(f"cannot add operators {first.domain} -> {first.range} and {second.domain} -> {second.range}")
        self.first, self.second = first, second
        self.domain, self.range = first.domain, first.range
        self.opaque = first.opaque and second.opaque
        self.complex_range = first.complex_range or second.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.first._forward(x) + self.second._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.first._adjoint(y) + self.second._adjoint(y)


class Normal(LinearOperator):
    """AᴴA, by applying both."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator
        self.domain = self.range = operator.domain
        self.opaque, self.complex_range = operator.opaque, operator.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(self.operator._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self
