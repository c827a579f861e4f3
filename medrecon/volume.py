"""Volume: an image with its place in the patient, its unit, its study facts and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Patient axes of DICOM and MRD to those of NIfTI; its own inverse."""


@dataclass(frozen=True)
class Grid:
    """Where voxels are: shape (z, y, x) and the affine from voxel (x, y, z) indices to RAS+ mm (voxel centres).

    `orientation` is "known" when the affine comes from the scanner, "unknown" when only the spacing is meant.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    orientation: str = "known"

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise BadInput(f"affine must be a finite 4 x 4 matrix, got shape {affine.shape}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise BadInput("affine is singular: the voxel axes do not span space; check spacing and orientation")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadInput(f"grid shape must be (z, y, x) of positive sizes, got {self.shape}")
        if self.orientation not in ("known", "unknown"):
            raise BadInput(f"orientation is 'known' or 'unknown', got {self.orientation!r}")
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def unplaced(cls, shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Grid:
        """A grid of `spacing` (z, y, x) mm about the origin whose orientation in the patient is unknown."""
        nz, ny, nx = shape
        dz, dy, dx = spacing
        affine = np.diag([dx, dy, dz, 1.0])
        affine[:3, 3] = [-(nx // 2) * dx, -(ny // 2) * dy, -(nz // 2) * dz]
        return cls((nz, ny, nx), affine, "unknown")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances between voxel centres along (z, y, x), mm."""
        dx, dy, dz = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(dz), float(dy), float(dx)

    @property
    def axis_codes(self) -> str:
        """Nearest patient directions of the x, y and z index axes, as 'RAS'; '???' when unknown."""
        if self.orientation == "unknown":
            return "???"
        codes = []
        for column in self.affine[:3, :3].T:
            axis = int(np.abs(column).argmax())
            codes.append(("LR", "PA", "IS")[axis][int(column[axis] > 0)])
        return "".join(codes)

    def crop(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of the block that begins at voxel `start` (z, y, x): same place in mm."""
        z, y, x = start
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [x, y, z, 1.0])[:3]
        nz, ny, nx = shape
        return replace(self, shape=(nz, ny, nx), affine=affine)


@dataclass(frozen=True)
class Volume:
    """An image (..., z, y, x) on a `Grid`.

    `units`: "HU", "arbitrary", "Hz", ... `facts`: patient, study and acquisition attributes by DICOM keyword
    (strings, numbers, lists; dropped by `anonymous`). `provenance`: inputs, method, settings, seed, versions.
    """

    image: Tensor
    grid: Grid
    units: str = "arbitrary"
    modality: str = "MR"
    facts: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.image.shape[-3:]) != self.grid.shape:
            raise BadInput(f"image has trailing shape {tuple(self.image.shape[-3:])}, its grid {self.grid.shape}")

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel (x, y, z) indices to RAS+ mm."""
        return self.grid.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x), mm."""
        return self.grid.spacing

    @property
    def orientation(self) -> str:
        """ "known" or "unknown"."""
        return self.grid.orientation

    @property
    def magnitude(self) -> Volume:
        """The same volume with |image|; a real image is returned as it is (CT has negative values)."""
        return replace(self, image=self.image.abs()) if self.image.is_complex() else self

    def numpy(self) -> NDArray[Any]:
        """The image as a numpy array (..., z, y, x)."""
        array: NDArray[Any] = self.image.detach().resolve_conj().cpu().numpy()
        return array

    def anonymous(self) -> Volume:
        """Without the patient, study and acquisition attributes."""
        return replace(self, facts={})

    def __repr__(self) -> str:
        spacing = " x ".join(f"{s:.3g}" for s in self.spacing)
        kind = str(self.image.dtype).removeprefix("torch.")
        return f"Volume({tuple(self.image.shape)} {kind}, {spacing} mm (z, y, x), {self.grid.axis_codes}, {self.units})"

    def show(self, window: tuple[float, float] | None = None) -> Any:
        """Three orthogonal planes through the middle, in mm proportions; returns the matplotlib figure."""
        import matplotlib.pyplot as plt

        image = self.magnitude.image.reshape(-1, *self.grid.shape)[0].float().cpu().numpy()
        z, y, x = (n // 2 for n in image.shape)
        dz, dy, dx = self.spacing
        planes = ((image[z], dy / dx, "y, x"), (image[:, y], dz / dx, "z, x"), (image[:, :, x], dz / dy, "z, y"))
        low, high = window or (float(min(image.min(), 0)), float(np.quantile(image, 0.998)))
        figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
        for axis, (plane, aspect, title) in zip(axes, planes, strict=True):
            axis.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=aspect)
            axis.set_title(title)
            axis.set_axis_off()
        return figure


def volume_of(image: Tensor | NDArray[Any], spacing: Sequence[float] = (1.0, 1.0, 1.0), **facts: Any) -> Volume:
    """A volume of unknown orientation from a plain array (z, y, x) or (y, x)."""
    tensor = torch.as_tensor(image)
    tensor = tensor if tensor.ndim >= 3 else tensor[None]
    return Volume(tensor, Grid.unplaced(tensor.shape[-3:], spacing), facts=facts)
