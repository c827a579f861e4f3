"""A^+ with its data: what the data say of an image, singular direction by singular direction, each with its own noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import run
from medrecon.linop.operator import Spectrum
from medrecon.linop.spectral import LIMIT, exact_spectrum
from medrecon.solvers.krylov import ROUNDING, cg
from medrecon.solvers.lanczos import applied
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import real_dtype, trailing

Filter = Callable[[Tensor], Tensor]
"""rho -> factor for singular directions with noise rho: 1/s, the standard deviation of A^+ y per real component, or 0 where
the data are exact. Called with tensors of any shape."""


class Pseudoinverse(ABC):
    """Moves images towards the data, and filters them, in the directions that A sees. Images (*batch, *domain)."""

    @abstractmethod
    def towards(self, image: Tensor, share: Filter) -> Tensor:
        """share A^+ (y - A image): with share 1 the smallest change that makes the image agree with the data."""

    @abstractmethod
    def seen(self, image: Tensor, factor: Filter) -> Tensor:
        """factor A^+ A image: with factor 1 the part of the image that A sees."""


class BySpectrum(Pseudoinverse):
    """In the eigenbasis of A^H A, exactly. Directions whose s^2 is below rounding of the largest count as unseen."""

    def __init__(self, likelihood: Gaussian, spectrum: Spectrum) -> None:
        self.basis, self.real = spectrum.basis, not likelihood.back.is_complex()
        back = self.basis(likelihood.back)
        squares = spectrum.values.to(device=back.device, dtype=real_dtype(back.dtype))
        axes = min(squares.ndim, len(self.basis.range))
        largest = squares.amax(trailing(axes), keepdim=True) if axes else squares
        self.visible = squares > ROUNDING * torch.finfo(squares.dtype).eps * largest
        squares = torch.where(self.visible, squares, 1)
        self.data = torch.where(self.visible, back / squares, 0)
        self.rho = squares.rsqrt() if likelihood.noisy else torch.zeros_like(squares)

    def towards(self, image: Tensor, share: Filter) -> Tensor:
        return self._synthesis(share(self.rho) * (self.data - self.basis(image)))

    def seen(self, image: Tensor, factor: Filter) -> Tensor:
        return self._synthesis(factor(self.rho) * self.basis(image))

    def _synthesis(self, coefficients: Tensor) -> Tensor:
        image = self.basis.H(torch.where(self.visible, coefficients, 0))
        return image.real if self.real and image.is_complex() else image


class ByGradients(Pseudoinverse):
    """Exact data: conjugate gradients on A^H A from zero, whose solution is the one of least norm."""

    def __init__(self, likelihood: Gaussian, *, steps: int, tolerance: float) -> None:
        self.likelihood, self.steps, self.tolerance = likelihood, steps, tolerance
        self.rho = torch.zeros((), dtype=torch.float64)

    def towards(self, image: Tensor, share: Filter) -> Tensor:
        return self._solved(-self.likelihood.gradient(image), share)

    def seen(self, image: Tensor, factor: Filter) -> Tensor:
        return self._solved(self.likelihood.normal(image), factor)

    def _solved(self, right: Tensor, factor: Filter) -> Tensor:
        size = factor(self.rho)
        if not bool(size != 0):
            return torch.zeros_like(right)
        return size * run(cg(self.likelihood.normal, right, tolerance=self.tolerance), limit=self.steps).x


class ByLanczos(Pseudoinverse):
    """Noisy data: filters as functions of A^H A, in a Krylov space of `steps` dimensions. No spectrum is needed.

    Good for filters that fade where the noise is high: what A hardly sees and what it does not see look alike to it.
    """

    def __init__(self, likelihood: Gaussian, *, steps: int) -> None:
        self.likelihood, self.steps = likelihood, steps

    def towards(self, image: Tensor, share: Filter) -> Tensor:
        return self._applied(lambda squares: share(squares.rsqrt()) / squares, -self.likelihood.gradient(image))

    def seen(self, image: Tensor, factor: Filter) -> Tensor:
        return self._applied(lambda squares: factor(squares.rsqrt()), image)

    def _applied(self, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        return applied(function, self.likelihood.normal, image, steps=self.steps)


def pseudoinverse(likelihood: Gaussian, *, steps: int = 30, tolerance: float = 1e-6) -> Pseudoinverse:
    """By the spectrum where A offers one, else in Krylov spaces of at most `steps` dimensions; `tolerance`: of the residual,
    for exact data."""
    spectrum = likelihood.A.spectrum
    if spectrum is not None:
        return BySpectrum(likelihood, spectrum)
    return ByLanczos(likelihood, steps=steps) if likelihood.noisy else ByGradients(likelihood, steps=steps, tolerance=tolerance)


def by_spectrum(likelihood: Gaussian, step: str) -> BySpectrum:
    """By the spectrum that A offers, or the one of its matrix if that is small; else `NotSupported`, which names `step`."""
    A = likelihood.A
    try:
        return BySpectrum(likelihood, A.spectrum or exact_spectrum(A, likelihood.back))
    except NotSupported:
        raise NotSupported(
            f"{step} works in the eigenbasis of A^H A, and {type(A).__name__} {A.domain} -> {A.range} offers none: single-coil "
            f"Cartesian sampling, periodic blur, masks and weights do, and any operator on at most {LIMIT} numbers; use ddnm or dds"
        ) from None
