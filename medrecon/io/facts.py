"""Study facts by DICOM keyword: which are kept, which say who the patient is, and where a volume came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
STUDY = (
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "FrameOfReferenceUID",
)
ACQUISITION = (
    "Manufacturer",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "EchoTrainLength",
    "EchoNumbers",
    "FlipAngle",
    "NumberOfAverages",
    "PixelBandwidth",
    "KVP",
    "XRayTubeCurrent",
    "Exposure",
    "ConvolutionKernel",
    "SliceThickness",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""Tell how, not who: the only ones shown without asking."""

UNPLACED = "ORIENTATION UNKNOWN"
"""How the descriptions of files begin whose place in the patient is not known; readers take them at their word."""

SOURCE_IMAGES = "SourceImageSequence"
"""[[SOP class UID, SOP instance UID], ...] of the images a volume was read from, one for each plane."""


def input_record(name: str, files: Iterable[Path]) -> dict[str, str]:
    """{"name", "sha256"} of the files a volume came from; the digest does not depend on where they lie or what they are called."""
    import hashlib

    from medrecon.files import sha256

    digests = sorted(sha256(file) for file in files)
    joined = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return {"name": name, "sha256": joined}


def method_words(provenance: Any) -> str:
    """The method of a reconstruction, or an empty string: what descriptions say after "medrecon"."""
    method = provenance.get("method")
    return method if isinstance(method, str) else ""
