"""DataExchange HDF5 of synchrotron tomography: a stack of pictures with flat and dark fields; every row of it is a slice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput
from medrecon.files import check_readable
from medrecon.io import hdf5
from medrecon.io.projections import Rows, attribute, double_ends, image_grid, inside, positive, present, radians, spread_angles
from medrecon.physics.ct.circular import ParallelBeam2D
from medrecon.physics.ct.scan import CTScan


def recognises(path: str | os.PathLike[str]) -> bool:
    """HDF5 with a group `exchange`."""
    target = Path(path)
    return hdf5.has_signature(target) and "exchange" in hdf5.root_names(target)


def read(
    path: str | os.PathLike[str],
    *,
    pixel: float | None = None,
    arc: float | None = None,
    endpoint: bool = False,
    angle_unit: str | None = None,
    stored: str | None = None,
) -> CTScan:
    """The scan in a DataExchange file (De Carlo et al., J Synchrotron Rad 21, 2014, 1224), parallel rays, pictures still unread.

    `pixel`: mm; the files do not say it, and without it a bin is 1 and there are no HU. `arc` (degrees) and `endpoint`: evenly
    spread angles, where the file has no theta. `angle_unit`: of theta, where the file is silent: degrees, or radians if they
    span a turn of these or less. `stored`: what the pictures hold, counts unless given, see `CTScan`. Raises `BadInput` for
    files that are cut short, lack the pictures or the angles, or have numbers of them that do not fit.
    """
    target = check_readable(path)
    positive("pixel", pixel)
    warnings: list[str] = []
    with hdf5.opened(target) as file:
        projections = Rows.of(file, target, "exchange/data")
        flat, dark = (_frames(file, target, f"exchange/{name}", projections) for name in ("data_white", "data_dark"))
        n_views = projections.shape[1]
        if present(file, "exchange/theta"):
            angles = _theta(file, target, n_views, angle_unit, warnings)
        elif arc is not None:
            angles = spread_angles(n_views, arc, endpoint=endpoint)
        else:
            raise BadInput(f"{target}: no exchange/theta: give arc=180 (degrees), and endpoint=true where both ends were taken")
    if flat is None and stored is None:
        warnings.append("no flat field (exchange/data_white): air beside the object is taken instead")
    if pixel is None:
        warnings.append("the size of a bin is unknown: a bin is 1 mm, values are not HU (give pixel=)")
    geometry = ParallelBeam2D(angles=angles, n_bins=projections.shape[2], bin_spacing=pixel or 1.0)
    return CTScan(
        grid=image_grid(geometry, projections.shape[0]),
        source=target,
        header={"format": "DataExchange", "rotation_centre": "unknown", "warnings": [*warnings, *double_ends(angles)]},
        projections=projections,
        geometry=geometry,
        stored=stored or "counts",
        flat=flat,
        dark=dark,
        sized=pixel is not None,
    )


def _frames(file: Any, path: Path, name: str, projections: Rows) -> Rows | None:
    """Flat or dark fields that fit the pictures; None where there are none."""
    if not present(file, name):
        return None
    found = Rows.of(file, path, name)
    if (found.shape[0], found.shape[2]) != (projections.shape[0], projections.shape[2]):
        raise BadInput(
            f"{path}: {name} has pictures of {found.shape[0]} x {found.shape[2]} (row, bin), exchange/data of "
            f"{projections.shape[0]} x {projections.shape[2]}: they must be of one detector"
        )
    return found


def _theta(file: Any, path: Path, n_views: int, unit: str | None, warnings: list[str]) -> NDArray[np.float64]:
    """Angles in rad."""
    found = inside(file, "exchange/theta", str(path))
    said = unit or attribute(found, "units") or attribute(found, "unit")
    return radians(found[()], said, n_views, f"{path}: exchange/theta", warnings)
