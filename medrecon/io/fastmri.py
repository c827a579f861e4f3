"""fastMRI HDF5: multi- and single-coil k-space, test files with a mask, prediction files.

Files hold (slice, coil, readout, phase); everything inside medrecon is (slice, coil, y = phase, x = readout). The turn is
made here and in `fastmri_writer`, nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.files import check_readable
from medrecon.io import hdf5
from medrecon.io.fastmri_writer import AFFINE, BANDWIDTH, SIMULATED, write, write_scan, writes
from medrecon.io.mrd_header import Encoding, MRDHeader, parse
from medrecon.io.sampling import mask_from_zeros, true_rank
from medrecon.physics.mri.scan import MRIScan, NoiseScan
from medrecon.volume import Grid, Volume

__all__ = ["H5Slices", "read", "recognises", "write", "write_scan", "writes"]

OWN_NAMES = {"kspace", "ismrmrd_header", "reconstruction", "reconstruction_rss", "reconstruction_esc"}
BODY_PARTS = {"CORPD_FBK": "KNEE", "CORPDFS_FBK": "KNEE"} | dict.fromkeys(("AXT1", "AXT1PRE", "AXT1POST", "AXT2", "AXFLAIR"), "BRAIN")


@dataclass(frozen=True)
class H5Slices:
    """k-space (slice, coil, y, x) complex64 still in its file.

    Each read opens the file and closes it: no handle is shared between processes or kept when a worker forks.
    """

    path: Path
    name: str
    shape: tuple[int, int, int, int]
    has_coils: bool = True

    def __getitem__(self, index: slice) -> Tensor:
        with hdf5.opened(self.path) as file:
            block = np.asarray(hdf5.dataset(file, self.name, str(self.path))[index])
        kspace = torch.from_numpy(np.ascontiguousarray(block.astype(np.complex64, copy=False)))
        kspace = kspace if self.has_coils else kspace.unsqueeze(1)
        return kspace.transpose(-1, -2).contiguous()


def recognises(path: str | os.PathLike[str]) -> bool:
    """HDF5 with fastMRI's names at its root, HDF5 that is cut short, or a .h5 file that is no HDF5 (`read` says so)."""
    target = Path(path)
    if not target.is_file():
        return False
    if not hdf5.has_signature(target):
        return target.suffix.lower() in (".h5", ".hdf5")
    return bool(hdf5.root_names(target) & OWN_NAMES) or not hdf5.readable(target)


def read(path: str | os.PathLike[str]) -> MRIScan | Volume:
    """The scan in a fastMRI file, k-space still unread; or the Volume of a prediction file (dataset `reconstruction`).

    Raises `BadInput` for a file that is cut short, lacks `kspace`, or holds other shapes or types than the format says.
    """
    target = check_readable(path)
    with hdf5.opened(target) as file:
        if "kspace" not in file and "reconstruction" in file:
            return _prediction(file, target)
        kspace = _kspace(file, target)
        header = parse(hdf5.text(file, "ismrmrd_header", str(target)), str(target)) if "ismrmrd_header" in file else None
        attributes = hdf5.attributes(file)
        given = _given_mask(file, target, kspace.shape)
        noise = _noise(file, target, kspace.shape[1])
        targets = [name for name in ("reconstruction_rss", "reconstruction_esc") if name in file]
    warnings: list[str] = []
    if header is None:
        warnings.append("no ismrmrd_header: pixel size and image size are unknown, 1 mm and the whole matrix are assumed")
    encoding = header.encodings[0] if header else None
    padding = _padding(encoding, kspace.shape[2])
    mask = _mask(kspace, given, padding, warnings, str(target))
    crop = _crop_size(encoding, kspace.shape, warnings)
    return MRIScan(
        grid=_grid(attributes, encoding, kspace.shape, crop, warnings, str(target)),
        source=target,
        header=_header(attributes, encoding, padding, kspace, targets, warnings),
        study=_study(attributes, header),
        kspace=kspace,
        mask=mask,
        crop=crop,
        noise=noise,
        simulated=bool(attributes.get(SIMULATED, attributes.get("simulated", False))),
    )


def _kspace(file: Any, path: Path) -> H5Slices:
    found = hdf5.dataset(file, "kspace", str(path))
    if found.ndim not in (3, 4):
        raise BadInput(
            f"{path}: kspace has {found.ndim} axes {found.shape}, expected (slice, coil, readout, phase), or "
            "(slice, readout, phase) for one coil"
        )
    if found.dtype.kind != "c":
        raise BadInput(f"{path}: kspace is {found.dtype}, expected complex64 (HDF5 compound of r and i)")
    if min(found.shape) < 1:
        raise BadInput(f"{path}: kspace has an axis of length 0: {found.shape}")
    n_slices, n_coils, nx, ny = found.shape if found.ndim == 4 else (found.shape[0], 1, *found.shape[1:])
    return H5Slices(path, "kspace", (n_slices, n_coils, ny, nx), found.ndim == 4)


