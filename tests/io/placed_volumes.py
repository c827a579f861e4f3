"""Volumes whose every flip, swap or shift shows, in all orientations; corners in mm and other programs as judges."""

from __future__ import annotations

import itertools
import math
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import torch
from conftest import program
from numpy.typing import NDArray

from medrecon.volume import Grid, Volume


def rotation(rx: float, ry: float, rz: float) -> NDArray[np.float64]:
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(a), math.sin(a)) for a in (rx, ry, rz))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


DIRECTIONS = {  # RAS directions of the x, y, z index, as columns
    "axial": np.diag([-1.0, -1.0, 1.0]),
    "sagittal": np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]).T,
    "sagittal_from_the_left": np.array([[0.0, -1, 0], [0, 0, -1], [-1, 0, 0]]).T,
    "coronal": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]).T,
    "oblique": rotation(0.31, -0.22, 0.17) @ np.diag([-1.0, -1.0, 1.0]),
}


def placed(
    name: str = "oblique",
    shape: tuple[int, int, int] = (5, 13, 16),
    spacing: tuple[float, float, float] = (3.0, 1.1, 0.9),
    **rest: object,
) -> Volume:
    """A volume without symmetry; `spacing` (z, y, x) mm."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[name] * np.array(spacing[::-1])
    affine[:3, 3] = 18.3, 27.1, -15.4
    z, y, x = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    image = 100 * np.exp(-(((x - 5) / 6) ** 2 + ((y - 8) / 5) ** 2 + ((z - 2) / 2) ** 2)) + 3 * x + 2 * y + 11 * z
    return Volume(torch.from_numpy(image).float(), Grid(shape, affine), **rest)  # type: ignore[arg-type]


def canonical(volume: Volume) -> nibabel.Nifti1Image:
    """A volume with its axes nearest to RAS: equal for two volumes that differ in the order of slices alone."""
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.numpy().T, volume.affine))


def corners(image: nibabel.Nifti1Image) -> NDArray[np.float64]:
    return np.array([(image.affine @ [*c, 1])[:3] for c in itertools.product(*[(0, n - 1) for n in image.shape[:3]])])


def assert_same_place(ours: nibabel.Nifti1Image, other: nibabel.Nifti1Image, values: float, mm: float = 1e-3) -> None:
    """Same shape, same corners in mm and, up to a scale and an offset, the same numbers to a fraction `values` of the range."""
    assert ours.shape == other.shape
    assert np.abs(corners(ours) - corners(other)).max() < mm
    a, b = (np.asarray(image.dataobj, np.float64).ravel() for image in (ours, other))
    fit = np.polyfit(b, a, 1)
    assert np.abs(np.polyval(fit, b) - a).max() <= values * np.ptp(a)


def by_dcm2niix(folder: Path, out: Path) -> nibabel.Nifti1Image:
    """What another program makes of a DICOM series, nearest to RAS."""
    out.mkdir()
    subprocess.run([program("dcm2niix"), "-b", "n", "-z", "n", "-f", "%s", "-o", out, folder], check=True, capture_output=True)
    (found,) = out.glob("*.nii")
    return nibabel.as_closest_canonical(nibabel.squeeze_image(nibabel.load(found)))
