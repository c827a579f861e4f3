"""NIfTI images: .nii and .nii.gz, both affines said, millimetres said, complex64 where asked for."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medrecon.compute import free_memory
from medrecon.errors import BadInput, NotSupported, OutOfMemory
from medrecon.files import atomic_file, check_readable, check_size, check_target
from medrecon.io.facts import ACQUISITION, IDENTIFYING, UNPLACED, input_digests, input_record, method_words
from medrecon.io.patient_frame import shear_gap
from medrecon.io.pixels import finite_array
from medrecon.volume import Grid, Volume

log = logging.getLogger("medrecon")

SCANNER, ALIGNED = 1, 2  # NIFTI_XFORM_SCANNER_ANAT, NIFTI_XFORM_ALIGNED_ANAT
MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
NIFTI1_LONGEST_AXIS = 32767
OURS = re.compile(r"^(ORIENTATION UNKNOWN )?medrecon \S+ \((?P<modality>\w+), (?P<units>[^)]+)\)")
DEFLATE_LIMIT = 1032.0  # no deflate stream can inflate by more


def recognises(path: Path) -> bool:
    """By name alone: .nii or .nii.gz."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


writes = recognises


def read(path: Path, *, modality: str | None = None) -> Volume:
    """The volume of a NIfTI file: float32 or complex64, (..., z, y, x), trailing NIfTI axes leading.

    The place is the sform if it has a code and is not singular, else the qform, else unknown. `modality`: what the
    numbers are ("MR", "CT"), which NIfTI does not say; our own files say it in their description, others are taken
    for MR. Raises `BadInput` for damaged files, `NotSupported` for colour images.
    """
    image, volume = _opened(path, modality)
    kind = np.dtype(np.complex64 if volume.image.is_complex() else np.float32)
    need = 2 * volume.image.numel() * max(kind.itemsize, image.header.get_data_dtype().itemsize)
    if need > free_memory(torch.device("cpu")):
        raise OutOfMemory(f"{path}: an image of {tuple(volume.image.shape)} needs {need >> 20} MiB to load, more than is free")
    with _damage(path):
        array = np.asarray(image.dataobj, dtype=kind)
    data = torch.from_numpy(np.ascontiguousarray(array.T)).reshape(volume.image.shape)
    provenance = {"inputs": [input_record(path.name, [path])]}
    return replace(volume, image=data, provenance=provenance)


def header(path: Path, *, modality: str | None = None) -> Volume:
    """The volume without its voxels (an image on the meta device)."""
    return _opened(path, modality)[1]


