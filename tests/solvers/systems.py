"""Small systems and scans whose answers are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medrecon.linop.basic import Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.likelihood import Gaussian


class Matrix(LinearOperator):
    """x to matrix x; matrix (*batch, m, n)."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.range, self.domain = (matrix.shape[-2],), (matrix.shape[-1],)
        self.opaque = not matrix.requires_grad

    def _forward(self, x: Tensor) -> Tensor:
        return (self.matrix @ x.unsqueeze(-1)).squeeze(-1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.matrix.mH @ y.unsqueeze(-1)).squeeze(-1)


class Maps(LinearOperator):
    """Image to coil images, or several images with as many map sets to their sum: (*batch, [set,] y, x) -> (*batch, coil, y, x)."""

    maps: Tensor

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", maps if maps.ndim == 4 else maps.unsqueeze(0))
        sets, coils, *image = self.maps.shape
        self.one = maps.ndim == 3
        self.domain, self.range = tuple(image) if self.one else (sets, *image), (coils, *image)

    def _forward(self, x: Tensor) -> Tensor:
        images = x.unsqueeze(-3) if self.one else x
        return (self.maps * images.unsqueeze(-3)).sum(-4)

    def _adjoint(self, y: Tensor) -> Tensor:
        images = (self.maps.conj() * y.unsqueeze(-4)).sum(-3)
        return images.squeeze(-3) if self.one else images


def scan(maps: Tensor, mask: Tensor, y: Tensor) -> Gaussian:
    """The likelihood of a Cartesian multi-coil scan from plain pieces."""
    coils = Maps(maps)
    return Gaussian(Mask(mask, coils.range) @ Fourier(coils.range, (-2, -1)) @ coils, y)


def golden_scan(arrays: dict[str, np.ndarray], maps: str) -> Gaussian:
    """BART's golden scan, masked and scaled as `pics` saw it."""
    mask = torch.from_numpy(arrays["mask"]).bool()[:, None]
    y = torch.from_numpy(arrays["kspace"]) * mask / float(arrays["pics_input_scale"])
    return scan(torch.from_numpy(arrays[maps]), mask, y)


def hermitian(eigenvalues: Tensor, dtype: torch.dtype = torch.complex128, name: str = "basis") -> Tensor:
    """A Hermitian matrix with these eigenvalues, (*batch, n) -> (*batch, n, n)."""
    n = eigenvalues.shape[-1]
    basis = torch.linalg.qr(random((*eigenvalues.shape[:-1], n, n), dtype, name)).Q
    return basis @ torch.diag_embed(eigenvalues.to(dtype)) @ basis.mH
