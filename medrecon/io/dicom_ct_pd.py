"""DICOM-CT-PD: projections of a clinical scanner, one DICOM file a view, as in the collection LDCT-and-Projection-data.

The files' frame has the axis of rotation along z, and the focal centre of azimuth p at rho (-sin p, cos p); channels of the detector turn
counter-clockwise about it, rows count against z. Half a turn about the vertical axis of the image makes of it the frame of
`medrecon.physics.ct.geometry`, in which columns and rows keep their order: angle = pi - p, height = -z. The image then shows the patient as
scanners show one lying feet first and supine; files do not say enough to place it, so its orientation is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.files import check_readable
from medrecon.io.ct_pd_views import View, is_projection, view_of
from medrecon.io.ct_pd_writer import write_ct_pd
from medrecon.io.dicom_open import dicom_files, images, opened
from medrecon.io.dicom_values import facts_of
from medrecon.io.facts import ACQUISITION, PATIENT, STUDY
from medrecon.io.projections import image_grid
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry
from medrecon.physics.ct.scan import WATER, CTScan

__all__ = ["read", "recognises", "write_ct_pd"]

STRAIGHT = 0.02
"""mm; views that are nearer than this to a circle or a helix are on it (the files' numbers have 24 bits)."""

LOOKED_AT = 3
"""Files of a folder that are opened to recognise it."""


def recognises(path: str | os.PathLike[str]) -> bool:
    """A DICOM file, or a folder one of whose first files describes a detector in private attributes (a first one may be damaged)."""
    target = Path(path)
    if not target.exists():
        return False
    for file in islice(dicom_files(target), LOOKED_AT):
        try:
            if is_projection(opened(file)):
                return True
        except BadInput:
            continue
    return False


def read(path: str | os.PathLike[str]) -> CTScan:
    """The scan in a folder of projections, in the order of InstanceNumber; pixels still unread.

    Its geometry is a helix or a circle where the views lie on one, else (flying focal spot, stepped tables) a list of vectors. Line
    integrals; `photons` of each column and the attenuation of water where the files have them. Raises `BadInput` for views that are
    cut short, lack attributes, come twice or are of different detectors, `NotSupported` for spherical detectors and several tubes.
    """
    target = check_readable(path)
    views, first = _views(target)
    geometry = geometry_of(views)
    warnings = _gaps([view.number for view in views])
    if all(view.photons is None for view in views):
        warnings.append("no PhotonStatistics: the noise of each ray is not known")
    if views[0].water is None:
        warnings.append(f"no WaterAttenuationCoefficient: {WATER} / mm is taken for HU")
    azimuth = _azimuths(views)
    step = float(np.median(np.abs(np.diff(azimuth)))) if len(views) > 1 else 0.0
    return CTScan(
        grid=image_grid(geometry, 1, views[0].element[1]),
        source=target,
        header={
            "format": "DICOM-CT-PD",
            "views_per_turn": round(2 * np.pi / step, 2) if step else None,
            "flying_focal_spot": geometry.focus() is not None,
            "warnings": warnings,
        },
        study=facts_of(first, (*PATIENT, *STUDY, *ACQUISITION)),
        projections=Views(tuple(views), geometry.dimensions),
        geometry=geometry,
        photons=_photons(views, geometry.dimensions),
        water=views[0].water or WATER,
    )


@dataclass(frozen=True)
class Views:
    """(1, view, [row,] bin) float32 line integrals, still in their files; the reading of the whole is one pass."""

    views: tuple[View, ...]
    dimensions: int

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.views[0]
        return (1, len(self.views), *((first.n_rows,) if self.dimensions == 3 else ()), first.n_columns)

    def __getitem__(self, index: slice) -> Tensor:
        if not range(*index.indices(1)):
            return torch.zeros((0, *self.shape[1:]))
        return self.chosen(range(len(self.views)))

    def chosen(self, views: Sequence[int]) -> Tensor:
        """(1, view, [row,] bin) of some views alone: a scan larger than memory is read in parts."""
        found = torch.empty((1, len(views), *self.shape[2:]))
        for place, view in enumerate(views):
            found[0, place] = torch.from_numpy(self.views[view].pixels()).reshape(self.shape[2:])
        return found


def _views(path: Path) -> tuple[list[View], Any]:
    """The views in their order, and the first header."""
    views, first = [], None
    for file, dataset in images(path):
        views.append(view_of(file, dataset))
        first = dataset if first is None else first
        other = views[0]
        detector = ("n_rows", "n_columns", "element", "shape", "distance", "centre")
        changed = [name for name in detector if getattr(views[-1], name) != getattr(other, name)]
        if changed:
            raise BadInput(
                f"{file}: its detector ({changed[0]} {getattr(views[-1], changed[0])}) is another than that of {other.file.name} "
                f"({getattr(other, changed[0])}): keep one scan in a folder"
            )
    if not views:
        raise BadInput(f"{path}: no projection there (files are recognised by content: DICM after 128 bytes)")
    views.sort(key=lambda view: view.number)
    for one, two in pairwise(views):
        if one.number == two.number:
            raise BadInput(f"{one.file} and {two.file.name} are both view {one.number}: keep one scan in a folder, every view once")
    return views, first


def _gaps(numbers: list[int]) -> list[str]:
    """A warning about views that are not there; the angles of the others are known nevertheless."""
    whole = numbers[-1] - numbers[0] + 1
    missing = whole - len(numbers)
    return [f"{missing} of {whole} views are missing (InstanceNumber {numbers[0]} to {numbers[-1]})"] if missing else []


def _azimuths(views: Sequence[View]) -> Array:
    """rad, without jumps."""
    return np.unwrap(np.array([view.focus[0] for view in views]))


def _photons(views: Sequence[View], dimensions: int) -> Tensor | None:
    """Incident quanta (bin,), or (view, [1,] bin) where they change from view to view."""
    known = [view.photons for view in views if view.photons is not None]
    if len(known) < len(views):
        return None
    if all(np.array_equal(photons, known[0]) for photons in known):
        return torch.from_numpy(known[0].copy())
    stacked = torch.from_numpy(np.stack(known))
    return stacked if dimensions == 2 else stacked[:, None]


def geometry_of(views: Sequence[View]) -> Geometry:
    """The geometry of views of one detector, in the frame of `medrecon.physics.ct.geometry`."""
    first = views[0]
    if first.shape not in ("CYLINDRICAL", "FLAT"):
        raise NotSupported(f"{first.file}: a detector of shape {first.shape}: cylindrical and flat ones are read")
    angles = np.pi - _azimuths(views)
    angles -= 2 * np.pi * np.round(angles[0] / (2 * np.pi))
    heights, radii = (np.array([view.focus[axis] for view in views]) * sign for axis, sign in ((1, -1), (2, 1)))
    width, height = first.element
    common = {
        "n_bins": first.n_columns,
        "bin_spacing": width,
        "offset": ((first.n_columns + 1) / 2 - first.centre[0]) * width,
        "dso": float(np.median(radii)),
        "dsd": first.distance,
        "detector": "flat" if first.shape == "FLAT" else "curved",
    }
    rows = {"n_rows": first.n_rows, "row_spacing": height, "row_offset": ((first.n_rows + 1) / 2 - first.centre[1]) * height}
    still = all(view.shift == (0.0, 0.0, 0.0) for view in views)
    round_ = still and float(np.ptp(radii)) < STRAIGHT
    if round_ and float(np.ptp(heights)) < STRAIGHT:
        wrapped = np.array([np.pi - view.focus[0] for view in views])
        if first.n_rows == 1:
            return FanBeam2D(angles=_turns(angles, wrapped), **common)  # type: ignore[arg-type]
        return ConeBeam(angles=_turns(angles, wrapped), **common, **rows, z=float(heights.mean()))  # type: ignore[arg-type]
    feed = 2 * np.pi * (heights[-1] - heights[0]) / (angles[-1] - angles[0]) if angles[-1] != angles[0] else 0.0
    helix = HelicalCone(angles=angles, **common, **rows, z=float(heights[0]), feed=float(feed))  # type: ignore[arg-type]
    if round_ and float(np.abs(helix.heights() - heights).max()) < STRAIGHT:
        return helix
    return _by_view(views, angles, heights, radii, helix, still)


def _turns(angles: Array, wrapped: Array) -> Array:
    """Angles without jumps, unless they go on for many turns."""
    return angles if np.ptp(angles) <= 4 * 2 * np.pi else wrapped


def _by_view(views: Sequence[View], angles: Array, heights: Array, radii: Array, ideal: HelicalCone, still: bool) -> VectorGeometry:
    """Every view where it is: the detector about its focal centre, the source where the focal spot was."""
    vectors = ideal.vectors()
    towards = np.stack([np.sin(angles), -np.cos(angles)], 1)
    for columns in (slice(0, 2), slice(3, 5)):
        vectors[:, columns] += (radii - ideal.dso)[:, None] * towards
    lift = heights - ideal.heights()
    vectors[:, 2] += lift
    vectors[:, 5] += lift
    foci = None
    if not still:
        turn, along, out = (np.array([view.shift[axis] for view in views]) for axis in range(3))
        spot = angles - turn
        foci = np.stack([(radii + out) * np.sin(spot), -(radii + out) * np.cos(spot), heights - along], 1)
    return VectorGeometry(
        kind_of="cone3d",
        rows_of_vectors=vectors,
        n_bins=ideal.n_bins,
        n_rows=ideal.n_rows,
        curved_detector=ideal.curved,
        foci=foci,
    )