def write(
    volume: Volume,
    path: Path,
    *,
    force: bool = False,
    complex: bool = False,
    sidecar: bool = False,
    anonymous: bool = False,
) -> list[Path]:
    """The files written: magnitude (or a real image as it is) in float32; complex64 where `complex` and the image is.

    qform and sform have code 1 (scanner) when the orientation is known. When it is not they have code 2, the description
    says so and a warning is logged. A sheared grid has no qform. `sidecar`: a BIDS-like .json beside it with acquisition
    facts, never the patient's, and provenance; `anonymous` drops the acquisition facts, settings and names of inputs too.
    Raises `BadInput` for NaN, `OutputExists` without `force`.
    """
    target = check_target(path, force)
    notes = target.with_name(target.name[: target.name.lower().rindex(".nii")] + ".json")
    if sidecar:
        check_target(notes, force)
    array = finite_array(volume if complex else volume.magnitude, target)
    with atomic_file(target, force) as temporary:
        _image(volume, array).to_filename(temporary)
    if volume.orientation == "unknown":
        log.warning("%s: the orientation in the patient is unknown; spacing is right, sides and position are not said", target.name)
    if not sidecar:
        return [target]
    with atomic_file(notes, force) as temporary:
        temporary.write_text(json.dumps(_sidecar(volume, anonymous), indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
    return [target, notes]


def _opened(path: Path, modality: str | None) -> tuple[Any, Volume]:
    """The nibabel image and the volume without voxels, after the sizes in the header were checked against the file."""
    import nibabel

    check_readable(path)
    with _damage(path):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
            raise BadInput(f"{path}: no single-file NIfTI image inside (found {type(image).__name__})")
        kind = image.header.get_data_dtype()
        shape = tuple(int(n) for n in image.header.get_data_shape())
    if kind.fields is not None:
        raise NotSupported(f"{path}: colour image ({len(kind.fields)} channels a voxel): medrecon reads real and complex images")
    if not shape or min(shape) < 1:
        raise BadInput(f"{path}: header announces the shape {shape}: damaged")
    packed = path.name.lower().endswith(".gz")
    check_size(str(path), shape, kind.itemsize, path.stat().st_size, DEFLATE_LIMIT if packed else 1.0)
    spatial = (*shape, 1, 1, 1)[: max(3, len(shape))]
    empty = torch.empty(spatial[::-1], dtype=torch.complex64 if kind.kind == "c" else torch.float32, device="meta")
    said = OURS.search(_description(image.header))
    kind_of = modality or (said["modality"] if said else "MR")
    units = said["units"] if said and kind_of == said["modality"] else "HU" if kind_of == "CT" else "arbitrary"
    return image, Volume(empty, _grid(image.header, empty.shape[-3:]), modality=kind_of, units=units)


def _grid(fields: Any, shape: tuple[int, ...]) -> Grid:
    """The place of the voxels in RAS mm: sform, else qform, else unknown with the spacing of pixdim."""
    scale = MM.get(_length_unit(fields), 1.0)
    depth, height, width = shape
    for affine in (_coded(fields, "get_sform"), _coded(fields, "get_qform")):
        if affine is not None:
            affine[:3] *= scale
            unplaced = _description(fields).startswith(UNPLACED)
            return Grid((depth, height, width), affine, "unknown" if unplaced else "known")
    steps = [abs(float(step)) * scale for step in fields["pixdim"][1:4]]
    dx, dy, dz = (step if np.isfinite(step) and step > 0 else 1.0 for step in steps)
    return Grid.unplaced((depth, height, width), (dz, dy, dx))


def _coded(fields: Any, which: str) -> NDArray[np.float64] | None:
    """An affine that has a code, is finite and not singular; nibabel hands out all-zero sforms otherwise."""
    from nibabel.spatialimages import HeaderDataError

    try:
        affine, code = getattr(fields, which)(coded=True)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        return None
    if affine is None or code < 1 or not np.isfinite(affine).all():
        return None
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if steps.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        return None
    return np.array(affine, np.float64)


def _description(fields: Any) -> str:
    return bytes(fields["descrip"].tobytes()).rstrip(b"\0").decode("ascii", "replace")


def _length_unit(fields: Any) -> str:
    try:
        return str(fields.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _image(volume: Volume, array: NDArray[Any]) -> Any:
    import nibabel

    import medrecon

    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    long = max(array.shape) > NIFTI1_LONGEST_AXIS
    image = (nibabel.Nifti2Image if long else nibabel.Nifti1Image)(array.astype(kind, copy=False).T, None)
    image.header.set_xyzt_units("mm", "sec")
    known = volume.orientation == "known"
    code = SCANNER if known else ALIGNED
    # A qform cannot hold a shear: beyond a hundredth of a millimetre at a corner it would contradict the sform.
    sheared = shear_gap(volume.affine, volume.grid.shape) > 0.01
    image.set_qform(None if sheared else volume.affine, 0 if sheared else code)
    image.set_sform(volume.affine, code)
    if sheared:
        image.header["pixdim"][1:4] = volume.spacing[::-1]
    words = [] if known else [UNPLACED]
    image.header["descrip"] = (
        " ".join([*words, "medrecon", medrecon.__version__, f"({volume.modality}, {volume.units})", method_words(volume.provenance)])
        .strip()
        .encode("ascii", "replace")[:79]
    )
    return image


def _sidecar(volume: Volume, anonymous: bool) -> dict[str, Any]:
    """BIDS names and units: times in s, fields in T; provenance as it is."""
    facts = {} if anonymous else {key: value for key, value in volume.facts.items() if key in ACQUISITION}
    for key in ("RepetitionTime", "EchoTime", "InversionTime"):
        if isinstance(facts.get(key), int | float):
            facts[key] = facts[key] / 1000
    provenance = dict(volume.provenance)
    if anonymous:
        # Settings may name files, and files patients.
        provenance = {key: provenance[key] for key in IDENTIFYING if key in provenance and key != "settings"}
        provenance["inputs"] = [{"sha256": digest} for digest in input_digests(volume.provenance)]
    return {
        **facts,
        "Modality": volume.modality,
        "Units": volume.units,
        "OrientationKnown": volume.orientation == "known",
        "GeneratedBy": [{"Name": "medrecon"}],
        "Provenance": provenance,
    }


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What nibabel and gzip raise for broken files, as one error that names the file."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        yield
    except (
        ImageFileError,
        HeaderDataError,
        WrapStructError,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: not a whole NIfTI file ({reason}): copy or export it again") from error
