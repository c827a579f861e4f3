"""Files in and out: two visible tuples of formats, and `read`, `write`, `describe`, `convert` that pick from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.files import check_readable, check_target
from medrecon.volume import Volume

if TYPE_CHECKING:
    from medrecon.physics.scan import Scan

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Format:
    """A module of this folder, loaded on first use, and the words by which people know its files.

    A reader has `recognises(path) -> bool` and `read(path, **own options) -> Scan | Volume`; with `has_header` also
    `header(path, **own options) -> Volume`, the same volume with an image on the "meta" device: known, but not loaded.
    A writer has `writes(path) -> bool` and `write(volume, path, *, force, **own options) -> list[Path]`.
    """

    name: str
    files: str
    has_header: bool = False

    @property
    def module(self) -> Any:
        return import_module(f"medrecon.io.{self.name}")


READERS = (
    Format("nifti", "NIfTI image (.nii, .nii.gz)", has_header=True),
    Format("dicom_ct_pd", "DICOM-CT-PD projections (folder)"),
    Format("dicom_read", "DICOM file or folder", has_header=True),
    Format("dxchange", "DataExchange projections (.h5)"),
    Format("nxtomo", "NXtomo projections (.nx, .h5)"),
    Format("fastmri", "fastMRI k-space (.h5)"),
    Format("ismrmrd", "ISMRMRD/MRD k-space (.h5)"),
    Format("bart", "BART k-space (.cfl with .hdr)"),
    Format("ct_arrays", "projections with their geometry (.npz, .npy with geometry.json)"),
    Format("arrays", "NumPy arrays (.npy, .npz)"),
)
"""Asked in this order; the first that recognises a path reads it."""

WRITERS = (
    Format("nifti", "NIfTI image (.nii, .nii.gz)"),
    Format("fastmri", "fastMRI prediction (.h5)"),
    Format("arrays", "NumPy arrays (.npy, .npz)"),
    Format("dicom_write", "folder of a DICOM series (any other name)"),
)
"""Chosen by the target's name alone; the last takes every name that is left."""


def read(path: Source, **options: Any) -> Scan | Volume:
    """The scan or volume in a file or folder. `options` are those of the format's own `read`.

    Raises `BadInput` when no format recognises the path or an option is none of the format's.
    """
    source = Path(path)
    reader = _reader(source).module.read
    return reader(source, **_known(options, reader, source))


def write(volume: Volume, path: Source, *, force: bool = False, **options: Any) -> list[Path]:
    """The files written: NIfTI, fastMRI prediction, arrays or a DICOM folder, by the name of the target.

    `options` are those of the format's own `write`. Raises `OutputExists` when the target is there and not `force`.
    """
    target = Path(path)
    writer = next(form for form in WRITERS if form.module.writes(target)).module.write
    return writer(volume, target, force=force, **_known(options, writer, target))


def describe(path: Source, *, identity: bool = False, **options: Any) -> dict[str, Any]:
    """What a file holds, ready for JSON, without loading all of its data.

    Patient and study attributes are left out unless `identity`. `options` are those of the format's reader.
    """
    source = Path(path)
    form = _reader(source)
    reader = form.module.header if form.has_header else form.module.read
    found = reader(source, **_known(options, reader, source))
    if not isinstance(found, Volume):
        facts = found.describe()
        hidden = () if identity else ("patient_id",)
        facts["header"] = {key: value for key, value in facts.get("header", {}).items() if key not in hidden}
        return {"format": form.files, "kind": "scan", **facts}
    return {"format": form.files, "kind": "volume", **_volume_description(found, identity)}


def convert(source: Source, target: Source, force: bool = False, **options: Any) -> list[Path]:
    """The files written from an image file: DICOM to NIfTI and back, arrays to either. `options`: the reader's.

    Raises `NotSupported` for raw data: those need a reconstruction, not a conversion.
    """
    check_target(target, force)
    volume = read(source, **options)
    if not isinstance(volume, Volume):
        raise NotSupported(
            f"{source}: holds raw {volume.modality} data, not an image: reconstruct it (medrecon recon {source} -o {target})"
        )
    return write(volume, target, force=force)


def _reader(path: Path) -> Format:
    for form in READERS:
        if form.module.recognises(path):
            return form
    check_readable(path)
    raise BadInput(f"{path}: no format that medrecon reads; it reads {', '.join(form.files for form in READERS)}")


def _known(options: Mapping[str, Any], function: Callable[..., Any], path: Path) -> Mapping[str, Any]:
    """The options, or an error that names the one that `function` does not take."""
    from inspect import Parameter, signature

    names = [name for name, parameter in signature(function).parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in names:
            own = ", ".join(name for name in names if name != "force") or "none"
            raise BadInput(f"{path}: this format has no option {option!r}{nearest(option, names)} (its options: {own})")
    return options


def _volume_description(volume: Volume, identity: bool) -> dict[str, Any]:
    from medrecon.io.facts import ACQUISITION, PATIENT, STUDY

    leading = ["t"] if volume.image.ndim == 4 else [f"axis{k}" for k in range(volume.image.ndim - 3)]
    known = volume.orientation == "known"
    shown = (*PATIENT, *STUDY, *ACQUISITION) if identity else ACQUISITION
    return {
        "shape": list(volume.image.shape),
        "axes": [*leading, "z", "y", "x"],
        "dtype": str(volume.image.dtype).removeprefix("torch."),
        "spacing_mm": [round(step, 6) for step in volume.spacing],
        "orientation": volume.grid.axis_codes if known else "unknown",
        "affine": volume.affine.round(6).tolist() if known else None,
        "units": volume.units,
        "modality": volume.modality,
        "facts": {key: value for key, value in volume.facts.items() if key in shown},
    }
