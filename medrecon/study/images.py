"""Training images from files: npz archives, DICOM, NIfTI, PNG, fastMRI targets."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.files import check_readable
from medrecon.study.modalities import MODALITIES, Modality, kind_of
from medrecon.volume import Volume

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageSet:
    """Images (y, x) in their prior's units (float16), the subject of each and the name of its modality."""

    images: list[Array]
    subjects: list[str]
    kinds: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def kind(self, index: int) -> Modality:
        """The modality of one image."""
        return MODALITIES[self.kinds[index]]

    def clipped(self, index: int) -> Array:
        """One image (y, x), float32, within what patches of its modality show."""
        clipped: Array = self.images[index].astype(np.float32).clip(0, self.kind(index).ceiling)
        return clipped

    @property
    def digest(self) -> str:
        """A text that changes with any image or name of a subject."""
        found = hashlib.sha256()
        for image, subject in zip(self.images, self.subjects, strict=True):
            found.update(f"{subject} {image.shape}".encode())
            found.update(np.ascontiguousarray(image).data)
        return found.hexdigest()

    def without(self, subjects: Iterable[str]) -> ImageSet:
        """The set less the named subjects; a name ending in * drops every subject that begins so."""
        return self._where(subjects, keep=False)

    def only(self, subjects: Iterable[str]) -> ImageSet:
        """Just the named subjects."""
        return self._where(subjects, keep=True)

    def _where(self, names: Iterable[str], keep: bool) -> ImageSet:
        patterns = list(names)
        for pattern in patterns:
            if not any(_named(s, pattern) for s in self.subjects):
                known = sorted(set(self.subjects))
                shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
                raise BadInput(f"no subject {pattern!r} in the training data: there are {shown}{nearest(pattern, known)}")
        return self.chosen([i for i, s in enumerate(self.subjects) if any(_named(s, p) for p in patterns) == keep])

    def chosen(self, indices: Iterable[int]) -> ImageSet:
        """The images at the indices."""
        places = list(indices)
        return ImageSet([self.images[i] for i in places], [self.subjects[i] for i in places], [self.kinds[i] for i in places])


def _named(subject: str, pattern: str) -> bool:
    return subject.startswith(pattern[:-1]) if pattern.endswith("*") else subject == pattern


def read_images(paths: Sequence[Path], modality: str = "mr") -> ImageSet:
    """All images under the given files and folders, in the units of the modality.

    npz archives hold `images` (n, y, x), optionally `subject` (n,); everything else goes through `medrecon.read`, PNG through
    its grey levels. One volume, DICOM folder or archive entry `subject` is one subject; volumes of one patient (DICOM's
    PatientID, the `sub-...` of BIDS names) are one. Slices without content are left out.
    """
    images: list[Array] = []
    subjects: list[str] = []
    kinds: list[str] = []
    names: dict[str, str] = {}
    for path in paths:
        for part in _parts(Path(path)):
            name = names.setdefault(part.patient, part.name) if part.patient else part.name
            for image in part.slices:
                kind = kind_of(modality, image, part.source)
                try:
                    scaled = kind.scaled(image)
                except BadInput as error:
                    raise BadInput(f"{path}: an image of subject {name!r} cannot be trained on as {kind.name}: {error}") from error
                if scaled is not None:
                    images.append(scaled)
                    subjects.append(name)
                    kinds.append(kind.name)
    if not images:
        raise BadInput(f"no image found in {', '.join(map(str, paths))}: give npz archives, DICOM, NIfTI or PNG files or folders of them")
    return ImageSet(images, subjects, kinds)


@dataclass(frozen=True)
class _Part:
    """Slices (n, y, x) that belong together; `source` is DICOM's Modality or "", `patient` what tells patients apart or ""."""

    name: str
    slices: Array
    source: str = ""
    patient: str = ""


def _parts(path: Path) -> Iterable[_Part]:
    from medrecon.io import read
    from medrecon.io.dicom_read import recognises
    from medrecon.io.fastmri_target import read_target

    check_readable(path)
    if path.is_dir() and not any(file.is_file() and recognises(file) for file in path.iterdir()):
        for entry in sorted(p for p in path.iterdir() if not p.name.startswith(".")):
            yield from _parts(entry)
        return
    archive = _archive(path) if path.suffix == ".npz" else None
    if archive is not None:
        for image, name in zip(*archive, strict=True):
            yield _Part(str(name), image[None])
        return
    if path.suffix.lower() == ".png":
        yield _Part(path.stem, _grey(path)[None])
        return
    volume = read(path)
    name = path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    if not isinstance(volume, Volume):
        yield _Part(name, read_target(path).numpy(), "MR", _patient(getattr(volume, "study", {})))
        return
    slices = volume.magnitude.image.numpy().reshape(-1, *volume.grid.shape[-2:])
    bids = name.partition("_")[0] if name.startswith("sub-") else ""
    told = "CT" if volume.units == "HU" else volume.modality if volume.facts else ""
    yield _Part(name, slices, told, _patient(volume.facts) or bids)


def _patient(facts: Mapping[str, Any]) -> str:
    """The patient's number, "" where it is left out or a placeholder that many patients share."""
    number = str(facts.get("PatientID", "")).strip()
    return "" if number.lower().startswith(("anon", "unknown", "none", "no name")) or not number.strip("0") else number


def _grey(path: Path) -> Array:
    """The grey levels of a picture (y, x)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode in ("L", "I;16", "I") else picture.convert("L"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a readable PNG ({error})") from error


def _archive(path: Path) -> tuple[Array, Array] | None:
    """Images (n, y, x) and the subject of each; None for an archive without `images`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive:
                return None
            images = archive["images"]
            names = archive["subject"] if "subject" in archive else np.array([path.stem] * len(images))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path}: not a readable archive of images ({error})") from error
    if images.ndim != 3 or names.shape != images.shape[:1] or images.dtype.kind not in "uifc":
        raise BadInput(
            f"{path}: images {images.shape} of {images.dtype}, subjects {names.shape}: expected numbers (n, y, x) and one name each"
        )
    return images, names


def with_phase(image: Array, seed: int) -> Tensor:
    """A whole magnitude image as a complex one with a smooth seeded phase, complex64; for evaluation."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape), indexing="ij")
    c = rng.normal(size=5) * (2, 2, 1.5, 1.5, 1.5)
    phase = rng.uniform(-3, 3) + c[0] * y + c[1] * x + c[2] * x * y + c[3] * x * x + c[4] * y * y
    return torch.polar(torch.from_numpy(image.astype(np.float32)), torch.from_numpy(phase.astype(np.float32)))
