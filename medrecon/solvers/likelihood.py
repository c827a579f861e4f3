"""Likelihood: an operator with its data; the noise has unit variance per real component (whiten before)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.norm import power
from medrecon.tensors import Draw, norm2


class Likelihood(ABC):
    """-log p(y | x) up to a constant, as a function of x (*batch, *image)."""

    y: Tensor

    @property
    @abstractmethod
    def domain(self) -> tuple[int, ...]:
        """Trailing axes of the image."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """A(x) - y, (*batch, *data)."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """-log p(y | x), (*batch, 1, ..., 1) with as many ones as the image has axes."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of `value`: d/dRe + i d/dIm for complex images."""

    @property
    @abstractmethod
    def n_data(self) -> int:
        """How many real numbers were acquired, for one batch item."""

    def prox(self, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
        """argmin over x of value(x) + rho/2 |x - v|^2."""
        raise NotSupported(f"{type(self).__name__} has no proximal step: choose a method that needs the gradient only")

    def chi2(self, x: Tensor) -> Tensor:
        """|A x - y|^2 per acquired real number, (*batch,): about 1 when x explains the data down to the noise."""
        residual = self.residual(x)
        axes = residual.ndim - (x.ndim - len(self.domain))
        return norm2(residual, axes).reshape(residual.shape[:-axes]) / self.n_data


class Gaussian(Likelihood):
    """|A x - y|^2 / 2 for a linear A. y: (*batch, *A.range); x may have further leading axes (samples).

    `noisy` False says that y is exact, in units of its own: only methods that need no noise level can use it.
    """

    def __init__(self, A: LinearOperator, y: Tensor, *, noisy: bool = True) -> None:
        self.A, self.y, self.noisy = A, y, noisy

    @property
    def domain(self) -> tuple[int, ...]:
        return self.A.domain

    def residual(self, x: Tensor) -> Tensor:
        return self.A(x) - self.y

    def value(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        half = norm2(residual, len(self.A.range)) / 2
        return half.reshape(*residual.shape[: -len(self.A.range)], *[1] * len(self.A.domain))

    def gradient(self, x: Tensor) -> Tensor:
        return self.normal(x) - self.back

    @cached_property
    def back(self) -> Tensor:
        """Aᴴ y, once per scan."""
        return self.A.H(self.y)

    @cached_property
    def power(self) -> Tensor:
        """E |A z|^2 over unit noise z, (*batch, 1, ..., 1): a fixed random estimate within about 2 %."""
        return power(self.A, self.back)

    @cached_property
    def normal(self) -> LinearOperator:
        """AᴴA, built once."""
        return self.A.normal

    @property
    def n_data(self) -> int:
        return self.A.n_samples * (2 if self.y.is_complex() else 1)

    def perturbed(self, draw: Draw, like: Tensor) -> Gaussian:
        """The same problem with unit noise added to the data, another draw for every leading item of `like` (an image)."""
        lead = like.shape[: like.ndim - len(self.domain)]
        other = Gaussian(self.A, self.y.expand(*lead, *self.A.range), noisy=self.noisy)
        other.y = other.y + draw(other.y)
        other.__dict__["normal"] = self.normal  # shared: only the data differ
        return other

    def prox(self, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
        from medrecon.solvers.prox import gaussian_prox

        return gaussian_prox(self, v, rho, steps=steps, tolerance=tolerance)
