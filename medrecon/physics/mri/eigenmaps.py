"""Dominant eigenvectors of a field of small Hermitian matrices, one for each pixel: what ESPIRiT and Walsh maps are.

The field is never stored: it is evaluated for a chunk of rows. A coarse grid is solved first by repeated squaring and
interpolated; two or three power steps then settle nearly every pixel. A residual proves that a pixel holds an
eigenvector, the coarse grid that it is the dominant one; what is not proved is solved by `eigh`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from medrecon.compute import chunk_length, memory_budget

COARSE = 4  # pixels between coarse grid points
STEPS = 3  # power steps on the fine grid
TOLERANCE = 2e-3  # accepted residual |G v - mu v| / mu
CLOSE = 0.9  # ratio of the first two eigenvalues beyond which only `eigh` is trusted
CACHE = 32 << 20  # bytes: on a CPU a chunk near the size of the cache is fastest,
LAUNCH = 256 << 20  # on a GPU a large one, as each chunk costs launches


class Field(Protocol):
    """Hermitian (coil, coil) matrices on a (ny, nx) grid, positive, eigenvalues at most about 1."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def n_coils(self) -> int: ...

    @property
    def reference(self) -> Tensor:
        """(coil,) unit vector: start of the power steps and phase reference."""
        ...

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns, coil, coil) at the given row and column indices."""
        ...


@dataclass(frozen=True)
class Eigenmaps:
    """`vectors` (sets, ny, nx, coil) of unit norm, u^H v real and positive, u the reference; `values` (sets, ny, nx).

    `coarse` (2, rows, columns): first and second eigenvalue on a coarser grid; the second is exact where it is large
    (above 0.8 of the first) and otherwise an upper bound. `redone`: how many pixels needed `eigh`.
    """

    vectors: Tensor
    values: Tensor
    coarse: Tensor
    redone: int


def dominant(field: Field, *, floor: float, budget: int | None = None) -> Eigenmaps:
    """The dominant eigenvector and eigenvalue of each pixel.

    `budget`: bytes for one chunk of rows, by default from free memory.
    Certified where the eigenvalue exceeds `floor`; below, the vectors are whatever the power steps left (in the
    background, where they mean nothing).
    """
    ny, nx = field.shape
    start, coarse = _coarse(field, floor, budget)
    start = _upsample(start, ny, nx)
    close = _upsample((coarse[1] > CLOSE * coarse[0])[..., None].to(start.real.dtype), ny, nx)[..., 0] > 0
    vectors, values, redone = torch.empty_like(start), start.real.new_empty(ny, nx), 0
    columns = torch.arange(nx, device=start.device)
    for rows in torch.arange(ny, device=start.device).split(_rows_per_chunk(field, nx, budget)):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        matrices = field.at(rows, columns).flatten(0, 1)
        vector, value, again = _polish(matrices, start[part].reshape(-1, field.n_coils, 1), close[part].flatten(), floor)
        vectors[part], values[part] = vector.reshape(len(rows), nx, -1), value.reshape(len(rows), nx)
        redone += again
    return Eigenmaps(_phased(vectors, field.reference)[None], values[None], coarse, redone)


def leading(field: Field, sets: int, *, budget: int | None = None) -> Eigenmaps:
    """The first `sets` eigenvectors and eigenvalues of each pixel, by `eigh` everywhere."""
    ny, nx = field.shape
    columns = torch.arange(nx, device=field.reference.device)
    vectors, values = [], []
    for rows in torch.arange(ny, device=columns.device).split(_rows_per_chunk(field, nx, budget)):
        value, vector = torch.linalg.eigh(field.at(rows, columns))
        values.append(value[..., -sets:].flip(-1).movedim(-1, 0))
        vectors.append(_phased(vector[..., -sets:].flip(-1).permute(3, 0, 1, 2), field.reference))
    every = torch.cat(values, 1)
    first_two = every[:2] if sets > 1 else torch.cat([every, torch.zeros_like(every)])
    return Eigenmaps(torch.cat(vectors, 1), every, first_two, ny * nx)


def _rows_per_chunk(field: Field, columns: int, budget: int | None) -> int:
    # matrices, their products and what the evaluation holds: about three times the matrices
    row = 3 * columns * field.n_coils**2 * field.reference.element_size()
    device = field.reference.device
    best = CACHE if device.type == "cpu" else LAUNCH
    return min(chunk_length(row, memory_budget(device, budget), field.shape[0]), max(1, best // row))


def _coarse(field: Field, floor: float, budget: int | None) -> tuple[Tensor, Tensor]:
    """On every 4th pixel, corners included: phased dominant vectors (cy, cx, coil), first two eigenvalues (2, cy, cx)."""
    ny, nx = field.shape
    iy, ix = (torch.linspace(0, n - 1, -(-n // COARSE) + (n > 1)).round().long().to(field.reference.device) for n in (ny, nx))
    vectors, values = [], []
    for rows in iy.split(_rows_per_chunk(field, len(ix), budget)):
        vector, first, second = _converge(field.at(rows, ix).flatten(0, 1), field.reference, floor)
        vectors.append(vector.reshape(len(rows), len(ix), -1))
        values.append(torch.stack([first, second]).reshape(2, len(rows), len(ix)))
    return _phased(torch.cat(vectors), field.reference), torch.cat(values, 1)


def _converge(matrices: Tensor, reference: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """25 power steps from the reference; first eigenvalue; the second, or a bound on it where it is below 0.8.

    |G^8|_F^2 is the sum of all lambda^16: what the first leaves of it bounds the second from above.
    """
    eighth = matrices
    for _ in range(3):
        eighth = torch.bmm(eighth, eighth)
    vector = _unit(eighth @ reference[None, :, None])
    vector = _unit(torch.bmm(eighth, torch.bmm(eighth, vector)))
    image = torch.bmm(matrices, vector)
    first = _real_dot(vector, image)
    rest = _square(eighth.flatten(1)) - first.clamp_min(0) ** 16
    second = rest.clamp_min(0) ** (1 / 16)
    vector = _unit(image)
    unsure = ((second > 0.8 * first) & (second >= 0.5 * floor)).nonzero().squeeze(-1)
    if unsure.numel():
        value, basis = torch.linalg.eigh(matrices[unsure])
        vector[unsure], first[unsure], second[unsure] = basis[..., -1:], value[:, -1], value[:, -2]
    return vector.squeeze(-1), first, second


def _polish(matrices: Tensor, vector: Tensor, close: Tensor, floor: float) -> tuple[Tensor, Tensor, int]:
    """Power steps, certificate, and `eigh` for what is not proved: vectors (n, coil), values (n,), how many redone."""
    for _ in range(STEPS - 1):  # eigenvalues are at most 1: no normalisation needed on the way
        vector = torch.bmm(matrices, vector)
    vector = _unit(vector)
    image = torch.bmm(matrices, vector)
    value = _real_dot(vector, image)
    residual = _square((image - value[:, None, None] * vector).flatten(1)).sqrt()
    vector = _unit(image)
    # some eigenvalue lies within the residual of `value`
    doubt = (((residual > TOLERANCE * value) | close) & (value + residual >= floor)).nonzero().squeeze(-1)
    if doubt.numel():
        exact, basis = torch.linalg.eigh(matrices[doubt])
        vector[doubt], value[doubt] = basis[..., -1:], exact[:, -1]
    return vector.squeeze(-1), value, doubt.numel()


def _upsample(coarse: Tensor, ny: int, nx: int) -> Tensor:
    """Bilinear, (cy, cx, channel) real or complex -> (ny, nx, channel); corners lie on corners."""
    parts = torch.view_as_real(coarse).flatten(-2) if coarse.is_complex() else coarse
    fine = functional.interpolate(parts.movedim(-1, 0)[None], size=(ny, nx), mode="bilinear", align_corners=True)[0].movedim(0, -1)
    return torch.view_as_complex(fine.unflatten(-1, (-1, 2)).contiguous()) if coarse.is_complex() else fine


def _phased(vectors: Tensor, reference: Tensor) -> Tensor:
    """(..., coil) turned so that u^H v is real and positive."""
    overlap = vectors @ reference.conj()
    return vectors * torch.where(overlap == 0, torch.ones_like(overlap), overlap.sgn().conj()).unsqueeze(-1)


def _square(x: Tensor) -> Tensor:
    """|x|^2 of (n, m) complex; a complex norm over a strided axis costs more than the products."""
    return torch.view_as_real(x).square().sum((1, 2))


def _unit(x: Tensor) -> Tensor:
    return x * _square(x.flatten(1)).clamp_min(torch.finfo(x.real.dtype).tiny).rsqrt()[:, None, None]


def _real_dot(a: Tensor, b: Tensor) -> Tensor:
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum((1, 2, 3))
