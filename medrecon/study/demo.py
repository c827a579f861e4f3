"""The demo scan, made here from a volume that a small package ships; and real public raw data by download."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medrecon.errors import BadInput, MedreconError, MissingExtra, OutputExists, nearest
from medrecon.files import check_target, sha256
from medrecon.volume import Grid, Volume

NAME = "mni152_8coils_x4.h5"
TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SLICES = slice(67, 107, 5)
"""z indices of the template: eight slices 5 mm apart, from 5 mm below the anterior commissure to 30 mm above."""
FIELD_OF_VIEW = (224.0, 224.0)
"""(y, x) mm; the template has 1 mm voxels, so that nothing is interpolated."""
SEED = 2009
TIMEOUT = 30.0
"""Seconds without an answer before a download is given up."""


def demo_scan(folder: str | os.PathLike[str], *, force: bool = False) -> Path:
    """The path of a fastMRI-format scan in `folder`: 8 coils, 8 axial slices of the MNI152 brain, 4 x undersampled.

    The same bytes each time; made in seconds without network, or found where an earlier call left it. The slices come from
    the T1 template (Fonov et al. 2011) in the package `nilearn`. Raises `MissingExtra` without that package and
    `OutputExists` when another file has the name.
    """
    from medrecon.io import fastmri
    from medrecon.physics.mri.fastmri_masks import fastmri_mask
    from medrecon.physics.mri.simulate import simulate, undersample

    target = Path(folder) / NAME
    if target.exists() and not force:
        if _is_simulated(target):
            return target
        raise OutputExists(f"{target} exists and is not the demo scan: choose another folder or give --force")
    check_target(target, force)
    scan = simulate(_brain(), coils=8, snr_db=20, seed=SEED, fov=FIELD_OF_VIEW)
    mask = fastmri_mask(scan.matrix[0], 4, kind="equispaced_fraction", seed=NAME)
    fastmri.write_scan(undersample(scan, mask), target, force=force)
    return target


def registry(file: str | os.PathLike[str] | None = None) -> dict[str, dict[str, str]]:
    """The data sets that `download` knows, by name: url, file, sha256, licence, what, format.

    `file`: another list, in the form of data/registry.toml.
    """
    found = _toml(Path(file) if file else _registry_file())
    for name, entry in found.items():
        missing = [key for key in ("url", "file", "licence", "what") if not isinstance(entry, Mapping) or not entry.get(key)]
        if missing:
            raise BadInput(f"registry entry {name!r} lacks {', '.join(missing)}")
    return found


def download(
    name: str,
    folder: str | os.PathLike[str],
    *,
    checksum: str | None = None,
    offline: bool = False,
    registry_file: str | os.PathLike[str] | None = None,
) -> Path:
    """The path of a public data set in `folder`, downloaded unless it is there already; its sha256 is always checked.

    `checksum`: the sha256 to expect; needed for entries of the registry that have none. `offline`: only look in `folder`.
    Raises `BadInput` for unknown names, missing or wrong checksums, `MedreconError` when the server cannot be reached.
    """
    known = registry(registry_file)
    if name not in known:
        raise BadInput(f"data set {name!r} is not in the registry{nearest(name, list(known))}: it has {', '.join(known) or 'none'}")
    entry = known[name]
    expected = (checksum or entry.get("sha256", "")).lower().removeprefix("sha256:")
    if not expected:
        raise BadInput(
            f"data set {name!r}: its sha256 is not known, so a download could not be checked: fetch {entry['url']} yourself, "
            "or give the sum that its publisher states"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise BadInput(f"data set {name!r}: {expected!r} is no sha256 (64 hexadecimal digits)")
    if not re.match(r"https?://", entry["url"]):
        raise BadInput(f"data set {name!r}: {entry['url']} is neither http nor https")
    target = Path(folder) / Path(entry["file"]).name
    if target.is_file() and sha256(target) == expected:
        return target
    if offline:
        raise MedreconError(f"data set {name!r} is not in {folder} and downloads are off: run once without --offline")
    if target.exists():
        raise OutputExists(f"{target} exists with another checksum: remove it, or choose another folder")
    return _fetched(entry["url"], target, expected)


def _is_simulated(path: Path) -> bool:
    from medrecon.io import fastmri
    from medrecon.physics.mri.scan import MRIScan

    try:
        found = fastmri.read(path)
    except MedreconError:
        return False
    return isinstance(found, MRIScan) and found.simulated


def _brain() -> Volume:
    """Slices of the template, at their places."""
    from medrecon.io import nifti

    template = nifti.read(_template())
    nz, ny, nx = template.grid.shape
    image = template.image[SLICES].clone()
    affine = template.grid.crop((SLICES.start, 0, 0), (nz - SLICES.start, ny, nx)).affine.copy()
    affine[:3, 2] *= SLICES.step
    facts = {"PatientID": "MNI152", "SeriesDescription": "simulated from the MNI152 T1 template", "BodyPartExamined": "BRAIN"}
    return replace(template, image=image / image.max(), grid=Grid((len(image), ny, nx), affine), facts=facts)


def _template() -> Path:
    """The template inside the installed package, which is not imported: it would load much of the scientific stack."""
    spec = find_spec("nilearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / TEMPLATE
        if file.is_file():
            return file
    if spec:
        raise BadInput(f"the installed nilearn has no {TEMPLATE}: install another version (0.10 to 0.14 have it)")
    raise MissingExtra("the demo brain comes with the package nilearn: pip install 'medrecon[demo]'")


def _registry_file() -> Path:
    """data/registry.toml of the repository, or where an installed package keeps it."""
    places = (Path(__file__).resolve().parents[2] / "data", Path(sys.prefix) / "share" / "medrecon")
    for place in places:
        if (place / "registry.toml").is_file():
            return place / "registry.toml"
    raise MedreconError(f"registry.toml is in none of {', '.join(map(str, places))}: the installation is not complete")


def _toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib as toml
    except ModuleNotFoundError:  # Python 3.10
        import tomli as toml  # type: ignore[no-redef]
    try:
        with path.open("rb") as file:
            return toml.load(file)
    except (OSError, toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a registry ({error})") from error


def _fetched(url: str, target: Path, expected: str) -> Path:
    import pooch
    import requests

    check_target(target)
    try:
        pooch.retrieve(
            url,
            f"sha256:{expected}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(progressbar=False, timeout=TIMEOUT),
        )
    except requests.exceptions.HTTPError as error:
        raise MedreconError(f"{url}: the server refused ({error}): look for the data set's new address") from error
    except (requests.exceptions.RequestException, ConnectionError, TimeoutError) as error:
        raise MedreconError(
            f"{url}: cannot be reached ({type(error).__name__}): check the network, or copy the file to {target} from elsewhere"
        ) from error
    except ValueError as error:
        raise BadInput(f"{url}: the file that came has another sha256 than {expected}: not kept; it was changed or damaged") from error
    return target
