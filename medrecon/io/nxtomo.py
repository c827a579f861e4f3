"""NXtomo (NeXus HDF5): pictures of the object, flat and dark fields in one stack, told apart by their key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput
from medrecon.files import check_readable
from medrecon.io import hdf5
from medrecon.io.projections import LENGTH_UNITS, Rows, attribute, double_ends, image_grid, in_unit, inside, positive, present, radians
from medrecon.physics.ct.circular import ParallelBeam2D
from medrecon.physics.ct.scan import CTScan

PROJECTION, FLAT, DARK = 0, 1, 2
"""Values of image_key; 3 is invalid."""

PIXEL_NAMES = ("sample/x_pixel_size", "{detector}/x_sample_pixel_size", "{detector}/x_pixel_size")
"""Where the size of a bin at the object is said, the nearest to the object first: optics may magnify."""

AXIS_NAMES = ("x_rotation_axis_pixel_position", "estimated_cor_from_motor")


def recognises(path: str | os.PathLike[str]) -> bool:
    """HDF5 with an entry that holds a detector with image_key."""
    target = Path(path)
    if not hdf5.has_signature(target):
        return False
    try:
        with hdf5.opened(target) as file:
            return bool(_entries(file))
    except BadInput:
        return False


def read(
    path: str | os.PathLike[str],
    *,
    entry: str | None = None,
    pixel: float | None = None,
    angle_unit: str | None = None,
    stored: str | None = None,
) -> CTScan:
    """The scan in an NXtomo file (application definition of NeXus), parallel rays, pictures still unread.

    `entry`: which, where the file has several. `pixel`: mm, instead of the file's. `angle_unit`: of the rotation angles, where the
    file is silent. `stored`: what the pictures hold, counts unless given, see `CTScan`. Every row of the pictures is a slice.
    Raises `BadInput` for files that are cut short, lack pictures, keys or angles, or have numbers of them that do not fit.
    """
    target = check_readable(path)
    positive("pixel", pixel)
    warnings: list[str] = []
    with hdf5.opened(target) as file:
        name, detector = _chosen(file, entry, target)
        data = f"{name}/{detector}/data"
        shown, flats, darks = _by_key(file, target, f"{name}/{detector}")
        projections = Rows.of(file, target, data, shown)
        flat, dark = (Rows.of(file, target, data, frames) if frames.size else None for frames in (flats, darks))
        angles = _angles(file, target, name, shown, angle_unit, warnings)
        width, height = _pixel(file, target, name, detector, warnings)
        n_bins = projections.shape[2]
        axis = _axis(file, target, f"{name}/{detector}", n_bins)
    if pixel is not None:
        width = height = pixel
    if width is None:
        warnings.append("the size of a bin is unknown: a bin is 1 mm, values are not HU (give pixel=)")
    if flat is None and stored is None:
        warnings.append("no flat field (image_key 1): air beside the object is taken instead")
    size = width or 1.0
    offset = 0.0 if axis is None else ((n_bins - 1) / 2 - axis) * size
    geometry = ParallelBeam2D(angles=angles, n_bins=n_bins, bin_spacing=size, offset=offset)
    centre: dict[str, Any] = {"rotation_centre": "unknown"} if axis is None else {"rotation_centre": axis}
    return CTScan(
        grid=image_grid(geometry, projections.shape[0], height),
        source=target,
        header={"format": "NXtomo", "entry": name, **centre, "warnings": [*warnings, *double_ends(angles)]},
        projections=projections,
        geometry=geometry,
        stored=stored or "counts",
        flat=flat,
        dark=dark,
        sized=width is not None,
    )


def _entries(file: Any) -> dict[str, str]:
    """Entries that hold a detector with image_key: {entry: path of the detector in it}."""
    found: dict[str, str] = {}
    for name, entry in _groups(file):
        for instrument in ("instrument", "instruments"):
            for detector, group in _groups(dict(_groups(entry)).get(instrument, {})):
                if "image_key" in group:
                    found.setdefault(name, f"{instrument}/{detector}")
    return found


def _groups(parent: Any) -> list[tuple[str, Any]]:
    """The groups in an open group that are in the file itself."""
    import h5py

    own = [name for name in parent if isinstance(parent.get(name, getlink=True), h5py.HardLink)]
    return [(name, parent[name]) for name in own if isinstance(parent[name], h5py.Group)]


def _chosen(file: Any, entry: str | None, path: Path) -> tuple[str, str]:
    """The entry and the path of its detector."""
    found = _entries(file)
    if not found:
        raise BadInput(f"{path}: no NXtomo entry: expected ENTRY/instrument/DETECTOR with data and image_key")
    if entry is None and len(found) == 1:
        return next(iter(found.items()))
    if entry not in found:
        asked = "several scans" if entry is None else f"no entry {entry!r}"
        raise BadInput(f"{path}: {asked}: choose with entry=NAME; there are {', '.join(found)}")
    return entry, found[entry]


def _by_key(file: Any, path: Path, detector: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which pictures show the object, the flat and the dark field; pictures taken to check alignment are left out."""
    frames = inside(file, f"{detector}/data", str(path))
    keys = np.asarray(inside(file, f"{detector}/image_key", str(path))[()]).reshape(-1)
    n_frames = int(frames.shape[0]) if frames.ndim else 0
    if keys.dtype.kind not in "iuf" or keys.size != n_frames:
        raise BadInput(f"{path}: {detector}/image_key has {keys.size} entries for {n_frames} pictures: expected one for each")
    shown = keys == PROJECTION
    if present(file, f"{detector}/image_key_control"):
        control = np.asarray(inside(file, f"{detector}/image_key_control", str(path))[()]).reshape(-1)
        shown &= (control == PROJECTION) if control.shape == keys.shape else True
    if not shown.any():
        raise BadInput(f"{path}: {detector}/image_key holds no picture of the object (key 0)")
    return np.flatnonzero(shown), np.flatnonzero(keys == FLAT), np.flatnonzero(keys == DARK)


