"""Writes DICOM-CT-PD: line integrals with their geometry, one file a view; the frame is turned as `dicom_ct_pd` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import NotSupported
from medrecon.files import atomic_folder
from medrecon.io import ct_pd_views as tags
from medrecon.io import dicom_modules as modules
from medrecon.io.dicom_values import uid
from medrecon.io.dicom_write import check_replaceable
from medrecon.io.pixels import Scaling, decimal_string, unsigned_scaling
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.scan import CTScan

CREATORS = {
    0x7029: "DETECTOR SYSTEM ARRANGEMENT",
    0x7031: "DETECTOR DYNAMICS",
    0x7033: "SOURCE DYNAMICS",
    0x7039: "PREPROCESSING FLAGS",
    0x7041: "WATER ATTENUATION",
}

ALIKE = 1e-3
"""mm or rad; views whose detectors differ by more are not written as one scan."""


@dataclass(frozen=True)
class _Track:
    """Per view, in the files' frame: `focus` and `shift` (view, 3): azimuth rad, height mm, radius mm. One detector for all views."""

    focus: Array
    shift: Array
    width: float
    height: float
    distance: float
    centre: tuple[float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> _Track:
        """Raises `NotSupported` for beams and detectors that the format cannot say."""
        if geometry.parallel:
            raise NotSupported(f"{type(geometry).__name__} as DICOM-CT-PD: it has no source: write .npz instead")
        size = geometry.dimensions
        first, centre, u = (geometry.vectors()[:, i * size : i * size + 2] for i in range(3))
        radius, width = np.linalg.norm(first, axis=1), np.linalg.norm(geometry.vectors()[:, 2 * size : 3 * size], axis=1)
        inward = -first / radius[:, None]
        side = np.stack([-inward[:, 1], inward[:, 0]], 1) * -1.0  # along the columns of a centred detector
        ray = centre - first
        if geometry.curved:
            distance = np.linalg.norm(ray, axis=1)
            offset = np.arctan2((ray * side).sum(1), (ray * inward).sum(1)) * distance
            along = (side * np.cos(offset / distance)[:, None] - inward * np.sin(offset / distance)[:, None]) * width[:, None]
        else:
            distance, offset, along = (ray * inward).sum(1), (ray * side).sum(1), side * width[:, None]
        heights, lift, row = np.zeros(len(first)), np.zeros(len(first)), width
        if size == 3:
            vectors = geometry.vectors()
            heights, lift, row = vectors[:, 2], vectors[:, 5] - vectors[:, 2], vectors[:, 11]
            if np.abs(vectors[:, 9:11]).max() > ALIKE or np.abs(vectors[:, 8]).max() > ALIKE or row.min() <= 0:
                raise NotSupported("a tilted detector as DICOM-CT-PD: write .npz instead")
        alike = [float(np.ptp(values)) for values in (width, row, distance, offset, lift)]
        if max(alike) > ALIKE or float(np.abs(along - u).max()) > ALIKE:
            raise NotSupported("detectors that turn or move from view to view as DICOM-CT-PD: write .npz instead")
        azimuth = np.pi - np.arctan2(first[:, 0], -first[:, 1])
        shift = np.zeros((len(first), 3))
        spot = geometry.focus()
        if spot is not None:
            there = np.pi - np.arctan2(spot[:, 0], -spot[:, 1])
            turn = (there - azimuth + np.pi) % (2 * np.pi) - np.pi
            shift = np.stack([turn, heights - spot[:, 2], np.linalg.norm(spot[:, :2], axis=1) - radius], 1)
        middle = (geometry.n_bins + 1) / 2 - float(offset[0] / width[0]), ((geometry.rows or 1) + 1) / 2 - float(lift[0] / row[0])
        focus = np.stack([(azimuth + np.pi) % (2 * np.pi) - np.pi, -heights, radius], 1)
        return cls(focus, shift, float(width[0]), float(row[0]), float(distance[0]), middle)


def write_ct_pd(scan: CTScan, path: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """The files 00001.dcm, ... of the new folder `path`, one a view, there whole or not at all.

    Line integrals are stored in 16 bits with one scale. Raises `NotSupported` for readings before the logarithm, parallel rays, tilted
    detectors and stacks of several slices.
    """
    target = Path(path)
    check_replaceable(target)
    if scan.stored != "line integrals" or scan.n_items != 1:
        raise NotSupported(
            f"{target}: DICOM-CT-PD holds line integrals of one scan, this holds {scan.n_items} of {scan.stored}: write .npz"
        )
    track = _Track.of(scan.geometry)
    values = scan.projections[0:1][0].detach().cpu().numpy().astype(np.float64)
    pictures = values[:, None] if values.ndim == 2 else values
    scaling = unsigned_scaling(values)
    photons = _photons(scan, pictures.shape)
    facts = modules.fitting(scan.study)
    study = facts.get("StudyInstanceUID") or uid("study", scan.geometry.digest, float(values.sum()))
    names = []
    with atomic_folder(target, force) as folder:
        for index, picture in enumerate(pictures):
            dataset = _view(scan, track, index, picture, scaling, None if photons is None else photons[index])
            modules.add_patient_and_study(dataset, facts, study)
            dataset.SeriesInstanceUID = uid("projections", study, scan.geometry.digest)
            name = f"{index + 1:05d}.dcm"
            dataset.save_as(folder / name, enforce_file_format=True)
            names.append(target / name)
    return names


def _view(scan: CTScan, track: _Track, index: int, picture: NDArray[Any], scaling: Scaling, photons: NDArray[Any] | None) -> Any:
    """The data set of one view without its patient."""
    import medrecon

    dataset = modules.instance("1.2.840.10008.5.1.4.1.1.2", uid("view", scan.geometry.digest, index), medrecon.__version__)
    dataset.Modality, dataset.InstanceNumber = "CT", index + 1
    dataset.ImageType = ["DERIVED" if scan.simulated else "ORIGINAL", "PRIMARY", "AXIAL"]
    # Channels run along the matrix's Rows: the pixels are stored column by column.
    modules.add_pixels(dataset, scaling.stored(picture.T, "<u2"), {})
    dataset.RescaleIntercept, dataset.RescaleSlope = decimal_string(scaling.intercept), decimal_string(scaling.slope)
    for group, creator in CREATORS.items():
        dataset.add_new((group, 0x0010), "LO", creator)
    n_rows, n_columns = picture.shape
    whole = {tags.DETECTOR_ROWS: n_rows, tags.DETECTOR_COLUMNS: n_columns, tags.SPECTRA: 1}
    numbers: dict[int, Any] = {
        tags.ELEMENT_WIDTH: track.width,
        tags.ELEMENT_HEIGHT: track.height,
        tags.DISTANCE: track.distance,
        tags.CENTRAL_ELEMENT: list(track.centre),
        **dict(zip((tags.FOCAL_ANGLE, tags.FOCAL_HEIGHT, tags.FOCAL_RADIUS), track.focus[index].tolist(), strict=True)),
        **dict(zip((tags.SHIFT_ANGLE, tags.SHIFT_HEIGHT, tags.SHIFT_RADIUS), track.shift[index].tolist(), strict=True)),
    }
    if photons is not None:
        numbers[tags.PHOTONS] = photons.astype(float).tolist()
    flying = "FFS" + "".join(name for name, axes in (("XY", (0, 2)), ("Z", (1,))) if np.abs(track.shift[:, axes]).max() > 0)
    words = {
        tags.DETECTOR_SHAPE: "CYLINDRICAL" if scan.geometry.curved else "FLAT",
        tags.FOCAL_SPOT_MODE: flying if flying != "FFS" else "FFSNONE",
        tags.LOGARITHM: "YES",
    }
    for representation, elements in (("US", whole), ("FL", numbers), ("CS", words)):
        for tag, value in elements.items():
            dataset.add_new(tag, representation, value)
    dataset.add_new(tags.WATER_ATTENUATION, "DS", decimal_string(scan.water))
    return dataset


def _photons(scan: CTScan, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """(view, bin) incident quanta; the format has one number for each column."""
    if scan.photons is None:
        return None
    found = scan.photons.detach().cpu().numpy()
    found = found[:, None] if found.ndim == 2 and scan.image_axes == 2 else found
    whole = np.broadcast_to(found, shape)
    if found.ndim > 1 and found.shape[-2] > 1 and (whole != whole[:, :1]).any():
        raise NotSupported("incident quanta that change along rows as DICOM-CT-PD: write .npz instead")
    return whole[:, 0]
