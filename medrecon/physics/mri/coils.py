"""Coil compression, adaptive (Walsh) coil maps, root sum of squares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft, ifft
from medrecon.physics.mri.calibration import calibration_block
from medrecon.physics.mri.eigenmaps import dominant
from medrecon.tensors import centre_pad

LEAST_COILS = 4  # never compress to fewer unless told
ENERGY = 0.995
RANK_ONE = 0.5  # share of the local power in one coil combination below which a pixel is not certified


def rss(coil_images: Tensor, axis: int = -3) -> Tensor:
    """Root of the sum of squares over the coil axis; real."""
    return coil_images.abs().square().sum(axis).sqrt()


def svd_compression(calib: Tensor, n_virtual: int | None = None, *, energy: float = ENERGY) -> tuple[Tensor, float]:
    """Matrix (p, coil) of orthonormal rows to the p strongest virtual coils, and the share of energy they hold.

    `calib` (coil, ...): whitened samples, such as the calibration region. p is `n_virtual`, or the fewest (at least 4)
    that keep `energy`. Each row's phase is fixed (largest entry real positive), so two runs agree. Apply it with
    `medrecon.physics.noise.mix_coils`; white noise stays white.
    """
    vectors, power = _principal_coils(calib.reshape(len(calib), -1)[None])
    count = _count(power[0], n_virtual, energy)
    matrix = vectors[0, :, :count].mH
    peak = matrix.gather(1, matrix.abs().argmax(1, keepdim=True))
    return (matrix * peak.sgn().conj()).to(calib.dtype), _share(power[0], count)


def geometric_compression(calib: Tensor, n_virtual: int | None = None, *, energy: float = ENERGY, window: int = 5) -> tuple[Tensor, float]:
    """Matrices (x, p, coil), one for each readout position, and the share of energy that they hold together.

    Zhang et al. 2013, doi:10.1002/mrm.24267. `calib` (coil, ..., x): k-space lines with the complete readout, as the
    calibration lines. Each position uses `window` neighbours; then neighbours are aligned, so that virtual coils vary
    smoothly. Apply with `compress_along_readout`.
    """
    if calib.ndim < 2 or window < 1 or window % 2 == 0:
        raise BadInput(f"geometric compression of {tuple(calib.shape)} with window {window}: expected (coil, ..., x) and an odd window")
    n = calib.shape[-1]
    lines = ifft(calib, (-1,)).reshape(len(calib), -1, n).permute(2, 0, 1)  # x, coil, line
    near = torch.arange(n)[:, None] + torch.arange(window) - window // 2
    near = torch.where((near < 0) | (near >= n), n, near)  # index n: an empty position beyond the ends
    lines = torch.cat([lines, torch.zeros_like(lines[:1])])
    vectors, power = _principal_coils(lines[near].movedim(1, 2).flatten(2))
    count = _count(power.sum(0), n_virtual, energy)
    matrices = _aligned(vectors[..., :count].mH)
    return matrices.to(calib.dtype), _share(power.sum(0), count)


def compress_along_readout(matrices: Tensor, kspace: Tensor) -> Tensor:
    """k-space (..., coil, y, x) to virtual coils (..., p, y, x) by one matrix (p, coil) for each image column."""
    if matrices.shape[0] != kspace.shape[-1] or matrices.shape[2] != kspace.shape[-3]:
        raise BadInput(f"compression matrices {tuple(matrices.shape)} (x, p, coil) on k-space {tuple(kspace.shape)} (..., coil, y, x)")
    matrices = matrices.to(device=kspace.device, dtype=kspace.dtype)
    return fft(torch.einsum("xpc,...cyx->...pyx", matrices, ifft(kspace, (-1,))), (-1,))


def low_resolution_images(kspace: Tensor, calib: int = 24, *, mask: Tensor | None = None, smallest: int = 4) -> Tensor:
    """Coil images (*batch, coil, y, x) from the Hann-windowed centre of k-space of the same shape.

    The centre is measured as for ESPIRiT; `BadInput` where it is narrower than `smallest`.
    """
    block = calibration_block(kspace, calib, smallest=[min(smallest, n) for n in kspace.shape[-2:]], mask=mask)
    for axis in (-2, -1):
        n = block.shape[axis]
        # zeros of the window fall outside the block; its peak lies on index n//2
        position = torch.arange(n, device=block.device, dtype=block.real.dtype) - n // 2
        hann = (torch.pi * position / (n + 1)).cos().square()
        block = block * hann.reshape(-1, *[1] * (-1 - axis))
    return ifft(centre_pad(block, kspace.shape[-2:]), (-2, -1))


def walsh(coil_images: Tensor, *, box: int = 7, threshold: float = 0.05, budget: int | None = None) -> Tensor:
    """Coil maps (*batch, coil, y, x) of unit norm from coil images of that shape: Walsh et al. 2000.

    The dominant eigenvector of the coil covariance in a periodic `box` around each pixel; 0 where its power is below
    `threshold` of the strongest. Needs no kernel calibration; coil images may come from any trajectory and should be
    whitened and of low resolution (`low_resolution_images`).
    """
    if coil_images.ndim < 3 or not coil_images.is_complex() or box < 1 or box % 2 == 0:
        raise BadInput(f"walsh: coil images {tuple(coil_images.shape)}, box {box}: expected complex (*batch, coil, y, x), an odd box")
    batch = coil_images.shape[:-3]
    with torch.no_grad():
        maps = [_walsh(images, box, threshold, budget) for images in coil_images.reshape(-1, *coil_images.shape[-3:])]
    return torch.stack(maps).reshape(*batch, *coil_images.shape[-3:])


def _walsh(images: Tensor, box: int, threshold: float, budget: int | None) -> Tensor:
    peak = images.abs().max()
    if peak == 0:
        return torch.zeros_like(images)
    field = LocalCovariance(images / peak, box)
    found = dominant(field, floor=RANK_ONE, budget=budget)
    power = found.values[0] * field.power
    keep = power > threshold * power.max()
    return (found.vectors[0] * keep[..., None]).movedim(-1, 0).contiguous()


@dataclass(frozen=True)
class LocalCovariance:
    """Coil covariance of images (coil, y, x) summed over a periodic box, divided by its trace."""

    images: Tensor
    box: int

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.images.shape[1]), int(self.images.shape[2])

    @property
    def n_coils(self) -> int:
        return int(self.images.shape[0])

    @cached_property
    def reference(self) -> Tensor:
        return _principal_coils(self.images.flatten(1)[None])[0][0, :, 0].to(self.images.dtype)

    @cached_property
    def power(self) -> Tensor:
        """Trace of the covariance, (y, x)."""
        power = self.images.abs().square().sum(0)
        for axis in (0, 1):
            power = torch.stack([power.roll(shift, axis) for shift in self._shifts]).sum(0)
        return power

    @property
    def _shifts(self) -> range:
        return range(-(self.box // 2), self.box // 2 + 1)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(rows, columns, coil, coil)."""
        ny, nx = self.shape
        near = (rows[:, None] + torch.tensor(self._shifts, device=rows.device)) % ny
        strips = self.images[:, near].permute(1, 3, 0, 2)  # row, x, coil, neighbour
        products = strips @ strips.mH
        summed = products[:, (columns + self._shifts[0]) % nx]
        for shift in self._shifts[1:]:
            summed += products[:, (columns + shift) % nx]
        trace = summed.diagonal(dim1=-2, dim2=-1).real.sum(-1)
        return summed / trace.clamp_min(torch.finfo(trace.dtype).tiny)[..., None, None]


