"""Exact data consistency for undersampling along y alone: each readout column is a small dense problem.

Column x has the normal matrix N_x[y, y'] = p[y - y'] sum_c conj(S_c[y, x]) S_c[y', x], the product of a Toeplitz
matrix (p: point spread of the weights) and a matrix of rank at most the number of coils.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import shifted
from medrecon.tensors import real_dtype


def column_normal(maps: Tensor, weights: Tensor) -> Tensor:
    """(*batch, nx, ny, ny) from maps (*batch, coil, ny, nx) and weights (*batch, ny, 1); nx ny^2 complex numbers."""
    ny = maps.shape[-2]
    if weights.shape[-1] != 1 or weights.shape[-2] != ny:
        raise BadInput(f"column solver: sampling of shape {tuple(weights.shape)}, expected (..., {ny}, 1): whole readout lines")
    index = torch.arange(ny, device=maps.device)
    position = (index - ny // 2).double()
    lag = torch.arange(1 - ny, ny, device=maps.device).double()
    wave = torch.polar(torch.ones((), dtype=torch.float64, device=maps.device), 2 * math.pi / ny * lag[:, None] * position)
    spread = (wave @ weights.squeeze(-1).to(wave.dtype).unsqueeze(-1)).squeeze(-1) / ny
    toeplitz = spread.to(maps.dtype)[..., (index[:, None] - index) + ny - 1]
    columns = maps.movedim(-1, -3).mT  # (*batch, nx, ny, coil)
    return toeplitz.unsqueeze(-3) * (columns.conj() @ columns.mT)


class ColumnBasis(LinearOperator):
    """Images to coefficients in the eigenvectors of their columns: (*batch, y, x) -> (*batch, x, coefficient), unitary."""

    vectors: Tensor
    complex_range = True

    def __init__(self, vectors: Tensor, image: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)  # (*batch, nx, ny, ny), eigenvectors in the last axis
        self.domain, self.range = image, (image[1], image[0])

    def _forward(self, x: Tensor) -> Tensor:
        return (self.vectors.mH @ x.mT.unsqueeze(-1)).squeeze(-1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.vectors @ y.unsqueeze(-1)).squeeze(-1).mT


class ColumnSolver:
    """(AᴴA + rho)^-1 for one rho > 0, exact up to rounding: batched Cholesky, then as many right-hand sides as wanted.

    Single precision is good to 1e-4 at rho = 1e-3; `refine` steps with the residual of the FFT normal operator
    recover the rest. Memory: two (nx, ny, ny) complex arrays for each slice.
    """

    def __init__(self, maps: Tensor, weights: Tensor, normal: LinearOperator, rho: float) -> None:
        if not rho > 0:
            raise BadInput(f"column solver: rho = {rho}, expected a positive number (the columns may be singular)")
        matrix = column_normal(maps, weights)
        matrix.diagonal(dim1=-2, dim2=-1).add_(rho)
        self.factor = torch.linalg.cholesky(matrix)
        self.operator = shifted(normal, rho)

    def __call__(self, b: Tensor, refine: int = 1) -> Tensor:
        """The solution for b (*batch, y, x)."""
        x = self._solve(b)
        for _ in range(refine):
            x = x + self._solve(b - self.operator(x))
        return x

    def _solve(self, b: Tensor) -> Tensor:
        return torch.cholesky_solve(b.mT.unsqueeze(-1), self.factor).squeeze(-1).mT


def g_factor(maps: Tensor, mask: Tensor, rho: float = 0.0) -> Tensor:
    """Noise amplification (*batch, y, x) of unregularised SENSE, sqrt([N^-1]_yy [SᴴS]_yy / R), exact; 0 outside the maps.

    Pruessmann et al. 1999, eq. 23. `rho` stabilises columns that are nearly singular; `BadInput` where one is singular
    in the maps' precision.
    """
    normal = column_normal(maps, mask.to(real_dtype(maps.dtype)))
    power = maps.abs().square().sum(-3)
    outside = (power == 0).mT
    # Pixels without signal would make the columns singular: give them a unit diagonal, they decouple.
    normal.diagonal(dim1=-2, dim2=-1).add_(rho + outside.to(normal.dtype))
    factor, failed = torch.linalg.cholesky_ex(normal)
    rounding = normal.shape[-1] * torch.finfo(power.dtype).eps
    if bool(failed.any()) or float(factor.diagonal(dim1=-2, dim2=-1).real.square().min()) < rounding:
        raise BadInput("g-factor: the coils cannot unfold this sampling, the columns are singular: give rho, or sample more lines")
    inverse = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).real
    acceleration = mask.shape[-2] / mask.sum(-2).squeeze(-1)
    return (inverse.mT * power / acceleration.reshape(*acceleration.shape, 1, 1)).clamp_min(0).sqrt() * (power > 0)
