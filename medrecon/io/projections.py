"""What readers of projections share: angles in radians, the image that fits a geometry, rows of a stack still in HDF5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.io import hdf5
from medrecon.physics.ct.geometry import Geometry
from medrecon.volume import Grid

ANGLE_UNITS = {**dict.fromkeys(("degrees", "degree", "deg", "°"), np.pi / 180), **dict.fromkeys(("radians", "radian", "rad"), 1.0)}
"""Names of units that files use, and how many radians one is."""

LENGTH_UNITS = {
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), 1e3),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), 10.0),
    **dict.fromkeys(("mm", "millimetre", "millimeter", "millimetres", "millimeters"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometre", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("nm", "nanometre", "nanometer"), 1e-6),
}
"""Names of units that files use, and how many millimetres one is."""

SAME_ANGLE = 1e-4
"""rad; angles that differ by less are one."""

TURN = 2 * np.pi * 1.001


def in_unit(name: str, units: dict[str, float], what: str) -> float:
    """How much one `name` is; raises `BadInput` where it is no unit of this kind."""
    found = units.get(name.strip()) or units.get(name.strip().lower())
    if found is None:
        raise BadInput(f"{what}: the unit {name!r} is not known: expected one of {', '.join(units)}")
    return found


def radians(angles: ArrayLike, unit: str | None, n_views: int, where: str, warnings: list[str]) -> NDArray[np.float64]:
    """(view,) float64 rad, one for each view; `unit` as the file names it. Without: degrees, unless they span a turn of radians or less.

    Raises `BadInput` for another number of angles and for units that are none.
    """
    try:
        found = np.asarray(angles, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where}: expected a list of numbers ({error})") from error
    if found.size != n_views:
        raise BadInput(f"{where}: {found.size} angles for {n_views} views: give one angle for each view, or drop what is too much")
    if not np.isfinite(found).all():
        raise BadInput(f"{where}: {int((~np.isfinite(found)).sum())} of {found.size} angles are not finite numbers")
    if unit is None:
        unit = "radians" if 0 < np.ptp(found) <= TURN else "degrees"
        if unit == "radians":
            warnings.append(f"{where}: the angles have no unit and span {np.ptp(found):.4g}: taken as radians")
    return found * in_unit(unit, ANGLE_UNITS, where)


def spread_angles(n: int, arc: float, *, start: float = 0.0, endpoint: bool = False) -> NDArray[np.float64]:
    """(n,) rad, evenly over `arc` degrees from `start` degrees; `endpoint`: the last view closes the arc. Negative: clockwise."""
    for name, value in (("arc", arc), ("start", start)):
        if isinstance(value, (bool, str)) or not np.isfinite(value) or (name == "arc" and value == 0):
            raise BadInput(f"{name} = {value!r}: expected a number of degrees, as in arc=180")
    return np.deg2rad(start + np.linspace(0.0, float(arc), n, endpoint=bool(endpoint)))


def double_ends(angles: ArrayLike) -> list[str]:
    """A warning where the first and the last view of parallel rays hold the same rays."""
    first, last = np.asarray(angles, np.float64)[[0, -1]]
    turns = (last - first) / np.pi
    if np.size(angles) > 1 and round(turns) and abs(turns - round(turns)) * np.pi < SAME_ANGLE:
        return [f"the first and the last view are {round(turns) * 180} degrees apart: the same rays twice, each counts half"]
    return []


def image_grid(geometry: Geometry, n_items: int, slice_spacing: float | None = None) -> Grid:
    """The image that fits: a square of as many pixels as the detector has bins, of their size at the axis, about the axis.

    Slices: `n_items` of `slice_spacing` mm (default: the pixel) in two dimensions; in three the rows of the detector, or as many
    as cover the way of the source where that is longer. Its place in the patient is unknown.
    """
    bin_size, row_size = _at_the_axis(geometry)
    if geometry.dimensions == 2:
        return Grid.unplaced((n_items, geometry.n_bins, geometry.n_bins), (slice_spacing or bin_size, bin_size, bin_size))
    way = 0.0 if geometry.parallel else float(np.ptp(geometry.vectors()[:, 2]))
    depth = max(geometry.rows or 1, round(way / row_size) + 1)
    return Grid.unplaced((depth, geometry.n_bins, geometry.n_bins), (row_size, bin_size, bin_size))


def _at_the_axis(geometry: Geometry) -> tuple[float, float]:
    """mm between bins and between rows as the first view sees them at the axis of rotation."""
    size = geometry.dimensions
    first, centre, u, *v = np.split(geometry.vectors()[0], geometry.vectors().shape[1] // size)
    smaller = 1.0
    if not geometry.parallel:
        ray = (centre - first)[:2]
        smaller = float(-(first[:2] @ ray) / (ray @ ray))
        if not 0 < smaller < 1:
            raise BadInput("the axis of rotation (x = y = 0) does not lie between source and detector: check the geometry's vectors")
    return float(np.linalg.norm(u)) * smaller, float(np.linalg.norm(v[0]) if v else np.linalg.norm(u)) * smaller


@dataclass(frozen=True)
class Rows:
    """Projections or flat fields (row, view, bin) float32 of a dataset (view, row, bin) in HDF5, read row by row.

    `path_in_file`: groups and dataset; `views`: which of its first axis, in this order. Opens the file for each read.
    """

    path: Path
    path_in_file: str
    views: NDArray[np.int64]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, file: Any, path: Path, path_in_file: str, views: NDArray[np.int64] | None = None) -> Rows:
        """Looks at the dataset; raises `BadInput` where it is no stack of real pictures."""
        found = inside(file, path_in_file, str(path))
        if found.ndim != 3 or found.dtype.kind not in "iuf" or min(found.shape) < 1:
            raise BadInput(f"{path}: {path_in_file} is {found.dtype} {found.shape}, expected real numbers (view, row, bin)")
        index = np.arange(found.shape[0]) if views is None else views
        return cls(path, path_in_file, index, (int(found.shape[1]), len(index), int(found.shape[2])))

    def __getitem__(self, index: slice) -> Tensor:
        start, stop, step = index.indices(self.shape[0])
        with hdf5.opened(self.path) as file:
            found = inside(file, self.path_in_file, str(self.path))
            # one contiguous block of views, then the choice: h5py is slow at lists
            first = int(self.views.min())
            block = np.asarray(found[first : int(self.views.max()) + 1, start : max(start, stop)], np.float32)
        chosen = block[self.views - first][:, ::step]
        return torch.from_numpy(np.ascontiguousarray(chosen.swapaxes(0, 1)))


def present(file: Any, path_in_file: str) -> bool:
    """Whether a name is there, be it a link that `inside` refuses; follows no link."""
    import h5py

    group, *names = file, *path_in_file.split("/")
    for depth, name in enumerate(names):
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or depth == len(names) - 1:
            return link is not None
        group = group[name]
        if not isinstance(group, h5py.Group):
            return False
    return True


def inside(file: Any, path_in_file: str, where: str) -> Any:
    """The dataset at the end of group names joined by /; every link on the way is looked at. Raises `BadInput`."""
    import h5py

    group, *names = file, *path_in_file.split("/")
    for depth, name in enumerate(names[:-1]):
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(group[name], h5py.Group):
            there = ", ".join(sorted(group)) or "nothing"
            raise BadInput(f"{where}: no group {'/'.join(names[: depth + 1])!r} in the file itself; there are: {there}")
        group = group[name]
    return hdf5.dataset(group, names[-1], where)


def attribute(item: Any, name: str) -> str | None:
    """A text attribute of an open dataset or group; None where it has none."""
    value = hdf5.attributes(item).get(name)
    while isinstance(value, list) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) and value.strip() else None


def positive(name: str, value: float | None) -> None:
    """Raises `BadInput` for an option that is given and no positive number."""
    if value is not None and (isinstance(value, (bool, str)) or not 0 < value < np.inf):
        raise BadInput(f"{name} = {value!r}: expected a positive number")
