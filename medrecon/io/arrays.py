"""NumPy arrays, never unpickled: k-space in fastMRI's axis order, images in ours.

k-space is a complex array ([slice,] coil, readout, phase) whose unsampled entries are exactly zero; it becomes
(slice, coil, y = phase, x = readout). Real arrays are images (z, y, x) or (y, x).
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.files import atomic_file, check_readable, check_size
from medrecon.io.sampling import mask_from_zeros
from medrecon.physics.mri.scan import MRIScan
from medrecon.volume import Grid, Volume

KSPACE_KEYS = ("kspace", "ksp")
IMAGE_KEYS = ("image", "images")
EXTRAS = ("affine", "spacing", "pixel_mm", "scale", "units")
COMPRESSION = 1100.0
"""Deflate reaches about 1030 : 1 at best; a zip member that announces more is hostile."""


@dataclass(frozen=True)
class NpySlices:
    """k-space (slice, coil, y, x) complex64 of a .npy file ([slice,] coil, readout, phase), memory-mapped for each read."""

    path: Path
    shape: tuple[int, int, int, int]

    def __getitem__(self, index: slice) -> Tensor:
        whole = np.load(self.path, mmap_mode="r", allow_pickle=False)
        n_slices, n_coils, ny, nx = self.shape
        return _turned(whole.reshape(n_slices, n_coils, nx, ny)[index])


def recognises(path: str | os.PathLike[str]) -> bool:
    """.npy by its magic bytes, .npz by its name and a zip's."""
    target = Path(path)
    if not target.is_file():
        return False
    with target.open("rb") as file:
        start = file.read(6)
    return start == b"\x93NUMPY" or target.suffix.lower() in (".npy", ".npz")


def read(
    path: str | os.PathLike[str], *, key: str | None = None, kind: str | None = None, pixel_mm: float | None = None
) -> MRIScan | Volume:
    """The scan or Volume in an array file.

    `key`: which array of a .npz, else `kspace` or `ksp`, then `image` or `images`, then the only one of 2 to 4 axes.
    `kind` "kspace" or "image" overrides the rule that complex arrays of 3 or 4 axes are k-space unless named image. An image may come with
    `affine` (4 x 4, voxel (x, y, z) to RAS mm), `spacing` (z, y, x) or `pixel_mm`, and `scale` (a factor); the option
    `pixel_mm` overrides the spacing. Raises `BadInput` for pickles, other shapes and types, and damage.
    """
    target = check_readable(path)
    if kind not in (None, "kspace", "image"):
        raise BadInput(f"{target}: kind is {kind!r}, expected kspace or image")
    if zipfile.is_zipfile(target):
        arrays = Npz.of(target)
        name = _chosen(arrays, key)
        array, extras = arrays.load(name), {extra: arrays.load(extra) for extra in EXTRAS if extra in arrays.headers and extra != name}
    else:
        name, array, extras = "", mapped(target), {}
    by_rule = name in KSPACE_KEYS or (name not in IMAGE_KEYS and array.dtype.kind == "c" and array.ndim in (3, 4))
    is_kspace = by_rule if kind is None else kind == "kspace"
    where = f"{target}[{name}]" if name else str(target)
    if is_kspace:
        return _scan(array, target, name, where, pixel_mm)
    return _volume(array, extras, target, where, pixel_mm)


def writes(path: str | os.PathLike[str]) -> bool:
    """Names ending in .npy or .npz."""
    return Path(path).suffix.lower() in (".npy", ".npz")


def write(volume: Volume, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """.npy: the image alone; .npz: `image`, `affine` (or `spacing` where the orientation is unknown), `units`, `provenance` (JSON)."""
    target = Path(path)
    with atomic_file(target, force) as temporary, temporary.open("wb") as file:
        if target.suffix.lower() == ".npy":
            np.save(file, volume.numpy(), allow_pickle=False)
        else:
            known = volume.orientation == "known"
            place = {"affine": volume.affine} if known else {"spacing": np.array(volume.spacing)}
            provenance = json.dumps(dict(volume.provenance), default=str, sort_keys=True)
            np.savez_compressed(file, image=volume.numpy(), units=np.array(volume.units), provenance=np.array(provenance), **place)
    return [target]


Header = tuple[tuple[int, ...], "np.dtype[Any]"]


@dataclass(frozen=True)
class Npz:
    """The arrays of a .npz file by name, known by shape and type and loaded one at a time."""

    path: Path
    headers: Mapping[str, Header]

    @classmethod
    def of(cls, path: Path) -> Npz:
        """Raises `BadInput` for damage, for pickles, and for arrays that the file cannot hold."""
        headers: dict[str, Header] = {}
        with _opened(path) as archive:
            for item in archive.infolist():
                name = item.filename.removesuffix(".npy")
                with archive.open(item) as file:
                    shape, dtype, _ = _npy_header(file, f"{path}[{name}]")
                check_size(f"{path}[{name}]", shape, dtype.itemsize, item.compress_size, COMPRESSION)
                headers[name] = shape, dtype
        return cls(path, headers)

    def load(self, name: str) -> NDArray[Any]:
        """One array."""
        with _opened(self.path) as archive, archive.open(f"{name}.npy") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array

    def __str__(self) -> str:
        return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in self.headers.items()) or "nothing"


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError, NotImplementedError) as error:
        raise BadInput(f"{path}: reading failed ({str(error)[:120]}): cut short or damaged") from error