def _given_mask(file: Any, path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The dataset `mask`, (phase,) as in test files or (readout, phase) as medrecon writes 2-D masks, in our axes."""
    if "mask" not in file:
        return None
    ny, nx = shape[2:]
    found = np.asarray(hdf5.dataset(file, "mask", str(path))[()])
    if found.dtype.kind not in "biuf" or found.squeeze().shape not in ((ny,), (nx, ny)):
        raise BadInput(f"{path}: mask is {found.dtype} {found.shape}, k-space has {ny} phase-encode columns and {nx} readout samples")
    mask = torch.from_numpy(found.squeeze() != 0)
    return mask[:, None] if mask.ndim == 1 else mask.T.contiguous()


def _padding(encoding: Encoding | None, ny: int) -> tuple[int, int] | None:
    """Range of phase-encode columns that the header says were acquired; None where it does not fit the data."""
    limit = encoding.limits.get("kspace_encoding_step_1") if encoding else None
    if encoding is None or limit is None:
        return None
    left = encoding.encoded.matrix[1] // 2 - limit.center
    right = left + limit.maximum + 1
    return (left, right) if encoding.encoded.matrix[1] == ny and 0 <= left < right <= ny else None


def _mask(kspace: H5Slices, given: Tensor | None, padding: tuple[int, int] | None, warnings: list[str], where: str) -> Tensor:
    found = mask_from_zeros(kspace, where)
    if padding is None:
        warnings.append("the header's encoding limits do not fit k-space: acquired columns are taken from the data")
    else:
        inside = torch.zeros(kspace.shape[2], 1, dtype=torch.bool)
        inside[slice(*padding)] = True
        if bool((found & ~inside).any()):
            warnings.append(f"the header says that columns {padding[0]} to {padding[1] - 1} were acquired, data lie outside: data trusted")
    if given is None:
        return found
    if bool((found & ~given).any()):
        raise BadInput(
            f"{where}: the dataset mask leaves out {int((found & ~given).any(-1).sum())} columns that hold data: "
            "undersample the file with this mask, or remove the dataset"
        )
    # columns that the mask lists and that are zero everywhere were padded, not sampled
    return true_rank((given & found).expand(kspace.shape[2:])) if given.shape[-1] > 1 or found.shape[-1] > 1 else given & found


def _crop_size(encoding: Encoding | None, shape: tuple[int, ...], warnings: list[str]) -> tuple[int, int] | None:
    """(ny, nx) of the reconstructed image, by fastMRI's rule: narrow k-space (FLAIR 203) gives a square of its width."""
    if encoding is None:
        return None
    ny, nx = shape[2:]
    recon_x, recon_y, _ = encoding.recon.matrix
    crop = (recon_y, recon_x) if ny >= recon_y else (ny, ny)
    if crop[1] > nx:
        warnings.append(f"the header asks for {crop[1]} readout pixels, k-space has {nx}: the readout is not cropped")
        crop = (crop[0], nx)
    return None if crop == (ny, nx) else crop


def _grid(
    attributes: dict[str, Any],
    encoding: Encoding | None,
    shape: tuple[int, ...],
    crop: tuple[int, int] | None,
    warnings: list[str],
    where: str,
) -> Grid:
    full = (shape[0], *(crop or shape[2:]))
    if AFFINE in attributes:
        affine = np.asarray(attributes[AFFINE])
        if affine.shape != (4, 4) or affine.dtype.kind not in "fi":
            raise BadInput(f"{where}: attribute {AFFINE} has shape {affine.shape}, expected a 4 x 4 matrix of numbers")
        return Grid((full[0], full[1], full[2]), affine.astype(np.float64))
    return Grid.unplaced(full, _spacing(encoding, shape, warnings))


def _spacing(encoding: Encoding | None, shape: tuple[int, ...], warnings: list[str]) -> tuple[float, float, float]:
    """(z, y, x) mm: encoded field of view over encoded matrix, since the crop does not interpolate."""
    if encoding is None:
        return 1.0, 1.0, 1.0
    ny, nx = shape[2:]
    encoded, recon = encoding.encoded, encoding.recon
    dx, dy = encoded.fov[0] / encoded.matrix[0], encoded.fov[1] / encoded.matrix[1]
    if nx == recon.matrix[0]:  # oversampling was removed before the file was written
        dx = recon.pixel[0]
    elif nx != encoded.matrix[0]:
        dx = encoded.fov[0] / nx
        warnings.append(f"the header says {encoded.matrix[0]} readout samples, k-space has {nx}: pixel size from the field of view")
    if ny != encoded.matrix[1]:
        dy = encoded.fov[1] / ny
        warnings.append(f"the header says {encoded.matrix[1]} phase-encode columns, k-space has {ny}: pixel size from the field of view")
    return recon.fov[2] / recon.matrix[2], dy, dx


def _noise(file: Any, path: Path, n_coils: int) -> NoiseScan | None:
    """Noise samples (dataset `noise`) or ones made to have exactly the covariance E[n n^H] in `noise_cov`; both optional."""
    name = next((name for name in ("noise", "noise_cov") if name in file), None)
    if name is None:
        return None
    found = hdf5.dataset(file, name, str(path))
    if found.ndim != 2 or found.dtype.kind != "c" or found.shape[0] != n_coils or (name == "noise_cov" and found.shape[1] != n_coils):
        shape = "coil, coil" if name == "noise_cov" else "coil, sample"
        raise BadInput(f"{path}: {name} is {found.dtype} {found.shape}, expected complex ({shape}) with {n_coils} coils")
    values = np.asarray(found[()])
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: {name} holds NaN or infinite values: remove the dataset or repair it")
    if name == "noise":
        ratio = found.attrs.get(BANDWIDTH, 1.0)
        return NoiseScan(torch.from_numpy(values.astype(np.complex64)), float(ratio))
    return NoiseScan(samples_with_covariance(torch.from_numpy(values.astype(np.complex128)), str(path)).to(torch.complex64))


def samples_with_covariance(covariance: Tensor, where: str, n: int = 4096) -> Tensor:
    """(coil, n) of zero mean whose sample covariance (1/n) N N^H is the given (coil, coil) matrix."""
    factor, failed = torch.linalg.cholesky_ex((covariance + covariance.mH) / 2)
    if int(failed):
        raise BadInput(f"{where}: noise_cov is not positive definite: remove the dataset or repair it")
    n_coils = covariance.shape[0]
    # rows of a Fourier matrix without its constant row: orthogonal, unit modulus, zero mean
    phase = torch.arange(1, n_coils + 1, dtype=torch.float64)[:, None] * torch.arange(n, dtype=torch.float64) / n
    return factor @ torch.polar(torch.ones_like(phase), 2 * torch.pi * phase).to(factor.dtype)


def _header(
    attributes: dict[str, Any],
    encoding: Encoding | None,
    padding: tuple[int, int] | None,
    kspace: H5Slices,
    targets: list[str],
    warnings: list[str],
) -> dict[str, Any]:
    header: dict[str, Any] = {"format": "fastMRI HDF5", "single_coil": not kspace.has_coils, "targets": targets}
    header |= {key: value for key, value in attributes.items() if key != AFFINE}
    if encoding:
        header |= {"encoding_size": encoding.encoded.matrix, "recon_size": encoding.recon.matrix}
    if padding:
        header |= {"padding_left": padding[0], "padding_right": padding[1]}
    return header | {"warnings": warnings}


def _study(attributes: dict[str, Any], header: MRDHeader | None) -> dict[str, Any]:
    study = dict(header.facts) if header else {}
    acquisition = attributes.get("acquisition")
    if isinstance(acquisition, str) and acquisition:
        study.setdefault("SeriesDescription", acquisition)
        if acquisition in BODY_PARTS:
            study.setdefault("BodyPartExamined", BODY_PARTS[acquisition])
    if attributes.get("patient_id"):
        study.setdefault("PatientID", str(attributes["patient_id"]))
    return study


def _prediction(file: Any, path: Path) -> Volume:
    found = hdf5.dataset(file, "reconstruction", str(path))
    if found.ndim != 3 or found.dtype.kind != "f":
        raise BadInput(f"{path}: reconstruction is {found.dtype} {found.shape}, expected float32 (slice, readout, phase)")
    image = torch.from_numpy(np.ascontiguousarray(np.asarray(found[()], np.float32).transpose(0, 2, 1)))
    attributes = hdf5.attributes(file)
    grid = _grid(attributes, None, (image.shape[0], 1, *image.shape[1:]), None, [], str(path))
    return Volume(image, grid, provenance={"source": path.name})
