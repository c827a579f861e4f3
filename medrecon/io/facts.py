"""Study facts by DICOM keyword: which are kept, which say who the patient is, and where a volume came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

IDENTIFYING = ("method", "preset", "prior", "steps", "seed", "samples", "content", "versions", "settings")
"""The parts of a provenance that make two results two, beside their inputs; a run time, say, does not."""

SOURCE_IMAGES = "SourceImageSequence"
"""[[SOP class UID, SOP instance UID], ...] of the images a volume was read from, one for each plane."""


def input_record(name: str, files: Iterable[Path]) -> dict[str, str]:
    """{"name", "sha256"} of the files a volume came from; the digest does not depend on where they lie or what they are called."""
    import hashlib

    from medrecon.files import sha256

    digests = sorted(sha256(file) for file in files)
    joined = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return {"name": name, "sha256": joined}


def input_digests(provenance: Mapping[str, Any]) -> list[str]:
    """The SHA-256 of what a result was made from, sorted; never a name."""
    return sorted(str(record["sha256"]) for record in provenance.get("inputs", ()) if "sha256" in record)


def method_words(provenance: Mapping[str, Any]) -> str:
    """The method of a reconstruction, and what it shows if that is not the image: what descriptions say after "medrecon"."""
    return " ".join(word for key in ("method", "content") if isinstance(word := provenance.get(key), str))
