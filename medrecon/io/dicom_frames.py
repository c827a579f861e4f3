"""Frames: every 2-D plane of a DICOM file, classic or enhanced, with its place, scale and labels in one form."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.errors import BadInput, NotSupported
from medrecon.files import check_size
from medrecon.io.ct_pd_views import is_projection
from medrecon.io.dicom_modules import UNITS
from medrecon.io.dicom_open import damage
from medrecon.io.patient_frame import Vector

COMPRESSED_RATIO = 1000.0  # the most by which a compressed frame may grow
PLACE_POINTERS = {0x00200032, 0x00209056, 0x00209057}  # dimension indices that only say where a frame lies
LABELS = ("TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue", "TriggerTime", "AcquisitionNumber")
"""What may tell frames at one place apart, the most telling first."""
COMPONENTS = {"M": "M", "P": "P", "R": "R", "I": "I", "MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}


@dataclass(frozen=True)
class Frame:
    """One plane, its pixels still in the file. Positions and directions are in LPS mm; not `placed`: the file has none.

    `spacing`: (between rows, between columns) mm. `thickness`: distance to a neighbour if there were one, mm. `scale`:
    (slope, intercept) to values in `units`. `kind`: what must be equal within a volume. `labels`: what tells frames
    at one place apart.
    """

    file: Path
    index: int
    attributes: Attributes = field(repr=False)
    size: tuple[int, int]
    placed: bool
    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    thickness: float
    scale: tuple[float, float]
    units: str
    kind: tuple[Hashable, ...]
    labels: Mapping[str, Hashable]


class Attributes:
    """Attributes of one frame by keyword: its own functional groups before the shared ones before the file's."""

    def __init__(self, dataset: Any, groups: Mapping[str, Any]) -> None:
        self.dataset, self.groups = dataset, groups

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value, or `default` where it is absent or empty."""
        value = self.groups[keyword] if keyword in self.groups else self.dataset.get(keyword)
        return default if value is None or (isinstance(value, str) and not value) else value


def frames_of(file: Path, dataset: Any) -> list[Frame]:
    """The frames of a file from its header. Raises `BadInput` for a damaged header, `NotSupported` for colour and mosaics."""
    with damage(file):
        _check_kind(file, dataset)
        count = int(dataset.get("NumberOfFrames") or 1)
        _check_extent(file, dataset, count)
        return [_frame(file, index, attributes) for index, attributes in enumerate(_attributes(file, dataset, count))]


def _check_kind(file: Path, dataset: Any) -> None:
    if is_projection(dataset):
        raise NotSupported(f"{file}: a projection (DICOM-CT-PD), not an image: projections are read from a folder of their own")
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotSupported(f"{file}: colour image ({colours or 'no photometric interpretation'}): medrecon reads grey images")
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        raise NotSupported(f"{file}: Siemens mosaic (many slices tiled in one image): export it as enhanced MR or convert it with dcm2niix")
    if "ModalityLUTSequence" in dataset:
        raise NotSupported(f"{file}: its values go through a lookup table (ModalityLUTSequence), which medrecon does not read")


def _check_extent(file: Path, dataset: Any, count: int) -> None:
    """Before anything is allocated: can the file hold what its header says?"""
    syntax = dataset.file_meta.TransferSyntaxUID
    packed = syntax.is_encapsulated or syntax.is_deflated
    shape = (count, int(dataset.Rows), int(dataset.Columns))
    if min(shape) < 1:
        raise BadInput(f"{file}: header announces {shape} (frames, rows, columns): damaged")
    bits = int(dataset.BitsAllocated)
    check_size(str(file), shape, max(1, bits // 8), file.stat().st_size, COMPRESSED_RATIO if packed else 1.0)


def _attributes(file: Path, dataset: Any, count: int) -> Iterator[Attributes]:
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if own is None:
        yield from (Attributes(dataset, {}) for _ in range(count))
        return
    if len(own) != count:
        raise BadInput(f"{file}: header announces {count} frames and describes {len(own)}: damaged")
    shared = _flat(dataset.get("SharedFunctionalGroupsSequence") or ())
    yield from (Attributes(dataset, {**shared, **_flat([groups])}) for groups in own)


def _flat(items: Any) -> dict[str, Any]:
    """Functional groups by keyword, and the attributes of the first item in each."""
    flat: dict[str, Any] = {}
    for groups in items:
        for element in groups:
            if element.VR == "SQ" and len(element.value):
                flat[element.keyword] = element.value
                flat |= {inner.keyword: inner.value for inner in element.value[0]}
    return flat


def _frame(file: Path, index: int, attributes: Attributes) -> Frame:
    look = attributes.get
    position, directions = _numbers(look("ImagePositionPatient"), 3), _numbers(look("ImageOrientationPatient"), 6)
    if position is None or directions is None:
        placed, position, directions = False, np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    else:
        placed = True
    row, column = _directions(file, directions)
    slope, intercept, units = _scale(attributes)
    echo = (look("EchoNumbers"), look("EchoTime", look("EffectiveEchoTime")))
    kind = (
        str(look("SeriesInstanceUID", "")),
        (int(look("Rows")), int(look("Columns"))),
        _component(attributes),
        tuple(None if value is None else str(value) for value in echo),
        "LOCALIZER" in (look("ImageType") or ()),
        str(look("StackID", "")),
        placed,
    )
    thickness = look("SpacingBetweenSlices", look("SliceThickness"))
    return Frame(
        file=file,
        index=index,
        attributes=attributes,
        size=(int(look("Rows")), int(look("Columns"))),
        placed=placed,
        position=position,
        row=row,
        column=column,
        spacing=_spacing(file, attributes),
        thickness=abs(float(thickness or 1.0)) or 1.0,
        scale=(slope, intercept),
        units=units,
        kind=kind,
        labels=_labels(attributes),
    )


def _numbers(value: Any, n: int) -> Vector | None:
    """`n` finite numbers, or None where the attribute is absent or empty."""
    if value is None or len(value) == 0:
        return None
    numbers = np.array([float(one) for one in value])
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        raise ValueError(f"expected {n} finite numbers, found {list(value)}")
    return numbers


def _directions(file: Path, six: Vector) -> tuple[Vector, Vector]:
    row, column = six[:3], six[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(row @ column) > 1e-2:
        raise BadInput(f"{file}: ImageOrientationPatient {six.round(4).tolist()} is no pair of orthogonal directions: damaged")
    return row / lengths[0], column / lengths[1]


def _spacing(file: Path, attributes: Attributes) -> tuple[float, float]:
    """(between rows, between columns) in mm; ultrasound says it by regions in cm. 1 mm where the file says nothing."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = _numbers(attributes.get(keyword), 2)
        if spacing is not None:
            if spacing.min() <= 0:
                raise BadInput(f"{file}: {keyword} is {spacing.tolist()}: must be positive")
            return float(spacing[0]), float(spacing[1])
    centimetres = 3
    for region in attributes.get("SequenceOfUltrasoundRegions") or ():
        if region.get("PhysicalUnitsXDirection") == centimetres == region.get("PhysicalUnitsYDirection"):
            return abs(float(region.PhysicalDeltaY)) * 10 or 1.0, abs(float(region.PhysicalDeltaX)) * 10 or 1.0
    return 1.0, 1.0


