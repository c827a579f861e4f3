"""A volume becomes a folder of classic DICOM images, one file a slice: MR with real-world values, CT in Hounsfield units."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput, NotSupported
from medrecon.files import atomic_folder, check_target
from medrecon.io import dicom_modules as modules
from medrecon.io.dicom_values import digest, facts_of, uid
from medrecon.io.facts import IDENTIFYING, PATIENT, SOURCE_IMAGES, STUDY, UNPLACED, input_digests, method_words
from medrecon.io.patient_frame import Planes, planes_of
from medrecon.io.pixels import HOUNSFIELD, Scaling, decimal_string, finite_array, unsigned_scaling
from medrecon.volume import Volume

log = logging.getLogger("medrecon")

IMAGE_NUMBER, CONTENT_NUMBER = 9001, 9002  # series numbers of images, and of maps that go with them


def writes(path: Path) -> bool:
    """Every name: what no file format claims is a folder."""
    return True


def write(
    volume: Volume,
    path: Path,
    *,
    force: bool = False,
    like: str | os.PathLike[str] | None = None,
    anonymous: bool = False,
    description: str = "",
    series_number: int | None = None,
) -> list[Path]:
    """The files 00001.dcm, ... of one derived series in the new folder `path`, there whole or not at all.

    Complex images are written as magnitude; one leading axis becomes temporal positions. Facts of the volume fill
    patient, study and acquisition attributes. `like`: a DICOM file or folder whose patient, study and frame of
    reference the series joins; `anonymous`: none of these. UIDs depend on image, place, facts and settings alone, so
    the same result has the same UIDs. With an unknown orientation the description says so and a warning is logged.
    Raises `BadInput` for NaN and for a target folder that holds anything but DICOM, `OutputExists` without `force`.
    """
    target = check_target(path, force)
    check_replaceable(target)
    kind = _kind(volume)
    volume = _with_facts(volume, like, anonymous)
    array = finite_array(volume.magnitude, target)
    number = series_number or (CONTENT_NUMBER if "content" in volume.provenance else IMAGE_NUMBER)
    series = _Series.of(volume, array, kind, description, number, anonymous)
    names = []
    with atomic_folder(target, force) as folder:
        for index in range(series.n_images):
            name = f"{index + 1:05d}.dcm"
            series.image(index).save_as(folder / name, enforce_file_format=True)
            names.append(target / name)
    if volume.orientation == "unknown":
        log.warning("%s: the orientation in the patient is unknown; the series description begins %r", target.name, UNPLACED)
    return names


@dataclass(frozen=True)
class _Kind:
    """What one SOP class asks for beyond the common modules."""

    sop_class: str
    image_type: tuple[str, ...]
    dtype: str
    scaling: Callable[[NDArray[Any]], Scaling]
    fill: Callable[[Any, _Series], None]


@dataclass(frozen=True)
class _Series:
    """All that the images of a series share."""

    values: NDArray[Any]  # (time, z, y, x)
    planes: Planes
    volume: Volume
    kind: _Kind
    scaling: Scaling
    facts: dict[str, Any]
    description: str
    derivation: str
    number: int
    study_uid: str
    series_uid: str
    frame_uid: str
    brightest: float
    version: str
    anonymous: bool

    @classmethod
    def of(cls, volume: Volume, array: NDArray[Any], kind: _Kind, description: str, number: int, anonymous: bool) -> _Series:
        import medrecon

        version = medrecon.__version__
        values = array.reshape(-1, *array.shape[-3:])
        facts = modules.fitting(volume.facts)
        known = volume.orientation == "known"
        words = [] if known else [UNPLACED]
        words += [
            description or " ".join(filter(None, (str(facts.get("SeriesDescription", "")), "medrecon", method_words(volume.provenance))))
        ]
        inputs = input_digests(volume.provenance)
        image = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        scan = digest(inputs) if inputs else image
        study = facts.get("StudyInstanceUID") or uid("study", scan)
        settings = digest({key: volume.provenance.get(key) for key in IDENTIFYING})
        identity = (study, image, digest(volume.affine.tolist()), digest(facts), settings, *inputs)
        return cls(
            values=values,
            planes=planes_of(volume.grid),
            volume=volume,
            kind=kind,
            scaling=kind.scaling(values),
            facts=facts,
            description=" ".join(words),
            derivation=_derivation(volume),
            number=number,
            study_uid=study,
            series_uid=uid("series", *identity, kind.sop_class, number, *words),
            # A position that is unknown is not one in the scanner's frame either.
            frame_uid=facts["FrameOfReferenceUID"] if known and "FrameOfReferenceUID" in facts else uid("frame", study, scan, known),
            brightest=float(np.percentile(values.ravel()[:: max(1, values.size // 1_000_000)], 99.5)),
            version=version,
            anonymous=anonymous,
        )

    @property
    def n_images(self) -> int:
        return self.values.shape[0] * self.values.shape[1]

    def image(self, index: int) -> Any:
        """The data set of image `index`: slices first, then temporal positions."""
        time, z = divmod(index, self.values.shape[1])
        dataset = modules.instance(self.kind.sop_class, uid("image", self.series_uid, index), self.version)
        modules.add_patient_and_study(dataset, self.facts, self.study_uid)
        if self.anonymous:
            dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", "medrecon: no attribute of patient and study copied"
        modality = self.volume.modality
        modules.add_series(
            dataset, self.facts, modality=modality, series_uid=self.series_uid, number=self.number, description=self.description
        )
        modules.add_equipment(dataset, self.facts, self.version)
        modules.add_derivation(dataset, self.derivation, self._sources(index))
        position = str(self.facts.get("PatientPosition", "")) if self.volume.orientation == "known" else ""
        modules.add_plane(dataset, self.planes, z, self.frame_uid, position)
        dataset.ImageType, dataset.InstanceNumber = list(self.kind.image_type), index + 1
        if self.values.shape[0] > 1:
            dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = time + 1, self.values.shape[0]
        modules.add_pixels(dataset, self.scaling.stored(self.values[time, z], self.kind.dtype), self.facts)
        self.kind.fill(dataset, self)
        return dataset

    def _sources(self, index: int) -> list[list[str]]:
        sources = self.facts.get(SOURCE_IMAGES, [])
        return [sources[index]] if len(sources) == self.n_images else []


def _fill_mr(dataset: Any, series: _Series) -> None:
    """MR Image module: what is not known is research mode, or empty where the standard lets it."""
    dataset.ScanningSequence = series.facts.get("ScanningSequence", "RM")
    dataset.SequenceVariant = series.facts.get("SequenceVariant", "NONE")
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        setattr(dataset, keyword, series.facts.get(keyword))
    for keyword in ("InversionTime", "MagneticFieldStrength", "ImagingFrequency", "FlipAngle", "NumberOfAverages", "PixelBandwidth"):
        if keyword in series.facts:
            setattr(dataset, keyword, series.facts[keyword])
    scaling = series.scaling
    dataset.RealWorldValueMappingSequence = modules.real_world_mapping(
        scaling.slope, scaling.intercept, scaling.highest, series.volume.units
    )
    top = max(1.0, (series.brightest - scaling.intercept) / scaling.slope)
    dataset.WindowCenter, dataset.WindowWidth = decimal_string(round(top / 2, 1)), decimal_string(round(top, 1))


def _fill_ct(dataset: Any, series: _Series) -> None:
    """CT Image module in Hounsfield units with two common windows."""
    dataset.AcquisitionNumber = None
    dataset.KVP = series.facts.get("KVP")
    for keyword in ("XRayTubeCurrent", "Exposure", "ConvolutionKernel"):
        if keyword in series.facts:
            setattr(dataset, keyword, series.facts[keyword])
    slope, intercept = series.scaling.slope, series.scaling.intercept
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = decimal_string(slope), decimal_string(intercept), "HU"
    dataset.WindowCenter, dataset.WindowWidth = ["40", "-600"], ["400", "1500"]
    dataset.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]


KINDS = {
    "MR": _Kind("1.2.840.10008.5.1.4.1.1.4", ("DERIVED", "SECONDARY", "OTHER", "M"), "<u2", unsigned_scaling, _fill_mr),
    "CT": _Kind("1.2.840.10008.5.1.4.1.1.2", ("DERIVED", "SECONDARY", "AXIAL"), "<i2", lambda _: HOUNSFIELD, _fill_ct),
}
"""By Volume.modality; another kind of image is a line here and its `fill`."""


def _kind(volume: Volume) -> _Kind:
    if volume.modality not in KINDS:
        raise NotSupported(f"a {volume.modality} volume as DICOM: only {' and '.join(KINDS)} are written; write .nii.gz instead")
    n_leading = int(np.prod(volume.image.shape[:-3]))
    if n_leading != max((1, *volume.image.shape[:-3])) or (n_leading > 1 and volume.modality != "MR"):
        raise NotSupported(
            f"a {volume.modality} image of shape {tuple(volume.image.shape)} as one DICOM series: select one volume, or write .nii.gz"
        )
    return KINDS[volume.modality]


def _with_facts(volume: Volume, like: str | os.PathLike[str] | None, anonymous: bool) -> Volume:
    if anonymous and like is not None:
        raise BadInput("anonymous and like exclude each other: like copies the patient and the study")
    if anonymous:
        return volume.anonymous()
    if like is None:
        return volume
    from medrecon.io.dicom_open import first_image

    other = first_image(Path(like))
    joined = [key for key in (*PATIENT, *STUDY, "PatientPosition") if key not in ("SeriesDescription", "ProtocolName")]
    body = facts_of(other, ("BodyPartExamined", "Laterality"))
    return replace(volume, facts={**body, **volume.facts, **facts_of(other, joined)})


def _derivation(volume: Volume) -> str:
    """Method, prior, steps and seed in words; never a name of a file."""
    parts = ["medrecon"]
    for key in ("method", "content", "preset", "prior", "steps", "seed", "samples"):
        value = volume.provenance.get(key)
        if isinstance(value, str | int | float) and "/" not in str(value) and "\\" not in str(value):
            parts.append(f"{key} {value}")
    return ", ".join(parts)[:1024]


def check_replaceable(target: Path) -> None:
    """--force takes away a whole folder: only one that holds nothing but DICOM files."""
    if not target.is_dir():
        return
    from medrecon.io.dicom_open import is_dicom

    for path in target.iterdir():
        if path.is_dir() or not is_dicom(path):
            raise BadInput(f"{target}: would be replaced as a whole, but holds {path.name}, which is no DICOM file: choose another folder")
