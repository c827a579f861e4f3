"""Which k-space positions a file holds, found from its exact zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.scan import SliceArray

ACCIDENTAL = 0.005
"""Share of a complete block of lines that may be exactly zero by chance (integer converters, dead samples)."""


def mask_from_zeros(kspace: SliceArray, where: str, image_axes: int = 2) -> Tensor:
    """Bool mask of true rank of k-space (slice, coil, ([z,] y, x)): (ny, 1) or (nz, ny, 1) with whole readouts, else all axes.

    Looks at the first, middle and last slice that hold data. Raises `BadInput` when everything there is zero or the
    slices were sampled at different places.
    """
    n = int(kspace.shape[0])
    found: tuple[int, Tensor] | None = None
    for index in sorted({0, n // 2, n - 1}):
        mask = true_rank((kspace[index : index + 1] != 0).flatten(0, 1).any(0), image_axes)
        if not bool(mask.any()):
            continue
        if found is not None and (found[1].shape != mask.shape or not torch.equal(found[1], mask)):
            raise BadInput(
                f"{where}: slices {found[0]} and {index} are sampled at different places ({int(found[1].sum())} and {int(mask.sum())} "
                "positions of their masks): medrecon takes one mask for all slices; split the file"
            )
        found = (index, mask)
    if found is None:
        raise BadInput(f"{where}: k-space is zero in the first, middle and last of {n} slices: nothing was sampled")
    return found[1]


def true_rank(sampled: Tensor, image_axes: int = 2, accidental: float = ACCIDENTAL) -> Tensor:
    """A full-size bool mask ([nz,] ny, nx) with its readout axis of length 1 where whole readouts were sampled.

    Zeros inside complete lines, up to the share `accidental`, count as sampled.
    """
    lines = sampled.any(-1, keepdim=True)
    columns = sampled.flatten(0, image_axes - 2).any(0)
    block = lines & columns
    expected = int(block.sum())
    complete = expected - int(sampled.sum()) <= accidental * expected
    if not complete:
        return sampled
    return lines if bool(columns.all()) or expected == 0 else block