def _principal_coils(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors as columns and eigenvalues of the coil covariance of (batch, coil, n), strongest first, complex128."""
    peak = samples.abs().max()
    if peak == 0:
        raise BadInput("coil compression: the calibration data are all zero")
    # products in the dtype of the data (they may be many), scaled against underflow; the small eigenproblem in double
    unit = samples / peak
    values, vectors = torch.linalg.eigh((unit @ unit.mH).to(torch.complex128))
    return vectors.flip(-1), values.flip(-1).clamp_min(0)


def _count(power: Tensor, n_virtual: int | None, energy: float) -> int:
    if n_virtual is not None:
        if not 1 <= n_virtual <= len(power):
            raise BadInput(f"coil compression to {n_virtual} of {len(power)} coils: expected 1 to {len(power)}")
        return n_virtual
    if not 0 < energy <= 1:
        raise BadInput(f"coil compression: energy {energy}: expected a share between 0 and 1")
    share = power.cumsum(0) / power.sum()
    return min(len(power), max(LEAST_COILS, int((share < energy - 1e-12).sum()) + 1))


def _share(power: Tensor, count: int) -> float:
    return float(power[:count].sum() / power.sum())


def _aligned(matrices: Tensor) -> Tensor:
    """(x, p, coil), each turned by the unitary p x p matrix that brings it nearest to its neighbour, from the middle out."""
    aligned = list(matrices)
    middle = len(aligned) // 2
    for x, neighbour in [(x, x - 1) for x in range(middle + 1, len(aligned))] + [(x, x + 1) for x in range(middle - 1, -1, -1)]:
        u, _, vh = torch.linalg.svd(aligned[x] @ aligned[neighbour].mH)
        aligned[x] = (u @ vh).mH @ aligned[x]
    return torch.stack(aligned)