def mapped(path: Path) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped after its header was checked against its length."""
    with path.open("rb") as file:
        shape, dtype, start = _npy_header(file, str(path))
    check_size(str(path), shape, dtype.itemsize, path.stat().st_size - start)
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, dtype, length) of the header of a .npy stream; object arrays are refused."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in formats:
            raise BadInput(f"{where}: .npy version {version} is not supported")
        shape, _, dtype = formats[version](file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise BadInput(f"{where}: not a whole .npy array ({str(error)[:120]}): cut short, damaged or another format") from error
    if dtype.hasobject:
        raise BadInput(f"{where}: holds Python objects (pickled), which are never loaded: save a plain numeric array")
    return shape, dtype, file.tell()


def _chosen(arrays: Npz, key: str | None) -> str:
    if key is not None:
        if key not in arrays.headers:
            raise BadInput(f"{arrays.path}: no array {key!r}; the file holds: {arrays}")
        return key
    named = [name for name in (*KSPACE_KEYS, *IMAGE_KEYS) if name in arrays.headers]
    others = [
        name for name, (shape, dtype) in arrays.headers.items() if len(shape) in (2, 3, 4) and name not in EXTRAS and dtype.kind in "biufc"
    ]
    if named:
        return named[0]
    if len(others) == 1:
        return others[0]
    raise BadInput(
        f"{arrays.path}: expected an array named kspace, ksp, image or images, or one alone; choose with key=NAME; it holds: {arrays}"
    )


def _scan(array: NDArray[Any], path: Path, name: str, where: str, pixel_mm: float | None) -> MRIScan:
    if array.dtype.kind != "c" or array.ndim not in (3, 4) or min(array.shape) < 1:
        raise BadInput(f"{where}: k-space is {array.dtype} {array.shape}, expected complex ([slice,] coil, readout, phase)")
    n_slices, n_coils, nx, ny = array.shape if array.ndim == 4 else (1, *array.shape)
    whole = array.reshape(n_slices, n_coils, nx, ny)
    kspace: NpySlices | Tensor = _turned(whole) if name else NpySlices(path, (n_slices, n_coils, ny, nx))
    return MRIScan(
        grid=Grid.unplaced((n_slices, ny, nx), (pixel_mm or 1.0,) * 3),
        source=path,
        header={"format": "NumPy array", "array": name or "npy", "warnings": [] if pixel_mm else ["pixel size unknown: 1 mm assumed"]},
        kspace=kspace,
        mask=mask_from_zeros(kspace, where),
    )


def _turned(block: NDArray[Any]) -> Tensor:
    """fastMRI's (slice, coil, readout, phase) to our (slice, coil, y = phase, x = readout)."""
    return torch.from_numpy(np.ascontiguousarray(np.swapaxes(block, -1, -2), np.complex64))


def _volume(array: NDArray[Any], arrays: Mapping[str, NDArray[Any]], path: Path, where: str, pixel_mm: float | None) -> Volume:
    if array.ndim not in (2, 3) or array.dtype.kind not in "biufc" or min(array.shape) < 1:
        raise BadInput(f"{where}: image is {array.dtype} {array.shape}, expected numbers (z, y, x) or (y, x)")
    values = array[None] if array.ndim == 2 else array
    values = np.array(values, np.complex64 if array.dtype.kind == "c" else np.float32)
    if "scale" in arrays:
        values *= np.float32(_numbers(arrays["scale"], 1, f"{path}[scale]")[0])
    image = torch.from_numpy(values)
    nz, ny, nx = values.shape
    units = str(arrays["units"]) if "units" in arrays and arrays["units"].dtype.kind == "U" else "arbitrary"
    provenance = {"source": path.name}
    if "affine" in arrays:
        affine = np.array(_numbers(arrays["affine"], 16, f"{path}[affine]")).reshape(4, 4)
        return Volume(image, Grid((nz, ny, nx), affine), units=units, provenance=provenance)
    return Volume(image, Grid.unplaced((nz, ny, nx), _spacing(arrays, path, pixel_mm)), units=units, provenance=provenance)


def _spacing(arrays: Mapping[str, NDArray[Any]], path: Path, pixel_mm: float | None) -> Sequence[float]:
    if pixel_mm is not None:
        spacing = [pixel_mm] * 3
    elif "spacing" in arrays:
        spacing = _numbers(arrays["spacing"], 3, f"{path}[spacing]")
    elif "pixel_mm" in arrays and arrays["pixel_mm"].size == 1:
        spacing = _numbers(arrays["pixel_mm"], 1, f"{path}[pixel_mm]") * 3
    else:
        spacing = [1.0] * 3
    if min(spacing) <= 0:
        raise BadInput(f"{path}: pixel size is {spacing}, expected positive lengths in mm")
    return spacing


def _numbers(array: NDArray[Any], count: int, where: str) -> list[float]:
    if array.dtype.kind not in "iuf" or array.size != count or not np.isfinite(array.astype(np.float64)).all():
        raise BadInput(f"{where}: is {array.dtype} {array.shape}, expected {count} finite numbers")
    return [float(n) for n in array.reshape(-1)]
