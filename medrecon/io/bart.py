"""BART's .cfl/.hdr pairs: complex64, column-major, up to 16 named dimensions.

Our axes are BART's reversed: (READ, PHS1, PHS2, COIL, ..., SLICE, ...) in the header is (..., SLICE, ..., COIL, PHS2, PHS1, READ)
in C order. The pair says nothing of place or pixel size: the orientation is unknown, pixels are 1 mm unless given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.files import atomic_file, check_readable
from medrecon.io.sampling import mask_from_zeros
from medrecon.physics.mri.scan import MRIScan
from medrecon.volume import Grid, Volume

DIMENSIONS = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2",
    "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH",
)  # fmt: skip
COIL, SLICE = 3, 13


@dataclass(frozen=True)
class CflSlices:
    """k-space (slice, coil, ([z,] y, x)) complex64, memory-mapped for each read."""

    path: Path
    dims: tuple[int, ...]
    shape: tuple[int, ...]

    def __getitem__(self, index: slice) -> Tensor:
        whole = np.memmap(self.path, "<c8", "r", shape=self.dims[::-1]).reshape(self.shape)
        return torch.from_numpy(np.array(whole[index], np.complex64))


def recognises(path: str | os.PathLike[str]) -> bool:
    """A name that ends in .cfl, a .hdr that begins like BART's, or the common name of a pair."""
    target = Path(path)
    if target.suffix == ".cfl":
        return target.is_file()
    if target.suffix == ".hdr" and target.is_file():
        with target.open("rb") as file:
            return file.read(12) == b"# Dimensions"
    return not target.exists() and _with(target, ".cfl").is_file() and _with(target, ".hdr").is_file()


def read(path: str | os.PathLike[str], *, kind: str = "kspace", pixel_mm: float = 1.0) -> MRIScan | Volume:
    """The scan in a pair, still unread, or with kind="image" the Volume (image of dimensions 0, 1, 2 or 0, 1, 13).

    2-D k-space has READ, PHS1 (or, at one readout position, PHS1, PHS2), COIL, SLICE; with READ, PHS1 and PHS2 it is 3-D.
    Raises `BadInput` for a file of another size than its header says, `NotSupported` for further dimensions.
    """
    if kind not in ("kspace", "image"):
        raise BadInput(f"{path}: kind is {kind!r}, expected kspace or image{nearest(kind, ['kspace', 'image'])}")
    data, dims = _pair(path)
    _check_dims(data, dims, kind)
    if kind == "image":
        return _image(data, dims, pixel_mm)
    read_length, phs1, phs2 = dims[:3]
    is_3d = read_length > 1 and phs2 > 1
    if is_3d and dims[SLICE] > 1:
        raise NotSupported(f"{data}: dimensions READ, PHS1, PHS2 and SLICE are all used: take one slab with `bart slice {SLICE} 0 in out`")
    matrix = (phs2, phs1, read_length) if is_3d else (phs2, phs1) if read_length == 1 else (phs1, read_length)
    kspace = CflSlices(data, dims, (dims[SLICE], dims[COIL], *matrix))
    grid_shape = matrix if is_3d else (dims[SLICE], *matrix)
    return MRIScan(
        grid=Grid.unplaced(grid_shape, (pixel_mm,) * 3),
        source=data,
        header={"format": "BART cfl", "dimensions": dims, "warnings": []},
        kspace=kspace,
        mask=mask_from_zeros(kspace, str(data), len(matrix)),
        image_axes=len(matrix),
    )


def writes(path: str | os.PathLike[str]) -> bool:
    """Names ending in .cfl."""
    return Path(path).suffix == ".cfl"