def _scale(attributes: Attributes) -> tuple[float, float, str]:
    """Slope, intercept and unit: the rescale, else a real-world mapping of one linear item, else the numbers as stored."""
    look = attributes.get
    ct = look("Modality") == "CT"
    if look("RescaleSlope") is not None:
        units = "HU" if ct or look("RescaleType") == "HU" else "arbitrary"
        return float(look("RescaleSlope")), float(look("RescaleIntercept", 0.0)), units
    mappings: Any = look("RealWorldValueMappingSequence") or ()
    if len(mappings) == 1 and mappings[0].get("RealWorldValueSlope") is not None:
        mapping = mappings[0]
        return float(mapping.RealWorldValueSlope), float(mapping.get("RealWorldValueIntercept") or 0.0), _mapped_units(mapping)
    return 1.0, 0.0, "HU" if ct else "arbitrary"


def _mapped_units(mapping: Any) -> str:
    codes = mapping.get("MeasurementUnitsCodeSequence") or ()
    symbol = str(codes[0].get("CodeValue", "1")) if codes else "1"
    return next((unit for unit, (ucum, _) in UNITS.items() if ucum == symbol), symbol)


def _component(attributes: Attributes) -> str:
    """M, P, R or I, or "" where the file does not say: magnitude and phase images never share a volume."""
    said = attributes.get("ComplexImageComponent")
    words = [said] if said else list(attributes.get("FrameType") or attributes.get("ImageType") or ())[2:]
    return next((COMPONENTS[str(word)] for word in words if str(word) in COMPONENTS), "")


def _labels(attributes: Attributes) -> dict[str, Hashable]:
    labels: dict[str, Hashable] = {name: float(value) for name in LABELS if (value := attributes.get(name)) is not None}
    pointers = [entry.get("DimensionIndexPointer") for entry in attributes.get("DimensionIndexSequence") or ()]
    indices = attributes.get("DimensionIndexValues")
    if indices is not None and pointers:
        values = [indices] if isinstance(indices, int) else list(indices)
        labels["DimensionIndexValues"] = tuple(
            int(value)
            for pointer, value in zip(pointers, values, strict=False)
            if pointer is not None and int(pointer) not in PLACE_POINTERS
        )
    return labels
