"""Random patches of training images, varied as their modality allows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.study.images import ImageSet
from medrecon.study.modalities import Modality

Array = NDArray[Any]


class Patches:
    """Random patches as channel batches; for `complex` priors with a smooth phase.

    Magnitude images have no phase; a random global, linear and quadratic one is put on 85 % of the patches, 15 % stay
    real. Near-empty patches are redrawn, else air would dominate the loss.
    """

    def __init__(self, images: ImageSet, size: int, batch: int, field: str) -> None:
        self.images, self.size, self.batch, self.field = images, size, batch, field
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        self.y, self.x = np.meshgrid(axis, axis, indexing="ij")

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """(batch, 2 or 1, size, size) float32."""
        channels = 2 if self.field == "complex" else 1
        out = np.zeros((self.batch, channels, self.size, self.size), np.float32)
        for i in range(self.batch):
            patch = self._patch(rng)
            if self.field == "complex" and rng.random() > 0.15:
                phase = self._phase(rng)
                out[i, 0], out[i, 1] = patch * np.cos(phase), patch * np.sin(phase)
            else:
                out[i, 0] = patch
        return torch.from_numpy(out)

    def _patch(self, rng: np.random.Generator) -> Array:
        n = self.size
        for _ in range(4):
            chosen = int(rng.integers(len(self.images)))
            image, kind = self.images.images[chosen], self.images.kind(chosen)
            y, x = (int(rng.integers(max(1, m - n + 1))) for m in image.shape)
            patch = image[y : y + n, x : x + n].astype(np.float32).clip(0, kind.ceiling)
            if patch.std() > kind.least:
                break
        short = [(0, n - m) for m in patch.shape]
        if any(after for _, after in short):
            patch = np.pad(patch, short, mode="symmetric")
        return _varied(patch, kind, rng)

    def _phase(self, rng: np.random.Generator) -> Array:
        c = rng.normal(size=5) * (1.2, 1.2, 0.8, 0.8, 0.8)
        y, x = self.y, self.x
        return rng.uniform(-math.pi, math.pi) + c[0] * y + c[1] * x + c[2] * y * x + c[3] * y * y + c[4] * x * x


def _varied(patch: Array, kind: Modality, rng: np.random.Generator) -> Array:
    """The patch as another patient, position or setting of the scanner would have shown it."""
    if kind.turned and rng.random() < 0.5:
        patch = patch[::-1]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if kind.turned and rng.random() < 0.5:
        patch = patch.T
    if kind.gain is not None:
        patch = patch * rng.uniform(*kind.gain)
    if kind.shift is not None:
        patch = (patch + rng.uniform(*kind.shift)).clip(0, kind.ceiling)
    return patch
