"""Writes fastMRI HDF5: prediction files for evaluation and whole raw scans, slice by slice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.files import atomic_file
from medrecon.io.mrd_header import Encoding, Limit, Space, compose
from medrecon.linop.fourier import ifft
from medrecon.physics.mri.scan import MRIScan
from medrecon.tensors import fastmri_crop
from medrecon.volume import Volume

AFFINE = "medrecon_affine"
"""Attribute: 4 x 4 float64, voxel (x = readout, y = phase, z = slice) of the cropped image to RAS+ mm; fastMRI itself has none."""

SIMULATED = "medrecon_simulated"
"""Attribute: the k-space was computed from an image."""

BANDWIDTH = "bandwidth_ratio"
"""Attribute of the dataset `noise`: see `NoiseScan`."""


def writes(path: str | os.PathLike[str]) -> bool:
    """Names ending in .h5 or .hdf5."""
    return Path(path).suffix.lower() in (".h5", ".hdf5")


def write(volume: Volume, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """A prediction file: dataset `reconstruction`, float32 magnitude (slice, readout, phase), as the evaluators want it."""
    import h5py

    image = volume.magnitude.image
    if image.ndim != 3:
        raise BadInput(f"{path}: a prediction file holds one volume (z, y, x), got {tuple(image.shape)}: write each volume to its own file")
    array = image.detach().cpu().to(torch.float32).transpose(-1, -2).contiguous().numpy()
    with atomic_file(path, force) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("reconstruction", data=array)
        if volume.orientation == "known":
            file.attrs[AFFINE] = volume.affine
    return [Path(path)]


def write_scan(scan: MRIScan, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """A raw fastMRI file: k-space, header, attributes; the RSS target when fully sampled, else the mask.

    One slice is in memory at a time. The affine is kept in an attribute (`AFFINE`) unless the orientation is unknown.
    """
    import h5py

    if scan.image_axes != 2:
        raise NotSupported(f"{path}: fastMRI files hold 2-D slices, this scan is 3-D: write a .cfl instead")
    n_slices, n_coils, (ny, nx) = scan.n_slices, scan.n_coils, scan.matrix
    is_full = scan.mask is None or bool(scan.mask.all())
    crop = scan.crop or (ny, nx)
    with atomic_file(path, force) as temporary, h5py.File(temporary, "w") as file:
        # zeros of unsampled columns are worth compressing, noise is not
        packing: dict[str, Any] = {} if is_full else {"compression": "gzip", "compression_opts": 1}
        kspace = file.create_dataset("kspace", (n_slices, n_coils, nx, ny), np.complex64, chunks=(1, 1, nx, ny), **packing)
        target = file.create_dataset("reconstruction_rss", (n_slices, crop[1], crop[0]), np.float32) if is_full else None
        largest, energy = 0.0, 0.0
        for index in range(n_slices):
            block = scan.kspace[index : index + 1]
            kspace[index] = _turned(block[0])
            if target is not None:
                rss = _root_sum_of_squares(block[0], crop)
                target[index] = _turned(rss)
                largest, energy = max(largest, float(rss.max())), energy + float(rss.double().square().sum())
        if target is not None:
            file.attrs["max"], file.attrs["norm"] = largest, energy**0.5
        _write_extras(file, scan)
    return [Path(path)]


def _write_extras(file: Any, scan: MRIScan) -> None:
    file.create_dataset("ismrmrd_header", data=compose(_encoding(scan), scan.study))
    if scan.mask is not None and not bool(scan.mask.all()):
        mask = scan.mask.cpu().numpy()
        file.create_dataset("mask", data=mask[:, 0] if mask.shape[-1] == 1 else np.broadcast_to(mask, scan.matrix).T)
        file.attrs["acceleration"] = scan.mask.numel() / int(scan.mask.sum())
    if scan.noise is not None:
        noise = file.create_dataset("noise", data=scan.noise.samples.cpu().to(torch.complex64).numpy())
        noise.attrs[BANDWIDTH] = float(scan.noise.bandwidth_ratio)
    file.attrs["acquisition"] = str(scan.study.get("SeriesDescription", "unknown"))
    file.attrs["patient_id"] = str(scan.study.get("PatientID", "unknown"))
    if scan.grid.orientation == "known":
        file.attrs[AFFINE] = scan.grid.affine
    if scan.simulated:
        file.attrs[SIMULATED] = True


def _encoding(scan: MRIScan) -> Encoding:
    """The header's encoding: padding is not described, since the mask and the zeros of the data tell it."""
    dz, dy, dx = scan.grid.spacing
    ny, nx = scan.matrix
    crop_y, crop_x = scan.crop or (ny, nx)
    lines = Limit(0, ny - 1, ny // 2)
    return Encoding(
        encoded=Space((nx, ny, 1), (nx * dx, ny * dy, dz)),
        recon=Space((crop_x, crop_y, 1), (crop_x * dx, crop_y * dy, dz)),
        trajectory="cartesian",
        limits={"kspace_encoding_step_1": lines, "slice": Limit(0, scan.n_slices - 1, 0)},
    )


def _root_sum_of_squares(kspace: Tensor, crop: tuple[int, int]) -> Tensor:
    """fastMRI's target: (coil, y, x) to the cropped (y, x)."""
    return fastmri_crop(ifft(kspace, (-2, -1)), crop).abs().square().sum(0).sqrt()


def _turned(array: Tensor) -> Any:
    """Our (..., y, x) as the file's (..., readout, phase)."""
    return array.detach().cpu().transpose(-1, -2).contiguous().numpy()
