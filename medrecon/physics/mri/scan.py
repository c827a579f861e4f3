"""MRIScan: Cartesian multi-coil k-space with its geometry; `problems` whitens, calibrates, scales and streams it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medrecon.physics.scan import Expert, Problem, Scan, SliceArray, SlicePart, bounds


@dataclass(frozen=True)
class NoiseScan:
    """Samples of a noise-only acquisition, (coil, n) complex, and how its variance relates to the image's.

    `bandwidth_ratio` multiplies the noise covariance: (dwell_noise / dwell_image) / receiver_noise_bandwidth.
    """

    samples: Tensor
    bandwidth_ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MRIScan(Scan):
    """Cartesian k-space (slice, coil, y, x) or, with `image_axes` 3, (volume, coil, z, y, x), complex64; x is the readout.

    Unsampled entries are exactly zero. `mask`: which positions were sampled, bool with its true rank: (ny, 1) for
    undersampling along y alone, (ny, nx), (nz, ny, 1), ...; None: to be found from the zeros. `crop`: (ny, nx) of the
    reconstructed image, cut out of the encoded field of view as fastMRI does (oversampling removal included).
    `grid`: where the *cropped* voxels are. `calib`: k-space of a separate reference scan, (slice or 1, coil, y, x).
    """

    kspace: SliceArray
    mask: Tensor | None = None
    image_axes: int = 2
    crop: tuple[int, int] | None = None
    noise: NoiseScan | None = None
    calib: SliceArray | None = None

    @property
    def modality(self) -> str:
        return "mri"

    @property
    def n_slices(self) -> int:
        """Length of the first k-space axis."""
        return int(self.kspace.shape[0])

    @property
    def n_coils(self) -> int:
        """Length of the coil axis; a single-coil file has 1."""
        return int(self.kspace.shape[1])

    @property
    def matrix(self) -> tuple[int, ...]:
        """Encoded matrix, ([z,] y, x)."""
        return tuple(int(n) for n in self.kspace.shape[2:])

    def select(self, slices: slice) -> MRIScan:
        """The scan with a part of its slices (of its volumes, for 3-D k-space), in their place."""
        start, stop = bounds(slices, self.n_slices)
        kspace, calib = SlicePart(self.kspace, start, stop), self.calib
        if calib is not None and calib.shape[0] > 1:
            calib = SlicePart(calib, start, stop)
        _, ny, nx = self.grid.shape
        grid = self.grid if self.image_axes == 3 else self.grid.crop((start, 0, 0), (stop - start, ny, nx))
        return replace(self, kspace=kspace, calib=calib, grid=grid)

    @property
    def n_items(self) -> int:
        """Slices; readout positions of 3-D k-space."""
        return self.grid.shape[2] if self.image_axes == 3 else self.grid.shape[0]

    def settings(self) -> list[str]:
        from medrecon.physics.mri.prepare import Preparation

        return Preparation.named()

    def suited(self, prior: Expert) -> dict[str, Any]:
        return {"kappa": prior.scale}

    def item_bytes(self, domain: tuple[int, ...], copies: int, settings: Mapping[str, Any]) -> int:
        from medrecon.physics.mri.encoding import item_bytes

        return item_bytes(domain, self.n_coils, copies, settings.get("combine", "maps"))

    def probe(self, settings: Mapping[str, Any]) -> tuple[MRIScan, dict[str, Any]]:
        """With the part of maps and reference scans that belongs to its slice, where they have one entry for each."""
        one = slice(self.n_slices // 2, self.n_slices // 2 + 1)
        axes = {"maps": self.image_axes + 2 + int(settings.get("sets", 1) > 1), "calib": 4}
        given = {key: settings[key] for key in axes if settings.get(key) is not None}
        cut = {key: array[one] for key, array in given.items() if len(array.shape) == axes[key] and array.shape[0] > 1}
        return self.select(one), {**settings, **cut}

    def problems(self, budget: int | None = None, device: torch.device | str = "cpu", **settings: Any) -> Iterator[Problem]:
        """See `medrecon.physics.mri.prepare.Preparation` for the settings."""
        from medrecon.physics.mri.prepare import prepared

        return prepared(self, budget, torch.device(device), **settings)

    def describe(self) -> dict[str, Any]:
        from medrecon.physics.mri.prepare import description

        return description(self)
