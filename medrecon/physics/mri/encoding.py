"""How Cartesian k-space of a whole scan becomes independent 2-D problems, and how their images come back together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.linop.fourier import fft, ifft
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.survey import read_slices
from medrecon.tensors import fastmri_crop
from medrecon.volume import Grid


def item_bytes(image: tuple[int, ...], n_coils: int, copies: int, combine: str = "maps") -> int:
    """Memory that one 2-D problem takes: raw and prepared data, maps in three forms, calibration, and for every copy its coil
    images and a few images. Where coils are not combined by maps every coil is a problem of its own.
    """
    solved = copies * (5 * n_coils // 2 + 14) if combine == "maps" else copies * n_coils * 14
    return 8 * math.prod(image[-2:]) * (7 * n_coils + solved)


@dataclass(frozen=True)
class Batch:
    """Items start..stop: `data` (item, coil, *2-D problem), `sampling` the mask of all, or (item, ...) where they differ."""

    start: int
    stop: int
    data: Tensor
    sampling: Tensor


@dataclass(frozen=True)
class Encoding:
    """The readout, where fully sampled, is transformed back and cropped once: its columns are independent.

    2-D scans: items are slices, problems (y, x). 3-D scans: items are readout positions, problems (z, y). `mask` of
    true rank; `hybrid`: the readout is complete; `start`, `width`: the columns kept, as fastMRI cuts them.
    """

    scan: MRIScan
    mask: Tensor
    hybrid: bool
    start: int
    width: int

    @classmethod
    def of(cls, scan: MRIScan, mask: Tensor) -> Encoding:
        """The encoding of a scan; `NotSupported` for 3-D k-space with gaps along the readout."""
        hybrid = mask.shape[-1] == 1
        nx = scan.matrix[-1]
        # Columns decouple when the readout is complete, so cropping first gives the same columns at half the cost.
        width = min(scan.crop[1], nx) if scan.crop is not None and hybrid else nx
        if scan.image_axes == 3 and not hybrid:
            raise NotSupported("3-D k-space with a mask that varies along the readout: reconstruct it with medrecon.solve and a 3-D prior")
        if scan.image_axes == 3 and scan.n_slices != 1:
            raise NotSupported(f"{scan.n_slices} volumes in one scan: pick one (--slices 0:1)")
        return cls(scan, mask, hybrid, (nx - width) // 2, width)

    @property
    def volumetric(self) -> bool:
        """3-D k-space."""
        return self.scan.image_axes == 3

    @property
    def n_items(self) -> int:
        """How many 2-D problems."""
        return self.width if self.volumetric else self.scan.n_slices

    @property
    def image(self) -> tuple[int, int]:
        """Matrix of one 2-D problem."""
        matrix = self.scan.matrix
        return (matrix[0], matrix[1]) if self.volumetric else (matrix[0], self.width)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of a 2-D problem that are still in k-space."""
        return (-2, -1) if self.volumetric or not self.hybrid else (-2,)

    def batches(self, length: int, nan: str, device: torch.device) -> Iterator[Batch]:
        """The data in hybrid space, oversampling removed, `length` items at a time."""
        if self.volumetric:
            kspace, lost = read_slices(self.scan, self.mask, 0, 1, nan)
            mask = self.mask if lost is None else self.mask & ~lost[0]
            whole = self.columns(kspace)[0].movedim(-1, 0)
            for start in range(0, self.width, length):
                stop = min(self.width, start + length)
                yield Batch(start, stop, whole[start:stop].to(device), mask[..., 0].to(device))
            return
        for start in range(0, self.scan.n_slices, length):
            stop = min(self.scan.n_slices, start + length)
            kspace, lost = read_slices(self.scan, self.mask, start, stop, nan)
            mask = self.mask if lost is None else self.mask & ~lost
            kspace = kspace.to(device)
            yield Batch(start, stop, self.columns(kspace) if self.hybrid else kspace, mask.to(device))

    def columns(self, kspace: Tensor) -> Tensor:
        """k-space with a complete readout of the encoded length to the readout columns that are kept."""
        return ifft(kspace, (-1,))[..., self.start : self.start + self.width]

    def calibration(self, data: Tensor) -> Tensor:
        """k-space again of hybrid data: (item, coil, y, x)."""
        return data if self.axes == (-2, -1) else fft(data, (-1,))

    def crop(self, image: Tensor) -> Tensor:
        """The shown part of the solved images (..., y, x) or (..., z, y), as fastMRI cuts it."""
        if self.scan.crop is None:
            return image
        rows, columns = image.shape[-2:]
        shown_y, shown_x = self.scan.crop
        return fastmri_crop(image, (rows, min(shown_y, columns)) if self.volumetric else (min(shown_y, rows), min(shown_x, columns)))

    def arrange(self, image: Tensor) -> Tensor:
        """Items stacked at axis -3 to (..., z, y, x)."""
        return image.movedim(-3, -1) if self.volumetric else image

    def grid(self, start: int, stop: int) -> Grid:
        """Where the voxels of items start..stop are."""
        nz, ny, nx = self.scan.grid.shape
        if self.volumetric:
            return self.scan.grid.crop((0, 0, start), (nz, ny, stop - start))
        return self.scan.grid.crop((start, 0, 0), (stop - start, ny, nx))