def _angles(file: Any, path: Path, entry: str, shown: NDArray[np.int64], unit: str | None, warnings: list[str]) -> NDArray[np.float64]:
    """rad, of the pictures that show the object; the file has an angle for every picture, or for these alone."""
    name = f"{entry}/sample/rotation_angle"
    found = inside(file, name, str(path))
    values = np.asarray(found[()]).reshape(-1)
    said = unit or attribute(found, "units")
    values = values[shown] if values.size > shown.max() else values
    return radians(values, said, len(shown), f"{path}: {name}", warnings)


def _pixel(file: Any, path: Path, entry: str, detector: str, warnings: list[str]) -> tuple[float | None, float | None]:
    """Width and height in mm; None where the file does not say them."""
    for pattern in PIXEL_NAMES:
        name = f"{entry}/{pattern.format(detector=detector)}"
        width = _length(file, path, name, warnings)
        if width is not None:
            return width, _length(file, path, name.replace("/x_", "/y_"), []) or width
    return None, None


def _length(file: Any, path: Path, name: str, warnings: list[str]) -> float | None:
    """A length in mm; NeXus means metres where no unit is given."""
    if not present(file, name):
        return None
    found = inside(file, name, str(path))
    if found.size != 1 or found.dtype.kind not in "iuf":
        raise BadInput(f"{path}: {name} is {found.dtype} {found.shape}, expected one length")
    value, unit = float(np.asarray(found[()]).reshape(-1)[0]), attribute(found, "units")
    if not 0 < value < np.inf:
        raise BadInput(f"{path}: {name} is {value}: expected a positive length")
    if unit is None:
        warnings.append(f"{name} has no unit: taken as metres")
    return value * in_unit(unit or "m", LENGTH_UNITS, f"{path}: {name}")


def _axis(file: Any, path: Path, detector: str, n_bins: int) -> float | None:
    """The bin of the axis of rotation, the first bin's centre 0; None where the file does not say it.

    Files give it from the middle of the detector or, older ones, from its first bin: a number beyond a quarter of the detector
    is the latter.
    """
    for name in AXIS_NAMES:
        if not present(file, f"{detector}/{name}"):
            continue
        found = inside(file, f"{detector}/{name}", str(path))
        if found.dtype.kind not in "iuf" or found.size != 1:
            continue
        value = float(np.asarray(found[()]).reshape(-1)[0])
        if np.isfinite(value):
            return value if abs(value) > n_bins / 4 else (n_bins - 1) / 2 + value
    return None