def write(volume: Volume, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """The pair of one volume: dimensions 0, 1, 2 are x, y, z. The place in the patient is lost: the format has none."""
    if volume.image.ndim != 3:
        raise BadInput(f"{path}: a cfl image holds one volume (z, y, x), got {tuple(volume.image.shape)}")
    return _write(path, volume.grid.shape[::-1], [volume.image], force)


def write_scan(scan: MRIScan, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """The pair of a scan's k-space: READ, PHS1, (PHS2,) COIL, SLICE. One slice is in memory at a time."""
    dims = [1] * len(DIMENSIONS)
    dims[: len(scan.matrix)] = scan.matrix[::-1]
    dims[COIL], dims[SLICE] = scan.n_coils, scan.n_slices
    return _write(path, dims, (scan.kspace[i : i + 1] for i in range(scan.n_slices)), force)


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _pair(path: str | os.PathLike[str]) -> tuple[Path, tuple[int, ...]]:
    """The .cfl file and its 16 dimensions, checked against its length."""
    target = Path(path)
    base = target.with_suffix("") if target.suffix in (".cfl", ".hdr") else target
    data, header = check_readable(_with(base, ".cfl")), check_readable(_with(base, ".hdr"))
    with header.open("rb") as file:
        lines = file.read(1 << 16).decode("ascii", "replace").splitlines()
    if len(lines) < 2 or not lines[0].startswith("# Dimensions"):
        raise BadInput(f"{header}: does not begin with '# Dimensions': not a BART header")
    words = lines[1].split()
    if not 1 <= len(words) <= len(DIMENSIONS) or not all(word.isdigit() and 1 <= int(word) <= 1 << 40 for word in words):
        raise BadInput(f"{header}: dimensions are {lines[1][:100]!r}, expected 1 to {len(DIMENSIONS)} positive whole numbers")
    dims = tuple(int(word) for word in words) + (1,) * (len(DIMENSIONS) - len(words))
    need, size = 8, data.stat().st_size
    for n in dims:
        need *= n
    if need != size:
        used = " x ".join(f"{name} {n}" for name, n in zip(DIMENSIONS, dims, strict=True) if n > 1) or "1"
        raise BadInput(f"{data}: holds {size} bytes, its header announces {used} = {need} bytes: cut short, or not its header")
    return data, dims


def _check_dims(data: Path, dims: Sequence[int], kind: str) -> None:
    allowed = {0, 1, 2, SLICE} if kind == "image" else {0, 1, 2, COIL, SLICE}
    extra = [i for i, n in enumerate(dims) if n > 1 and i not in allowed]
    if extra:
        names = ", ".join(f"{DIMENSIONS[i]} (dimension {i}) of length {dims[i]}" for i in extra)
        raise NotSupported(f"{data}: has {names}; choose one entry with `bart slice {extra[0]} 0 in out`")


def _image(data: Path, dims: tuple[int, ...], pixel_mm: float) -> Volume:
    nx, ny, nz = dims[:3]
    if nz > 1 and dims[SLICE] > 1:
        raise NotSupported(f"{data}: both PHS2 and SLICE are used: choose one slab with `bart slice {SLICE} 0 in out`")
    shape = (max(nz, dims[SLICE]), ny, nx)
    image = torch.from_numpy(np.fromfile(data, "<c8").astype(np.complex64, copy=False)).reshape(shape)
    return Volume(image, Grid.unplaced(shape, (pixel_mm,) * 3), provenance={"source": data.name})


def _write(path: str | os.PathLike[str], dims: Sequence[int], blocks: Any, force: bool) -> list[Path]:
    target = Path(path)
    base = target.with_suffix("") if target.suffix in (".cfl", ".hdr") else target
    data, header = _with(base, ".cfl"), _with(base, ".hdr")
    padded = [*dims, *[1] * (len(DIMENSIONS) - len(dims))]
    with atomic_file(header, force) as new_header, atomic_file(data, force) as new_data:
        new_header.write_text("# Dimensions\n" + " ".join(map(str, padded)) + "\n", encoding="ascii")
        with new_data.open("wb") as file:
            for block in blocks:
                np.ascontiguousarray(block.detach().cpu().resolve_conj().numpy(), "<c8").tofile(file)
    return [data, header]
