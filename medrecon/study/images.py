"""Training images from files: npz archives, DICOM, NIfTI, fastMRI targets; patches with the augmentation of the field."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.files import check_readable

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageSet:
    """Magnitude images (y, x), each scaled so that its 99.5th percentile is 1 (float16), and the subject of each."""

    images: list[Array]
    subjects: list[str]

    def __len__(self) -> int:
        return len(self.images)

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
        chosen = [i for i, s in enumerate(self.subjects) if any(_named(s, p) for p in patterns) == keep]
        return ImageSet([self.images[i] for i in chosen], [self.subjects[i] for i in chosen])


def _named(subject: str, pattern: str) -> bool:
    return subject.startswith(pattern[:-1]) if pattern.endswith("*") else subject == pattern


def read_images(paths: Sequence[Path]) -> ImageSet:
    """All images under the given files and folders. One volume, DICOM folder or archive entry `subject` is one subject.

    npz archives hold `images` (n, y, x), optionally `subject` (n,). Everything else goes through `medrecon.read`.
    Slices whose 99.5th percentile is zero are left out.
    """
    images: list[Array] = []
    subjects: list[str] = []
    for path in paths:
        for name, slices in _slices(Path(path)):
            for image in slices:
                level = float(np.quantile(image, 0.995))
                if not math.isfinite(level):
                    raise BadInput(f"{path}: an image of subject {name!r} holds NaN or infinity: mend it or leave the file out")
                if level > 0:
                    images.append((image / level).clip(0, 4).astype(np.float16))
                    subjects.append(name)
    if not images:
        raise BadInput(f"no image found in {', '.join(map(str, paths))}: give npz archives, DICOM or NIfTI files or folders of them")
    return ImageSet(images, subjects)


def _slices(path: Path) -> Iterable[tuple[str, Array]]:
    from medrecon.io import read
    from medrecon.io.dicom_read import recognises

    check_readable(path)
    if path.is_dir() and not any(file.is_file() and recognises(file) for file in path.iterdir()):
        for entry in sorted(p for p in path.iterdir() if not p.name.startswith(".")):
            yield from _slices(entry)
        return
    archive = _archive(path) if path.suffix == ".npz" else None
    if archive is not None:
        for image, name in zip(*archive, strict=True):
            yield str(name), np.abs(image[None]).astype(np.float32)
        return
    volume = read(path)
    image = getattr(volume, "magnitude", None)
    if image is None:
        raise BadInput(f"{path}: raw data; training takes images: reconstruct them first")
    yield (
        path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0] or path.name,
        np.abs(image.numpy().reshape(-1, *volume.grid.shape[-2:])).astype(np.float32),
    )


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


class Patches:
    """Random patches as channel batches: flips, transposes, gain U(0.5, 1.15) and, for `complex` priors, a smooth phase.

    Magnitude images have no phase; a random global, linear and quadratic one is put on 85 % of the patches, 15 % stay
    real. Near-empty patches are redrawn, else air would dominate the loss.
    """

    def __init__(self, images: Sequence[Array], size: int, batch: int, field: str) -> None:
        self.images, self.size, self.batch, self.field = images, size, batch, field
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        self.y, self.x = np.meshgrid(axis, axis, indexing="ij")

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """(batch, 2 or 1, size, size) float32."""
        channels = 2 if self.field == "complex" else 1
        out = np.zeros((self.batch, channels, self.size, self.size), np.float32)
        for i in range(self.batch):
            patch = self._patch(rng) * rng.uniform(0.5, 1.15)
            if self.field == "complex" and rng.random() > 0.15:
                phase = self._phase(rng)
                out[i, 0], out[i, 1] = patch * np.cos(phase), patch * np.sin(phase)
            else:
                out[i, 0] = patch
        return torch.from_numpy(out)

    def _patch(self, rng: np.random.Generator) -> Array:
        n = self.size
        for _ in range(4):
            image = self.images[int(rng.integers(len(self.images)))]
            y, x = (int(rng.integers(max(1, m - n + 1))) for m in image.shape)
            patch = image[y : y + n, x : x + n].astype(np.float32).clip(0, 1.2)
            if patch.std() > 0.03:
                break
        short = [(0, n - m) for m in patch.shape]
        if any(after for _, after in short):
            patch = np.pad(patch, short, mode="symmetric")
        if rng.random() < 0.5:
            patch = patch[::-1]
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        return patch.T if rng.random() < 0.5 else patch

    def _phase(self, rng: np.random.Generator) -> Array:
        c = rng.normal(size=5) * (1.2, 1.2, 0.8, 0.8, 0.8)
        y, x = self.y, self.x
        return rng.uniform(-math.pi, math.pi) + c[0] * y + c[1] * x + c[2] * y * x + c[3] * y * y + c[4] * x * x


def with_phase(image: Array, seed: int) -> Tensor:
    """A whole magnitude image as a complex one with a smooth seeded phase, complex64; for evaluation."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape), indexing="ij")
    c = rng.normal(size=5) * (2, 2, 1.5, 1.5, 1.5)
    phase = rng.uniform(-3, 3) + c[0] * y + c[1] * x + c[2] * x * y + c[3] * x * x + c[4] * y * y
    return torch.polar(torch.from_numpy(image.astype(np.float32)), torch.from_numpy(phase.astype(np.float32)))
