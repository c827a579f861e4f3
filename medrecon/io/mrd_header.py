"""The XML header of MRD (ISMRMRD), which fastMRI files carry too: matrices, fields of view, limits, study facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from medrecon.errors import BadInput

MAX_MATRIX = 65535
"""MRD counts lines and samples in 16 bits."""


@dataclass(frozen=True)
class Space:
    """A matrix and its field of view (mm), both (x, y, z) with x the readout."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]

    @property
    def pixel(self) -> tuple[float, float, float]:
        """(x, y, z), mm."""
        dx, dy, dz = (length / n for length, n in zip(self.fov, self.matrix, strict=True))
        return dx, dy, dz


@dataclass(frozen=True)
class Limit:
    """Range of an encoding counter and the count that lies at k = 0."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding of a measurement; `limits` by the names of the schema (`kspace_encoding_step_1`, `slice`, ...)."""

    encoded: Space
    recon: Space
    trajectory: str
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class MRDHeader:
    """What medrecon uses of an MRD header. `facts`: by DICOM keyword. `noise_bandwidth`: relative, None when not given."""

    encodings: tuple[Encoding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    noise_bandwidth: float | None = None

    @property
    def vendor(self) -> str:
        """Manufacturer in lower case, empty when not given."""
        return str(self.facts.get("Manufacturer", "")).lower()


def _same(value: str) -> str:
    return value


def _dicom_date(value: str) -> str:
    return value.replace("-", "")[:8]


def _iso_date(value: Any) -> str:
    digits = _dicom_date(str(value))
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"


def _megahertz(hertz: str) -> float:
    return float(hertz) / 1e6


def _hertz(megahertz: Any) -> str:
    return str(round(float(megahertz) * 1e6))


# (path in the XML, DICOM keyword, reading, writing) in the schema's order; times are ms in both
FACTS: tuple[tuple[str, str, Callable[[str], Any], Callable[[Any], str]], ...] = (
    ("subjectInformation/patientName", "PatientName", _same, str),
    ("subjectInformation/patientID", "PatientID", _same, str),
    ("subjectInformation/patientBirthdate", "PatientBirthDate", _dicom_date, _iso_date),
    ("subjectInformation/patientGender", "PatientSex", _same, str),
    ("studyInformation/studyDate", "StudyDate", _dicom_date, _iso_date),
    ("studyInformation/studyID", "StudyID", _same, str),
    ("studyInformation/accessionNumber", "AccessionNumber", _same, str),
    ("studyInformation/studyDescription", "StudyDescription", _same, str),
    ("studyInformation/studyInstanceUID", "StudyInstanceUID", _same, str),
    ("studyInformation/bodyPartExamined", "BodyPartExamined", _same, str),
    ("measurementInformation/patientPosition", "PatientPosition", _same, str),
    ("measurementInformation/protocolName", "ProtocolName", _same, str),
    ("measurementInformation/seriesDescription", "SeriesDescription", _same, str),
    ("measurementInformation/frameOfReferenceUID", "FrameOfReferenceUID", _same, str),
    ("acquisitionSystemInformation/systemVendor", "Manufacturer", _same, str),
    ("acquisitionSystemInformation/systemModel", "ManufacturerModelName", _same, str),
    ("acquisitionSystemInformation/systemFieldStrength_T", "MagneticFieldStrength", float, str),
    ("acquisitionSystemInformation/institutionName", "InstitutionName", _same, str),
    ("experimentalConditions/H1resonanceFrequency_Hz", "ImagingFrequency", _megahertz, _hertz),
    ("sequenceParameters/TR", "RepetitionTime", float, str),
    ("sequenceParameters/TE", "EchoTime", float, str),
    ("sequenceParameters/TI", "InversionTime", float, str),
    ("sequenceParameters/flipAngle_deg", "FlipAngle", float, str),
)


def parse(xml: str, where: str) -> MRDHeader:
    """The header of an MRD XML text; `where` names the file in errors.

    Raises `BadInput` for text that is no such header, has impossible sizes, or declares a document type (entities are
    never expanded).
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise BadInput(f"{where}: the header declares a document type or entities: refused")
    try:
        root = ElementTree.fromstring(xml.strip().strip("\0"))
    except ElementTree.ParseError as error:
        raise BadInput(f"{where}: the header is not valid XML ({error})") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ismrmrdHeader":
        raise BadInput(f"{where}: the header's root is <{root.tag}>, expected <ismrmrdHeader>")
    encodings = tuple(_encoding(element, f"{where}: encoding {i}") for i, element in enumerate(root.findall("encoding")))
    if not encodings:
        raise BadInput(f"{where}: the header has no <encoding>: matrix and field of view are unknown")
    return MRDHeader(encodings, _facts(root), _noise_bandwidth(root))


def compose(encoding: Encoding, facts: Mapping[str, Any]) -> str:
    """An MRD XML header for one encoding, with those single-valued facts that the schema has a place for."""
    root = ElementTree.Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    element = _encoding_element(encoding)
    for path, keyword, _, write in FACTS:
        group_name, name = path.split("/")
        if group_name == "sequenceParameters" and element not in root:
            root.append(element)  # the schema wants the encoding before the sequence
        value = facts.get(keyword)
        if not isinstance(value, (str, int, float)) or value == "":
            continue
        group = root.find(group_name)
        group = ElementTree.SubElement(root, group_name) if group is None else group
        ElementTree.SubElement(group, name).text = write(value)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _encoding_element(encoding: Encoding) -> ElementTree.Element:
    element = ElementTree.Element("encoding")
    for name, space in (("encodedSpace", encoding.encoded), ("reconSpace", encoding.recon)):
        part = ElementTree.SubElement(element, name)
        for title, values in (("matrixSize", space.matrix), ("fieldOfView_mm", space.fov)):
            triple = ElementTree.SubElement(part, title)
            for axis, value in zip("xyz", values, strict=True):
                ElementTree.SubElement(triple, axis).text = repr(value)
    limits = ElementTree.SubElement(element, "encodingLimits")
    for name, limit in encoding.limits.items():
        part = ElementTree.SubElement(limits, name)
        for title in ("minimum", "maximum", "center"):
            ElementTree.SubElement(part, title).text = str(getattr(limit, title))
    ElementTree.SubElement(element, "trajectory").text = encoding.trajectory
    return element


def _encoding(element: ElementTree.Element, where: str) -> Encoding:
    limits = {}
    for part in element.findall("encodingLimits/*"):
        values = [part.findtext(name) for name in ("minimum", "maximum", "center")]
        if None not in values:
            limits[part.tag] = Limit(*(_integer(value, f"{where}: {part.tag}") for value in values))
    trajectory = (element.findtext("trajectory") or "cartesian").strip().lower()
    return Encoding(_space(element, "encodedSpace", where), _space(element, "reconSpace", where), trajectory, limits)


def _space(element: ElementTree.Element, name: str, where: str) -> Space:
    matrix = [_integer(element.findtext(f"{name}/matrixSize/{axis}"), f"{where}: {name} matrixSize {axis}") for axis in "xyz"]
    fov = [_number(element.findtext(f"{name}/fieldOfView_mm/{axis}"), f"{where}: {name} fieldOfView_mm {axis}") for axis in "xyz"]
    if min(matrix) < 1 or max(matrix) > MAX_MATRIX:
        raise BadInput(f"{where}: {name} matrixSize is {matrix}, expected 1 to {MAX_MATRIX} on each axis")
    if min(fov) <= 0:
        raise BadInput(f"{where}: {name} fieldOfView_mm is {fov}, expected positive lengths")
    return Space((matrix[0], matrix[1], matrix[2]), (fov[0], fov[1], fov[2]))


def _integer(value: str | None, where: str) -> int:
    number = _number(value, where)
    if number != int(number):
        raise BadInput(f"{where} is {value!r}, expected a whole number")
    return int(number)


def _number(value: str | None, where: str) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{where} is {value!r}, expected a number")
    return number


def _facts(root: ElementTree.Element) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for path, keyword, convert, _ in FACTS:
        values = [element.text.strip() for element in root.findall(path) if element.text and element.text.strip()]
        try:
            converted = [convert(value) for value in values]
        except ValueError:
            continue  # an unreadable remark is no reason to refuse the data
        if converted:
            facts[keyword] = converted[0] if len(converted) == 1 else converted
    return facts


def _noise_bandwidth(root: ElementTree.Element) -> float | None:
    text = root.findtext("acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
