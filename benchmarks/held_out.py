"""Images that a shipped prior was not trained on, and those that it was, from the archives and its own card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medrecon.prior.denoiser import Prior
from medrecon.prior.precondition import NetworkPrior
from medrecon.study.images import ImageSet, read_images, with_phase

ARCHIVES = {
    "mr": ("test_mr.npz", "train_mr.npz", "train_mr_more.npz"),
    "ct": ("test_ct.npz", "train_ct.npz", "train_ct_more.npz"),
    "ultrasound": ("test_us.npz", "train_us.npz", "train_us_more.npz"),
}
"""Of each modality, the test archive first."""
DOMAINS = {"brain": ("mr",), "mr": ("mr",), "ct": ("ct",), "ultrasound": ("ultrasound",), "generic": tuple(ARCHIVES)}
"""The modalities that a prior of this domain is for."""
NOT_BRAIN = ("SC-", "SCIheart", "TCGA-BC", "SCTneck")
"""How the names of subjects begin whose MR images show something else."""


@dataclass(frozen=True)
class Example:
    """A clean image (y, x) in the prior's units, complex where its field is. `group`: its modality, "test" or "left out"."""

    name: str
    group: str
    clean: Tensor


@dataclass(frozen=True)
class Slices:
    """The images of one archive in prior units."""

    modality: str
    archive: str
    images: ImageSet


def archives(folder: Path, domain: str) -> Iterator[Slices]:
    """Those of the domain that are in the folder."""
    for modality in DOMAINS[domain]:
        for archive in ARCHIVES[modality]:
            if (folder / archive).is_file():
                yield Slices(modality, archive, read_images([folder / archive], modality))


def in_domain(domain: str, subject: str) -> bool:
    """Whether the subject shows what the domain is about."""
    return domain != "brain" or not subject.startswith(NOT_BRAIN)


def listed(prior: Prior, *entries: str) -> set[str]:
    """The subjects that the card lists under these entries."""
    card = prior.card if isinstance(prior, NetworkPrior) else {}
    return {name.strip() for entry in entries for name in card.get(entry, "").split(" (")[0].split(",") if name.strip()}


def held_out(folder: Path, prior: Prior, count: int) -> Iterator[Example]:
    """`count` images of each group, evenly spread over all whose subject was neither trained nor validated on."""
    seen = listed(prior, "training subjects", "validation subjects")
    groups: dict[str, list[tuple[Slices, int]]] = {}
    for found in archives(folder, prior.domain_name):
        kind = "test" if found.archive.startswith("test") else "left out"
        for k, subject in enumerate(found.images.subjects):
            if subject not in seen and in_domain(prior.domain_name, subject):
                groups.setdefault(f"{found.modality}, {kind}", []).append((found, k))
    for group, places in groups.items():
        for i in np.unique(np.linspace(0, len(places) - 1, count).round().astype(int)):
            found, k = places[i]
            yield Example(f"{found.archive.removesuffix('.npz')}/{found.images.subjects[k]}/{k}", group, clean(prior, found.images, k))


def trained_on(folder: Path, prior: Prior) -> tuple[np.ndarray, list[str]]:
    """All images (n, y, x), float32, of the subjects that the card calls training subjects, and a name for each."""
    names, images = [], []
    seen = listed(prior, "training subjects")
    for found in archives(folder, prior.domain_name):
        for k, subject in enumerate(found.images.subjects):
            if subject in seen:
                names.append(f"{subject}/{k}")
                images.append(found.images.clipped(k))
    return (np.stack(images) if images else np.zeros((0, 1, 1), np.float32)), names


def clean(prior: Prior, images: ImageSet, index: int) -> Tensor:
    """One image as the prior takes it; magnitudes get a smooth phase of their own where it is complex."""
    image = images.clipped(index)
    return with_phase(image, index) if prior.field == "complex" else torch.from_numpy(image)
