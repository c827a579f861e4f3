"""The modules of a derived DICOM image: patient, study, series, equipment, derivation, plane, pixels. Zero errors in dciodvfy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.io.dicom_values import IMPLEMENTATION_UID, code, conformed, item
from medrecon.io.facts import ACQUISITION, PATIENT, SOURCE_IMAGES, STUDY
from medrecon.io.patient_frame import Planes
from medrecon.io.pixels import decimal_string

log = logging.getLogger("medrecon")

Facts = Mapping[str, Any]

REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2: present even where nothing is known."""

OPTIONAL = ("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "ProtocolName")

UNPAIRED = frozenset(
    (
        "HEAD",
        "BRAIN",
        "NECK",
        "CHEST",
        "HEART",
        "ABDOMEN",
        "PELVIS",
        "LIVER",
        "PROSTATE",
        "SPINE",
        "CSPINE",
        "TSPINE",
        "LSPINE",
        "SKULL",
        "UTERUS",
        "WHOLEBODY",
    )
)
"""Body parts that have no side: for these Laterality must be absent, for all others it must be there."""

UNITS = {
    "arbitrary": ("1", "no units"),
    "Hz": ("Hz", "Hertz"),
    "s": ("s", "second"),
    "ms": ("ms", "millisecond"),
    "rad": ("rad", "radian"),
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "dB": ("dB", "decibel"),
    "m/s": ("m/s", "meter per second"),
}
"""Volume.units to UCUM code and meaning."""


def instance(sop_class: str, sop_uid: str, version: str) -> Any:
    """An empty data set with its file meta information; the preamble is zeros."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"MEDRECON {version}"[:16]
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    return dataset


def fitting(facts: Facts) -> dict[str, Any]:
    """The facts that a derived image takes over, in DICOM's forms; those that do not fit are named in a warning, without their values."""
    fitted, lost = {}, []
    for keyword in (*PATIENT, *STUDY, *ACQUISITION):
        value = facts.get(keyword)
        if value is None or value in ("", [], ()):
            continue
        fit = conformed(keyword, value)
        if fit is None:
            lost.append(keyword)
        else:
            fitted[keyword] = fit
    if SOURCE_IMAGES in facts:
        fitted[SOURCE_IMAGES] = facts[SOURCE_IMAGES]
    if lost:
        log.warning("left out of the DICOM series, since their values do not fit: %s", ", ".join(sorted(lost)))
    return fitted


def add_patient_and_study(dataset: Any, facts: Facts, study_uid: str) -> None:
    """Patient and Study modules from the facts."""
    for keyword in REQUIRED:
        setattr(dataset, keyword, facts.get(keyword, ""))
    for keyword in OPTIONAL:
        if keyword in facts:
            setattr(dataset, keyword, facts[keyword])
    dataset.StudyInstanceUID = study_uid


def add_series(dataset: Any, facts: Facts, *, modality: str, series_uid: str, number: int, description: str) -> None:
    """Series module, with body part and side as the standard wants them: a side only where the part has one."""
    dataset.Modality, dataset.SeriesInstanceUID = modality, series_uid
    dataset.SeriesNumber, dataset.SeriesDescription = number, description[:64].strip()
    part = facts.get("BodyPartExamined", "")
    if part:
        dataset.BodyPartExamined = part
    if part not in UNPAIRED:
        dataset.Laterality = facts.get("Laterality", "")


def add_equipment(dataset: Any, facts: Facts, version: str) -> None:
    """We made the image; the scanner that acquired it is named as a contributor."""
    dataset.Manufacturer = dataset.ManufacturerModelName = "medrecon"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", version
    contributors = [_contributor("109102", "Processing Equipment", "medrecon", "medrecon", version)]
    if "Manufacturer" in facts:
        model = str(facts.get("ManufacturerModelName", ""))
        contributors.append(_contributor("109101", "Acquisition Equipment", str(facts["Manufacturer"]), model, ""))
    dataset.ContributingEquipmentSequence = contributors


def _contributor(purpose: str, meaning: str, manufacturer: str, model: str, version: str) -> Any:
    attributes: dict[str, Any] = {"PurposeOfReferenceCodeSequence": code(purpose, "DCM", meaning), "Manufacturer": manufacturer}
    if model:
        attributes["ManufacturerModelName"] = model
    if version:
        attributes |= {"SoftwareVersions": version, "ContributionDescription": "Image reconstruction"}
    return item(attributes)


def add_derivation(dataset: Any, words: str, sources: list[list[str]]) -> None:
    """How the image was derived, and from which images (SOP class and instance UIDs) if from any."""
    dataset.DerivationDescription = words
    if sources:
        purpose = code("121322", "DCM", "Source image for image processing operation")
        dataset.SourceImageSequence = [
            item({"ReferencedSOPClassUID": kind, "ReferencedSOPInstanceUID": name, "PurposeOfReferenceCodeSequence": purpose})
            for kind, name in sources
        ]
    dataset.BurnedInAnnotation = "NO"


def add_plane(dataset: Any, planes: Planes, index: int, frame_of_reference: str, patient_position: str) -> None:
    """Where slice `index` lies in the patient. Spacing between slices is along the normal, also where the stack is sheared."""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference, ""
    dataset.PatientPosition = patient_position
    position = planes.positions[index]
    # 1e-12: without it a computed zero is written as 6e-17.
    dataset.ImageOrientationPatient = [decimal_string(round(v, 12)) for v in (*planes.row, *planes.column)]
    dataset.ImagePositionPatient = [decimal_string(round(v, 9)) for v in position]
    dataset.PixelSpacing = [decimal_string(v) for v in planes.spacing]
    thickness = decimal_string(round(abs(float(planes.step @ planes.normal)), 9))
    dataset.SliceThickness = dataset.SpacingBetweenSlices = thickness
    dataset.SliceLocation = decimal_string(round(float(position @ planes.normal), 6))


def add_pixels(dataset: Any, stored: NDArray[Any], facts: Facts) -> None:
    """One grey plane (y, x) of 16 bits, signed where its dtype is."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    lossy = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    dataset.LossyImageCompression = "00"
    if facts.get(lossy[0]) == "01":  # what was lossy once stays so
        for keyword in lossy:
            if keyword in facts:
                setattr(dataset, keyword, facts[keyword])
    dataset.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"


def real_world_mapping(slope: float, intercept: float, last: int, units: str) -> list[Any]:
    """Stored numbers 0..last to values in `units`; classic MR has no Modality LUT for that."""
    symbol, meaning = UNITS.get(units, UNITS["arbitrary"])
    mapping = item({"LUTLabel": "IMAGE", "LUTExplanation": "reconstructed signal", "RealWorldValueSlope": slope})
    mapping.RealWorldValueIntercept = intercept
    mapping.MeasurementUnitsCodeSequence = code(symbol, "UCUM", meaning)
    mapping.add_new(0x00409216, "US", 0)
    mapping.add_new(0x00409211, "US", last)
    return [mapping]
