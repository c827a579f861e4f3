"""What a .npz or .npy of projections holds, looked at before it is loaded: the stack, its geometry, and facts beside it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.io.arrays import Npz, mapped
from medrecon.physics.ct.circular import from_dict
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.scan import WATER
from medrecon.volume import Grid

OWN_KEYS = {
    "sinogram": "line integrals",
    "sino": "line integrals",
    "projections": "line integrals",
    "counts": "counts",
    "trans": "transmission",
}
"""Names that say that an array is projections, and what these hold where nobody says."""

PHOTON_KEYS = ("photons", "i0", "I0", "blank")

GEOMETRY_FILE = "geometry.json"


@dataclass(frozen=True)
class ArrayFile:
    """The arrays of a .npz, or of a .npy (named "") with what geometry.json says."""

    path: Path
    zipped: Npz | None
    beside: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> ArrayFile:
        if zipfile.is_zipfile(path):
            return cls(path, Npz.of(path), {})
        place = path.with_name(GEOMETRY_FILE)
        return cls(path, None, json_object(place.read_text("utf-8", "replace"), str(place)) if place.is_file() else {})

    def has(self, name: str) -> bool:
        return self.zipped is not None and name in self.zipped.headers

    def load(self, name: str) -> NDArray[Any]:
        return mapped(self.path) if self.zipped is None else self.zipped.load(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(mapped(self.path).shape) if self.zipped is None else self.zipped.headers[name][0]

    def kind(self, name: str) -> str:
        return str((mapped(self.path).dtype if self.zipped is None else self.zipped.headers[name][1]).kind)

    def data_name(self, key: str | None) -> str:
        """The array with the projections."""
        if self.zipped is None:
            return ""
        if key is not None and key not in self.zipped.headers:
            raise BadInput(f"{self.path}: no array {key!r}; the file holds: {self.zipped}")
        names = [key] if key else [name for name in ("data", *OWN_KEYS) if name in self.zipped.headers]
        if not names:
            own = ", ".join(OWN_KEYS)
            raise BadInput(f"{self.path}: expected projections named data, {own}; choose with key=NAME; it holds: {self.zipped}")
        return names[0]

    def text(self, name: str) -> str | None:
        """A text of the file; None where it is not there."""
        if not self.has(name):
            return None
        value = self.load(name)
        if value.dtype.kind != "U" or value.size != 1:
            raise BadInput(f"{self.path}[{name}]: is {value.dtype} {value.shape}, expected one text")
        return str(value.reshape(-1)[0])

    def own_geometry(self) -> Geometry | None:
        """The geometry that the file or geometry.json says; None where neither does."""
        found: Mapping[str, Any] = self.beside
        where = str(self.path.with_name(GEOMETRY_FILE))
        if self.zipped is not None:
            text, where = self.text("geometry"), f"{self.path}[geometry]"
            if text is None:
                return None
            found = json_object(text, where)
        if not found:
            return None
        nested = found.get("geometry")
        try:
            return from_dict(nested if isinstance(nested, dict) else found)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error

    def facts(self) -> dict[str, Any]:
        """What else the file says: stored, water, sized, simulated, height, header, study, grid."""
        nested = isinstance(self.beside.get("geometry"), dict)
        facts = {k: v for k, v in self.beside.items() if nested and k in ("stored", "water", "sized", "simulated")}
        units = self.text("units")
        if units is not None and units != "mm":
            raise BadInput(f"{self.path}[units]: lengths are in {units!r}: convert them to mm")
        for name in ("stored", "header", "study"):
            text = self.text(name)
            if text is not None:
                facts[name] = text if name == "stored" else json_object(text, f"{self.path}[{name}]")
        for name in ("water", "sized", "simulated", "height"):
            if self.has(name):
                facts[name] = float(self._numbers(name, 1)[0])
        if self.has("matrix") and self.has("affine"):
            nz, ny, nx = (int(n) for n in self._numbers("matrix", 3))
            facts["grid"] = Grid((nz, ny, nx), self._numbers("affine", 16).reshape(4, 4), self.text("orientation") or "unknown")
        water = facts.get("water", WATER)
        if isinstance(water, (bool, str)) or not 0 < float(water) < 1:
            raise BadInput(f"{self.path}: water = {water!r}: expected its attenuation in 1/mm, about {WATER}")
        return facts

    def _numbers(self, name: str, count: int) -> NDArray[np.float64]:
        value = self.load(name)
        if value.dtype.kind not in "biuf" or value.size != count or not np.isfinite(value.astype(np.float64)).all():
            raise BadInput(f"{self.path}[{name}]: is {value.dtype} {value.shape}, expected {count} finite numbers")
        return value.astype(np.float64).reshape(-1)

    def frames(self, name: str, geometry: Geometry, transposed: bool) -> Tensor | None:
        """Flat or dark fields (slice or 1, frame, [row,] bin)."""
        if not self.has(name):
            return None
        value = np.asarray(self.load(name), np.float32)
        value = value.swapaxes(-1, -2) if transposed and value.ndim > 1 else value
        detector = geometry.shape[1:]
        value = value.reshape((1,) * (len(detector) + 2 - value.ndim) + value.shape) if value.ndim <= len(detector) + 2 else value
        if value.shape[-len(detector) :] != detector or value.ndim != len(detector) + 2:
            raise BadInput(f"{self.path}[{name}]: shape {value.shape} does not end with the detector {detector}")
        return torch.from_numpy(np.ascontiguousarray(value))

    def photons(self, geometry: Geometry, transposed: bool) -> Tensor | None:
        """Incident quanta, of a shape that broadcasts over one item."""
        name = next((name for name in PHOTON_KEYS if self.has(name)), None)
        if name is None:
            return None
        value = self.load(name)
        value = value.swapaxes(-1, -2) if transposed and value.ndim > 1 else value
        try:
            np.broadcast_shapes(value.shape, geometry.shape)
            fits = np.broadcast_shapes(value.shape, geometry.shape) == geometry.shape
        except ValueError:
            fits = False
        if not fits or value.dtype.kind not in "iuf" or not (np.isfinite(value).all() and (value > 0).all()):
            raise BadInput(
                f"{self.path}[{name}]: expected positive numbers of quanta that fit {geometry.shape}, got {value.dtype} {value.shape}"
            )
        return torch.from_numpy(np.ascontiguousarray(value if value.dtype.kind == "f" else value.astype(np.float32)))


@dataclass(frozen=True)
class Stack:
    """An array of the file in its own axes, views before bins; read when first asked for."""

    file: ArrayFile
    name: str
    transposed: bool

    def __post_init__(self) -> None:
        shape, kind = self.file.shape(self.name), self.file.kind(self.name)
        if len(shape) not in (2, 3, 4) or min(shape) < 1 or kind not in "iuf":
            where = f"{self.file.path}[{self.name}]" if self.name else str(self.file.path)
            raise BadInput(
                f"{where}: has shape {shape} of kind {kind!r}, expected real (view, bin), (slice, view, bin) or (view, row, bin)"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.file.shape(self.name)
        return (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape

    @property
    def last(self) -> tuple[int, int]:
        """(rows or views, bins)."""
        return self.shape[-2], self.shape[-1]

    def views(self, cone: bool) -> int:
        """How many views there are."""
        if cone and len(self.shape) < 3:
            raise BadInput(f"{self.file.path}: a cone's projections are (view, row, bin), the array is {self.shape}")
        return self.shape[-3 if cone else -2]

    @cached_property
    def values(self) -> NDArray[Any]:
        loaded = self.file.load(self.name)
        return loaded.swapaxes(-1, -2) if self.transposed else loaded


@dataclass(frozen=True)
class Items:
    """(item, view, [row,] bin) float32, or float64 where the file has it."""

    stack: Stack
    dimensions: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.stack.shape
        return shape if len(shape) == self.dimensions + 1 else (1, *shape)

    def __getitem__(self, index: slice) -> Tensor:
        block = self.stack.values.reshape(self.shape)[index]
        return torch.from_numpy(np.array(block, np.float64 if block.dtype == np.float64 else np.float32))


def json_object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: is no JSON ({str(error)[:120]}): cut short or damaged") from error
    if not isinstance(found, dict):
        raise BadInput(f"{where}: holds {type(found).__name__}, expected an object {{name: value}}")
    return found
