"""Proximal steps of likelihoods and of simple penalties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.operator import Spectrum
from medrecon.solvers.implicit import solve
from medrecon.solvers.krylov import shifted
from medrecon.tensors import real_dtype

if TYPE_CHECKING:
    from medrecon.solvers.likelihood import Gaussian


def gaussian_prox(likelihood: Gaussian, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
    """argmin over x of |A x - y|^2 / 2 + rho/2 |x - v|^2, (*batch, *domain) like v.

    rho > 0 is a number or (*batch, 1, ..., 1). Exact where A offers its spectrum; else at most `steps` conjugate
    gradients from v, until the residual is `tolerance` of |A^H y + rho v|. v may have more leading axes than y.
    Differentiable in y, v and rho.
    """
    if not isinstance(rho, Tensor) and rho <= 0:
        raise BadInput(f"the proximal step needs rho > 0, got {rho}: use least squares for rho = 0")
    weight = rho.to(real_dtype(v.dtype)) if isinstance(rho, Tensor) and rho.ndim else rho
    target = likelihood.back + weight * v
    return damped(likelihood, target, weight, v, steps=steps, tolerance=tolerance)


def damped(
    likelihood: Gaussian, target: Tensor, rho: Tensor | float, start: Tensor | None = None, *, steps: int = 10, tolerance: float = 1e-4
) -> Tensor:
    """(A^H A + rho)^-1 target: by the spectrum of A where it has one, else conjugate gradients from `start` (zero by default)."""
    weight = rho.to(real_dtype(target.dtype)) if isinstance(rho, Tensor) and rho.ndim else rho
    spectrum = likelihood.A.spectrum
    if spectrum is not None:
        x = _by_spectrum(spectrum, target, weight, len(likelihood.domain))
        return x if target.is_complex() or not x.is_complex() else x.real
    if steps < 1:
        return torch.zeros_like(target) if start is None else start
    return solve(shifted(likelihood.normal, weight), target, start, steps=steps, tolerance=tolerance)


def _by_spectrum(spectrum: Spectrum, target: Tensor, rho: Tensor | float, axes: int) -> Tensor:
    """(A^H A + rho)^-1 target in the eigenbasis of A^H A."""
    basis = spectrum.basis
    if isinstance(rho, Tensor) and rho.ndim:
        rho = rho.reshape(*rho.shape[: rho.ndim - axes], *[1] * len(basis.range))
    coefficients = basis(target)
    values = spectrum.values.to(device=coefficients.device, dtype=real_dtype(coefficients.dtype))
    return basis.H(coefficients / (values + rho))
