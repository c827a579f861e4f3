"""Coil maps for one batch of a scan: calibrated on its own centre, on a reference scan, or given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.fourier import fft
from medrecon.physics.mri.calibration import HELP
from medrecon.physics.mri.encoding import Batch, Encoding
from medrecon.physics.mri.espirit import Espirit, espirit
from medrecon.physics.noise import mix_coils
from medrecon.physics.scan import SliceArray
from medrecon.tensors import centre_crop, centre_pad


def mixed(matrices: tuple[Tensor, ...], data: Tensor) -> Tensor:
    """Whitening and compression, each (p, coil), of the coils at axis -3."""
    for matrix in matrices:
        data = mix_coils(matrix, data, axis=-3)
    return data


def in_scan_units(matrices: tuple[Tensor, ...], maps: Tensor) -> Tensor:
    """Maps of mixed coils, scaled so that the coils as received have unit norm: |image| is then their root sum of squares.

    Calibration gives unit norm after whitening. An image through such maps would be dimmer by the share of the signal
    that looks like correlated noise, and by another share in every pixel.
    """
    received = maps
    for matrix in reversed(matrices):
        received = mix_coils(torch.linalg.pinv(matrix), received, axis=-3)
    size = received.abs().square().sum(-3, keepdim=True).sqrt()
    return torch.where(size > 0, maps / size.clamp_min(1e-12), torch.zeros((), dtype=maps.dtype, device=maps.device))


@dataclass(frozen=True)
class Calibration:
    """Settings of ESPIRiT; see `espirit`. `size`: the longest side of the centre used."""

    size: int
    kernel: int
    threshold: float
    crop: float
    sets: int

    def __call__(self, data: Tensor, block: Tensor) -> Espirit:
        """Maps of the matrix of `data` from the k-space `block`."""
        return espirit(data, self.size, calib_kspace=block, kernel=self.kernel, threshold=self.threshold, crop=self.crop, sets=self.sets)


def from_centre(batch: Batch, encoding: Encoding, calibration: Calibration, centre: tuple[int, ...]) -> Espirit:
    """Maps from the fully sampled `centre` of the batch's own (whitened, compressed) data.

    Raises `BadInput` with its measured size when it is smaller than kernel + 2 along an axis that is longer.
    """
    if any(n < min(calibration.kernel + 2, m) for n, m in zip(centre, encoding.scan.matrix, strict=True)):
        size = " x ".join(map(str, centre))
        raise BadInput(f"calibration: the fully sampled centre measures {size} samples, expected at least {calibration.kernel + 2}: {HELP}")
    if encoding.volumetric:
        side = tuple(min(calibration.size, n) for n in centre[:2])
    else:
        rows = min(calibration.size, centre[0])
        side = (rows, encoding.image[1] if encoding.axes == (-2,) else min(calibration.size, centre[1], encoding.image[1]))
    block = encoding.calibration(centre_crop(batch.data, side))
    return calibration(batch.data, block)


def from_reference(
    batch: Batch, encoding: Encoding, calibration: Calibration, reference: SliceArray, matrices: tuple[Tensor, ...]
) -> Espirit:
    """Maps from a reference scan (slice or 1, coil, y, x) of the same encoded field of view and any matrix."""
    if encoding.volumetric:
        raise NotSupported("a separate reference scan for 3-D k-space: give coil maps (--set maps=FILE)")
    shape = tuple(reference.shape)
    if len(shape) != 4 or shape[0] not in (1, encoding.n_items) or shape[1] != encoding.scan.n_coils:
        raise BadInput(
            f"calib: reference k-space of shape {shape}, expected (slice, coil, y, x) with {encoding.n_items} slices or 1 "
            f"and the scan's {encoding.scan.n_coils} coils"
        )
    block = (reference[0:1] if shape[0] == 1 else reference[batch.start : batch.stop]).to(batch.data)
    if not bool(torch.isfinite(torch.view_as_real(block)).all()):
        raise BadInput("calib: the reference k-space holds NaN or infinite samples: repair the file")
    return calibration(batch.data, _same_field_of_view(mixed(matrices, block), encoding))


def _same_field_of_view(block: Tensor, encoding: Encoding) -> Tensor:
    """Reference k-space cut to the readout columns that the data keep.

    Zero-filling to the encoded length makes the image grids equal, so that the same columns are cut; what
    the reference did not measure is dropped again.
    """
    nx, measured = encoding.scan.matrix[-1], block.shape[-1]
    if encoding.width == nx:
        return block
    rows = block.shape[-2]
    block = centre_crop(block, (rows, nx)) if measured > nx else centre_pad(block, (rows, nx))
    kept = max(1, min(encoding.width, measured * encoding.width // nx))
    return centre_crop(fft(encoding.columns(block), (-1,)), (rows, kept))


def given(maps: Tensor, batch: Batch, encoding: Encoding, matrices: tuple[Tensor, ...], *, sets: int) -> Tensor:
    """Ready maps, (slice or 1, [set,] coil, y, x) or (1, [set,] coil, z, y, x), cut, whitened and compressed like the data.

    The leading axis may be missing where it is 1; x is the encoded readout or the shown one.
    """
    maps = torch.as_tensor(maps)
    matrix = encoding.scan.matrix
    if maps.ndim == len(matrix) + 1 + int(sets > 1):
        maps = maps[None]
    found = tuple(maps.shape)
    expected = f"(slice or 1, {f'{sets} sets, ' if sets > 1 else ''}coil, {', '.join(map(str, matrix))})"
    problem = ""
    if (
        maps.ndim != len(matrix) + 2 + int(sets > 1)
        or found[-len(matrix) : -1] != matrix[:-1]
        or found[-1] not in (matrix[-1], encoding.width)
    ):
        problem = "another matrix"
    elif sets > 1 and found[1] != sets:
        problem = f"{found[1]} sets"
    elif found[-len(matrix) - 1] != encoding.scan.n_coils:
        problem = f"{found[-len(matrix) - 1]} coils"
    elif found[0] not in (1, encoding.scan.n_slices):
        problem = f"{found[0]} slices, the scan has {encoding.scan.n_slices}"
    if problem:
        raise BadInput(f"maps: coil maps of shape {found} have {problem}, expected {expected} with {encoding.scan.n_coils} coils")
    if maps.shape[-1] != encoding.width:
        maps = maps[..., encoding.start : encoding.start + encoding.width]
    if encoding.volumetric:
        maps = maps[0].movedim(-1, 0)
    part = (maps if len(maps) == 1 else maps[batch.start : batch.stop]).to(batch.data)
    if not bool(torch.isfinite(torch.view_as_real(part)).all()):
        raise BadInput("maps: the coil maps hold NaN or infinite values: repair the file")
    return mixed(matrices, part)
