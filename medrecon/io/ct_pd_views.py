"""One view of DICOM-CT-PD: its private attributes, decoded by hand, and its pixels.

Chen et al., "Development and validation of an open data format for CT projection data", Med Phys 42 (2015) 6964. Private attributes
lose their representation where files pass through archives (UN), so their bytes are decoded here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput, NotSupported
from medrecon.io.dicom_open import damage, opened

ELEMENT_WIDTH, ELEMENT_HEIGHT = 0x70291002, 0x70291006
DETECTOR_SHAPE = 0x7029100B
DETECTOR_ROWS, DETECTOR_COLUMNS = 0x70291010, 0x70291011
FOCAL_ANGLE, FOCAL_HEIGHT, FOCAL_RADIUS = 0x70311001, 0x70311002, 0x70311003
DISTANCE = 0x70311031
CENTRAL_ELEMENT = 0x70311033
SHIFT_ANGLE, SHIFT_HEIGHT, SHIFT_RADIUS = 0x7033100B, 0x7033100C, 0x7033100D
FOCAL_SPOT_MODE = 0x7033100E
SPECTRA = 0x70331061
PHOTONS = 0x70331065
LOGARITHM = 0x70391009
WATER_ATTENUATION = 0x70411001

COUNTS = (DETECTOR_ROWS, DETECTOR_COLUMNS, SPECTRA)
"""Whole numbers of 16 bits; the other numbers have 32 bits and a point."""


@dataclass(frozen=True)
class View:
    """`focus`: azimuth (rad), height and radius (mm) of the detector's focal centre; `shift`: of the focal spot from it, the same three.

    `n_rows`, `n_columns`, `element` (width, height in mm), `shape`, `distance` (mm, focal centre to detector), `centre` (column, row,
    the first is 1): of the detector. `by_column`: the pixels are stored column by column. `scale`: slope and intercept to line integrals.
    """

    file: Path
    number: int
    n_rows: int
    n_columns: int
    element: tuple[float, float]
    shape: str
    distance: float
    centre: tuple[float, float]
    focus: tuple[float, float, float]
    shift: tuple[float, float, float]
    by_column: bool
    scale: tuple[float, float]
    photons: NDArray[np.float32] | None
    water: float | None

    def pixels(self) -> NDArray[np.float32]:
        """Line integrals (row, bin) float32."""
        dataset = opened(self.file, pixels=True)
        with damage(self.file):
            data = bytes(dataset.PixelData)
            need = 2 * self.n_rows * self.n_columns
            if not need <= len(data) <= need + 1:
                raise BadInput(
                    f"{self.file}: {len(data)} bytes of pixels, a detector of {self.n_rows} rows and {self.n_columns} columns has {need}: "
                    "cut short or damaged; copy it again"
                )
        stored = np.frombuffer(data, "<u2", self.n_rows * self.n_columns)
        picture = stored.reshape(self.n_columns, self.n_rows).T if self.by_column else stored.reshape(self.n_rows, self.n_columns)
        slope, intercept = self.scale
        return (picture * np.float64(slope) + intercept).astype(np.float32)


def is_projection(dataset: Any) -> bool:
    """Whether a data set describes a detector (group 7029): it looks like a CT image and is none."""
    return len(dataset.group_dataset(0x7029)) > 0


def view_of(file: Path, dataset: Any) -> View:
    """The view in a file from its header.

    Raises `BadInput` for attributes that are missing, of another form or contradict each other, `NotSupported` for detectors and
    transfer syntaxes that cannot be read.
    """
    if not is_projection(dataset):
        raise BadInput(f"{file}: no detector is described (group 7029), so it is no projection: keep projections in a folder of their own")
    with damage(file):
        n_rows, n_columns = (_whole(file, dataset, tag) for tag in (DETECTOR_ROWS, DETECTOR_COLUMNS))
        matrix = int(dataset.Rows), int(dataset.Columns)
        if matrix not in ((n_columns, n_rows), (n_rows, n_columns)):
            raise BadInput(f"{file}: a matrix of {matrix[0]} x {matrix[1]} and a detector of {n_rows} x {n_columns}: damaged")
        form = [int(dataset.get(k) or d) for k, d in (("BitsAllocated", 0), ("PixelRepresentation", 0), ("SamplesPerPixel", 1))]
        if form != [16, 0, 1]:
            raise NotSupported(f"{file}: BitsAllocated, PixelRepresentation, SamplesPerPixel are {form}, expected 16, 0, 1")
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated or not dataset.file_meta.TransferSyntaxUID.is_little_endian:
            raise NotSupported(f"{file}: stored as {dataset.file_meta.TransferSyntaxUID.name}: decompress it (gdcmconv --raw, dcmdjpeg)")
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise NotSupported(f"{file}: {dataset.NumberOfFrames} frames in one file: expected one view in each")
        if _text(dataset, LOGARITHM).upper() in ("NO", "N", "FALSE"):
            raise NotSupported(f"{file}: holds readings before the logarithm: expected line integrals (LogFlag YES)")
        if _raw(dataset, SPECTRA) and _numbers(file, dataset, SPECTRA, 1)[0] > 1:
            raise NotSupported(f"{file}: a scan with several X-ray tubes or spectra: keep the views of one of them")
        slope, intercept = float(dataset.get("RescaleSlope") or 1.0), float(dataset.get("RescaleIntercept") or 0.0)
        shifts = [_numbers(file, dataset, tag, 1)[0] if _raw(dataset, tag) else 0.0 for tag in (SHIFT_ANGLE, SHIFT_HEIGHT, SHIFT_RADIUS)]
        focus = [_numbers(file, dataset, tag, 1)[0] for tag in (FOCAL_ANGLE, FOCAL_HEIGHT, FOCAL_RADIUS)]
        column, row = _numbers(file, dataset, CENTRAL_ELEMENT, 2)
        return View(
            file=file,
            number=int(dataset.get("InstanceNumber") or 0),
            n_rows=n_rows,
            n_columns=n_columns,
            element=(_length(file, dataset, ELEMENT_WIDTH), _length(file, dataset, ELEMENT_HEIGHT)),
            shape=_text(dataset, DETECTOR_SHAPE).upper() or "CYLINDRICAL",
            distance=_length(file, dataset, DISTANCE),
            centre=(column, row),
            focus=(focus[0], focus[1], focus[2]),
            shift=(shifts[0], shifts[1], shifts[2]),
            # Where the matrix has as many Rows as the detector has columns, the pixels run along the detector's rows first.
            by_column=matrix == (n_columns, n_rows),
            scale=(slope, intercept),
            photons=_photons(dataset, n_columns),
            water=_water(dataset),
        )


def _raw(dataset: Any, tag: int) -> bytes:
    """The bytes of an attribute as they are in the file, whatever representation it claims; none where it is absent or empty."""
    element = dataset.get_item(tag) if tag in dataset else None
    value = None if element is None else element.value
    return value if isinstance(value, bytes) else b""


def _decoded(value: bytes, form: str) -> list[float]:
    """Numbers in little endian order, "f" or "H"."""
    size = struct.calcsize("<" + form)
    return [float(n) for n in struct.unpack(f"<{len(value) // size}{form}", value[: len(value) // size * size])]


def _numbers(file: Path, dataset: Any, tag: int, count: int) -> list[float]:
    value = _raw(dataset, tag)
    if not value:
        raise BadInput(f"{file}: attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing: not a whole projection of DICOM-CT-PD")
    found = _decoded(value, "H" if tag in COUNTS else "f")
    if len(found) != count or not np.isfinite(found).all():
        raise BadInput(f"{file}: attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {found[:4]}, expected {count} finite numbers")
    return found


def _whole(file: Path, dataset: Any, tag: int) -> int:
    value = _numbers(file, dataset, tag, 1)[0]
    if not 1 <= value <= 65535 or value != int(value):
        raise BadInput(f"{file}: attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {value}, expected a number of detector elements")
    return int(value)


def _length(file: Path, dataset: Any, tag: int) -> float:
    value = _numbers(file, dataset, tag, 1)[0]
    if value <= 0:
        raise BadInput(f"{file}: attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {value}, expected a length in mm")
    return value


def _text(dataset: Any, tag: int) -> str:
    return _raw(dataset, tag).decode("ascii", "replace").strip("\0 ")


def _photons(dataset: Any, n_columns: int) -> NDArray[np.float32] | None:
    """(bin,) incident quanta of each column; None where the file has no such list."""
    value = _raw(dataset, PHOTONS)
    if not value:
        return None
    found = np.frombuffer(value[: len(value) // 4 * 4], "<f4").astype(np.float32)
    return found if found.shape == (n_columns,) and np.isfinite(found).all() and (found > 0).all() else None


def _water(dataset: Any) -> float | None:
    """1/mm; the files give it as text."""
    text = _text(dataset, WATER_ATTENUATION)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1 else None
