"""What an operator at the scanner prescribes: plane, field of view, matrix; the image's place in mm follows exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.linop.fourier import fft, ifft
from medrecon.tensors import centre_crop, centre_pad
from medrecon.volume import Grid, Volume

# patient axes (0 left-right, 1 front-back, 2 up-down) that x, y and z of the turned volume follow
PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}


def prescribed(volume: Volume, *, plane: str, fov: tuple[float, float] | None, matrix: tuple[int, int] | None) -> Volume:
    """A real volume (z, y, x) turned to `plane`, with a field of view `fov` (y, x) mm and `matrix` (y, x) pixels."""
    volume = turned(volume, plane)
    if fov is not None:
        if min(fov) <= 0:
            raise BadInput(f"fov is {fov}, expected (y, x) lengths in mm")
        _, dy, dx = volume.spacing
        volume = with_extent(volume, (max(1, round(fov[0] / dy)), max(1, round(fov[1] / dx))))
    if matrix is not None:
        if min(matrix) < 8 or max(matrix) > 4096:
            raise BadInput(f"matrix is {matrix}, expected (y, x) sizes from 8 to 4096")
        volume = with_matrix(volume, matrix)
    return volume


def turned(volume: Volume, plane: str) -> Volume:
    """The volume with its axes in another order so that z runs across `plane`; no voxel is mirrored or interpolated."""
    if plane == "stored":
        return volume
    if plane not in PLANES:
        raise BadInput(f"plane {plane!r}: expected stored, axial, coronal or sagittal{nearest(plane, list(PLANES))}")
    if volume.orientation == "unknown":
        raise BadInput(f"plane {plane!r}: the image's orientation in the patient is unknown: use plane='stored'")
    order = [_axis_along(volume.affine)[patient] for patient in PLANES[plane]]
    affine = volume.affine[:, [*order, 3]]
    image = volume.image.permute(*(2 - axis for axis in reversed(order))).contiguous()
    return replace(volume, image=image, grid=Grid(_shape(image), affine))


def with_extent(volume: Volume, shape: tuple[int, int]) -> Volume:
    """The volume padded with zeros or cut to (y, x) = `shape` about its centre; each voxel stays where it is."""
    ny, nx = volume.grid.shape[1:]
    start = (0, ny // 2 - shape[0] // 2, nx // 2 - shape[1] // 2)
    grown = centre_pad(volume.image, (max(ny, shape[0]), max(nx, shape[1])))
    image = centre_crop(grown, shape).contiguous()
    return replace(volume, image=image, grid=volume.grid.crop(start, _shape(image)))


def with_matrix(volume: Volume, matrix: tuple[int, int]) -> Volume:
    """The volume at another resolution over the same field of view, by cutting or zero-filling its k-space."""
    old = volume.grid.shape[1:]
    if tuple(matrix) == old:
        return volume
    gain = math.sqrt(math.prod(matrix) / math.prod(old))
    image = torch.stack([gain * _refocused(plane, matrix) for plane in volume.image])
    affine = volume.affine.copy()
    middle = affine @ [old[1] // 2, old[0] // 2, 0, 1]
    affine[:3, 0] *= old[1] / matrix[1]
    affine[:3, 1] *= old[0] / matrix[0]
    affine[:3, 3] = middle[:3] - affine[:3, 0] * (matrix[1] // 2) - affine[:3, 1] * (matrix[0] // 2)
    return replace(volume, image=image, grid=replace(volume.grid, shape=_shape(image), affine=affine))


def _refocused(image: Tensor, matrix: Sequence[int]) -> Tensor:
    kspace = fft(image.to(torch.complex64), (-2, -1))
    grown = centre_pad(kspace, [max(n, m) for n, m in zip(image.shape, matrix, strict=True)])
    return ifft(centre_crop(grown, matrix), (-2, -1)).real


def _axis_along(affine: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each patient axis the image axis (0 x, 1 y, 2 z) that follows it best, each used once."""
    cosines = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(itertools.permutations(range(3)), key=lambda order: sum(cosines[patient, axis] for patient, axis in enumerate(order)))
    return best[0], best[1], best[2]


def _shape(image: Tensor) -> tuple[int, int, int]:
    nz, ny, nx = image.shape
    return nz, ny, nx
