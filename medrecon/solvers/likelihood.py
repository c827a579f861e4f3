"""Likelihood: an operator with its data; the noise has unit variance per real component (whiten before)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.basic import Diagonal
from medrecon.linop.operator import Composed, LinearOperator, Scaled
from medrecon.solvers.norm import power
from medrecon.tensors import Draw, generator_for, norm2, real_dtype, trailing, unit_noise


class Likelihood(ABC):
    """-log p(y | x) up to a constant, as a function of x (*batch, *image)."""

    y: Tensor
    noisy: bool = True
    """False where y is exact, in units of its own: only methods that need no noise level can use it."""

    @property
    @abstractmethod
    def domain(self) -> tuple[int, ...]:
        """Trailing axes of the image."""

    @property
    def data_axes(self) -> int:
        """How many trailing axes of y are data; the others are batch. All, unless the subclass knows better."""
        return self.y.ndim

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """A(x) - y in units of the noise, (*batch, *data)."""

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

    def linearised(self, x: Tensor) -> Gaussian:
        """The Gaussian likelihood with the gradient of this one at x: A by its Jacobian there, noise by its variance there."""
        raise NotSupported(f"{type(self).__name__} cannot be linearised: choose a method that needs the gradient only")

    def chi2(self, x: Tensor) -> Tensor:
        """|A x - y|^2 per acquired real number, (*batch,): about 1 when x explains the data down to the noise."""
        residual = self.residual(x)
        return norm2(residual, self.data_axes).reshape(residual.shape[: residual.ndim - self.data_axes]) / self.n_data

    def per_image(self, terms: Tensor) -> Tensor:
        """Real terms (*batch, *data) summed over the data, (*batch, 1, ..., 1) with as many ones as the image has axes."""
        total = terms.sum(trailing(self.data_axes))
        return total.reshape(*total.shape, *[1] * len(self.domain))


class Gaussian(Likelihood):
    """|A x - y|^2 / 2 for a linear A. y: (*batch, *A.range); x may have further leading axes (samples)."""

    def __init__(self, A: LinearOperator, y: Tensor, *, noisy: bool = True) -> None:
        self.A, self.y, self.noisy = A, y, noisy

    @property
    def domain(self) -> tuple[int, ...]:
        return self.A.domain

    @property
    def data_axes(self) -> int:
        return len(self.A.range)

    def residual(self, x: Tensor) -> Tensor:
        return self.A(x) - self.y

    def value(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        half = norm2(residual, self.data_axes) / 2
        return half.reshape(*residual.shape[: residual.ndim - self.data_axes], *[1] * len(self.domain))

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

    def linearised(self, x: Tensor) -> Gaussian:
        return self


def weighted(A: LinearOperator, y: Tensor, weights: Tensor | float = 1.0, *, noise_std: Tensor | float = 1.0) -> Gaussian:
    """The whitened likelihood of data whose sample i has variance noise_std_i^2 / weights_i per real component.

    Both broadcast over y (*batch, *A.range). Computed tomography after the logarithm: weights = counts; a sample of
    weight 0 counts as not acquired.
    """
    root = _root(weights, noise_std, y)
    if root.ndim == 0:
        return Gaussian(Scaled(A, root), root * y)
    return Gaussian(Weighted(root, A), root * y)


class Weighted(Composed):
    """diag(root) A; a sample of weight 0 counts as not acquired, as do those that A itself leaves out."""

    def __init__(self, root: Tensor, A: LinearOperator) -> None:
        super().__init__(Diagonal(root, A.range), A)
        self.root = root

    @property
    def n_samples(self) -> int:
        """How many samples A acquires with a weight; the mean over the batch when the weights have batch axes."""
        used = (self.root != 0).expand(torch.broadcast_shapes(self.root.shape, self.range))
        if bool(used.all()):
            return self.right.n_samples
        if self.right.n_samples < math.prod(self.range):  # what A leaves out is 0 whatever the image
            probe = unit_noise(self.domain, self.root.dtype, generator_for(0, "samples")).to(self.root.device)
            used = used & (self.right(probe) != 0)
        return round(math.prod(self.range) * float(used.double().mean()))


def _root(weights: Tensor | float, noise_std: Tensor | float, y: Tensor) -> Tensor:
    """sqrt(weights) / noise_std in y's precision and on its device; what is no variance is refused."""
    dtype = real_dtype(y.dtype)
    w, std = (torch.as_tensor(value, device=y.device).to(dtype) for value in (weights, noise_std))
    if not bool((torch.isfinite(w) & (w >= 0)).all()):
        raise BadInput("weights: expected finite numbers >= 0 (inverse variances), got negative ones, NaN or infinity")
    if not bool((torch.isfinite(std) & (std > 0)).all()):
        raise BadInput("noise_std: expected positive finite numbers per real component; where nothing was measured give weight 0")
    for name, value in (("weights", w), ("noise_std", std)):
        try:
            fits = torch.broadcast_shapes(value.shape, y.shape) == y.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise BadInput(f"{name} of shape {tuple(value.shape)} do not broadcast over the data {tuple(y.shape)}")
    return w.sqrt() / std
