"""Projections as NumPy arrays: .npz with the geometry as JSON text, .npy with geometry.json beside it, or the geometry as options.

medrecon's own .npz holds, beside `data` (item, view, [row,] bin) and `geometry` (see `Geometry.to_dict`; mm, rad): `stored`, `water`,
`sized`, `units` ("mm"), `affine`, `matrix` and `orientation` of the image, `header`, `study`, `simulated`, and where there are any
`flat`, `dark`, `photons`.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medrecon.errors import BadInput, nearest
from medrecon.files import atomic_file, check_readable
from medrecon.io.arrays import KSPACE_KEYS, Npz, mapped
from medrecon.io.ct_array_file import GEOMETRY_FILE, OWN_KEYS, PHOTON_KEYS, ArrayFile, Items, Stack
from medrecon.io.projections import double_ends, image_grid, positive, radians, spread_angles
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, ParallelBeam2D
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.scan import STORED, WATER, CTScan
from medrecon.physics.scan import SliceArray

KINDS = ("parallel", "fan", "cone")

ANGLE_KEYS = ("angles", "theta")

LARGEST_INTEGRAL = 100.0
"""No ray comes out of an object of so many attenuation lengths: such numbers are no line integrals."""


def recognises(path: str | os.PathLike[str]) -> bool:
    """.npz with `geometry` or an array named as projections are, and no k-space; a real .npy with geometry.json beside it."""
    target = Path(path)
    if target.suffix.lower() not in (".npz", ".npy") or not target.is_file():
        return False
    try:
        if not zipfile.is_zipfile(target):
            beside = target.with_name(GEOMETRY_FILE)
            return target.suffix.lower() == ".npy" and beside.is_file() and mapped(target).dtype.kind in "iuf"
        names = Npz.of(target).headers
    except BadInput:
        return False  # the reader of arrays says what is wrong
    return not set(names) & set(KSPACE_KEYS) and bool(set(names) & {"geometry", *OWN_KEYS})


def read(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    geometry: str | None = None,
    angles: Any = None,
    arc: float | None = None,
    start: float = 0.0,
    endpoint: bool = False,
    angle_unit: str | None = None,
    bin_spacing: float | None = None,
    row_spacing: float | None = None,
    slice_spacing: float | None = None,
    offset: float | None = None,
    dso: float | None = None,
    dsd: float | None = None,
    detector: str = "flat",
    transposed: bool = False,
    stored: str | None = None,
    photons: float | None = None,
    water: float | None = None,
) -> CTScan:
    """The scan in an array file: ([slice,] view, bin), or (view, row, bin) for cones.

    `key`: which array of a .npz. Where the file holds no geometry: `geometry` parallel, fan or cone, with `angles` (a list, in
    `angle_unit`, else degrees) or `arc` degrees from `start` (`endpoint`: the last view closes it); `bin_spacing`, `row_spacing`,
    `slice_spacing`, `offset`, `dso`, `dsd` in mm, `detector` flat or curved. Without `bin_spacing` a bin is 1 and there are no HU;
    without `offset` the axis of parallel rays is not known. `transposed`: the array has its bins before its views.
    `stored`, `photons`, `water`: what the file does not say, see `CTScan`. Raises `BadInput` for damage, for numbers of views,
    angles and bins that do not fit, and for numbers that are no line integrals.
    """
    target = check_readable(path)
    for name, value in {"bin_spacing": bin_spacing, "photons": photons, "water": water, "slice_spacing": slice_spacing}.items():
        positive(name, value)
    file = ArrayFile.of(target)
    name = file.data_name(key)
    array = Stack(file, name, transposed)
    found = file.own_geometry()
    warnings: list[str] = []
    header: dict[str, Any] = {"format": "NumPy projections", "array": name or "npy", "warnings": warnings}
    sized = True
    if found is None:
        beam = _Beam(geometry, bin_spacing, row_spacing, offset, dso, dsd, detector)
        turned = _angles(file, array.views(geometry == "cone"), angles, arc, start, endpoint, angle_unit, warnings)
        found, sized = beam.of(turned, array.last), bin_spacing is not None
        if not sized:
            warnings.append("the size of a bin is unknown: a bin is 1 mm, values are not HU (give bin_spacing=)")
        if found.parallel:
            header |= {"rotation_centre": "unknown"} if offset is None else {}
            warnings += double_ends(turned)
    elif geometry is not None or angles is not None or arc is not None:
        raise BadInput(f"{target}: the file has its own geometry ({type(found).__name__}): leave out geometry, angles and arc")
    facts = file.facts()
    projections = Items(array, found.dimensions)
    said = stored or facts.get("stored") or _kind(name, file)
    scan = CTScan(
        grid=facts.get("grid") or image_grid(found, projections.shape[0], slice_spacing),
        source=target,
        header=facts.get("header") or header,
        study=facts.get("study") or {},
        simulated=bool(facts.get("simulated", False)),
        projections=projections,
        geometry=found,
        stored=said,
        flat=file.frames("flat", found, transposed),
        dark=file.frames("dark", found, transposed),
        photons=torch.tensor(float(photons)) if photons is not None else file.photons(found, transposed),
        water=water if water is not None else float(facts.get("water", WATER)),
        sized=bool(facts.get("sized", sized)),
        height=facts.get("height"),
    )
    if scan.grid.shape[0] != projections.shape[0] and found.dimensions == 2:
        raise BadInput(f"{target}: {projections.shape[0]} slices of projections, {scan.grid.shape[0]} slices in matrix")
    if stored is None and "stored" not in facts and said == "line integrals":
        _check_integrals(array, target)
    return scan


def write_scan(scan: CTScan, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """A .npz from which `read` makes the same scan; one slice (or the one stack) is in memory at a time."""
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise BadInput(f"{target}: projections are written as .npz: choose a name that ends so")
    words = {
        "geometry": json.dumps(scan.geometry.to_dict()),
        "header": json.dumps(dict(scan.header), default=str),
        "study": json.dumps(dict(scan.study), default=str),
        "stored": scan.stored,
        "units": "mm",
        "orientation": scan.grid.orientation,
    }
    numbers: dict[str, Any] = {
        "water": np.float64(scan.water),
        "sized": np.bool_(scan.sized),
        "simulated": np.bool_(scan.simulated),
        "affine": scan.grid.affine,
        "matrix": np.array(scan.grid.shape),
    }
    if scan.height is not None:
        numbers["height"] = np.float64(scan.height)
    if scan.photons is not None:
        numbers["photons"] = scan.photons.detach().cpu().numpy()
    with atomic_file(target, force) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, value in {**{k: np.array(v) for k, v in words.items()}, **numbers}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
        for name, stack in (("data", scan.projections), ("flat", scan.flat), ("dark", scan.dark)):
            if stack is not None:
                _streamed(archive, name, stack)
    return [target]


def _streamed(archive: zipfile.ZipFile, name: str, stack: SliceArray) -> None:
    """Writes one member item by item."""
    first = stack[0:1].detach().cpu().numpy()
    description = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": tuple(map(int, stack.shape))}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, description)
        for index in range(stack.shape[0]):
            item = first if index == 0 else stack[index : index + 1].detach().cpu().numpy()
            file.write(np.ascontiguousarray(item, first.dtype).tobytes())


@dataclass(frozen=True)
class _Beam:
    """A geometry as options say it."""

    kind: str | None
    bin_spacing: float | None
    row_spacing: float | None
    offset: float | None
    dso: float | None
    dsd: float | None
    detector: str

    def of(self, angles: NDArray[np.float64], last: tuple[int, int]) -> Geometry:
        if self.kind is None:
            raise BadInput("the file holds no geometry: give geometry=parallel, fan or cone, and arc=180 (degrees) or angles")
        if self.kind not in KINDS:
            raise BadInput(f"geometry = {self.kind!r}: expected {', '.join(KINDS)}{nearest(str(self.kind), KINDS)}")
        size = self.bin_spacing or 1.0
        common = {"angles": angles, "n_bins": last[1], "bin_spacing": size, "offset": float(self.offset or 0.0)}
        if self.kind == "parallel":
            return ParallelBeam2D(**common)  # type: ignore[arg-type]
        if self.dso is None or self.dsd is None or self.bin_spacing is None:
            raise BadInput(f"geometry = {self.kind}: give dso, dsd (source to axis and to detector) and bin_spacing in mm")
        source = {"dso": self.dso, "dsd": self.dsd, "detector": self.detector}
        if self.kind == "fan":
            return FanBeam2D(**common, **source)  # type: ignore[arg-type]
        return ConeBeam(**common, **source, n_rows=last[0], row_spacing=self.row_spacing or size)  # type: ignore[arg-type]


def _angles(
    file: ArrayFile, n_views: int, given: Any, arc: float | None, start: float, endpoint: bool, unit: str | None, warnings: list[str]
) -> NDArray[np.float64]:
    """(view,) rad: the option, the file's own, or spread over an arc."""
    own = next((name for name in ANGLE_KEYS if file.has(name)), None)
    if given is not None:
        return radians(given, unit or "degrees", n_views, "angles", warnings)
    if arc is not None:
        return spread_angles(n_views, arc, start=start, endpoint=endpoint)
    if own is not None:
        return radians(file.load(own), unit, n_views, f"{file.path}[{own}]", warnings)
    raise BadInput(
        f"{file.path}: {n_views} views whose angles nobody says: give geometry=parallel, fan or cone and arc=180 (degrees; "
        "endpoint=true where the last view closes it) or angles"
    )


def _kind(name: str, file: ArrayFile) -> str:
    """What an array holds by its name and by what is beside it."""
    if file.has("flat") or any(file.has(key) for key in PHOTON_KEYS):
        return "counts"
    return OWN_KEYS.get(name, "line integrals")


def _check_integrals(array: Stack, path: Path) -> None:
    largest = float(np.nanmax(array.values))
    if largest > LARGEST_INTEGRAL:
        raise BadInput(f"{path}: values reach {largest:.5g}, so they are no line integrals: give stored= ({', '.join(STORED[1:])})")
