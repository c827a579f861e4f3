"""The fully sampled centre of k-space: how large it is, cut out, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.tensors import centre_crop

HELP = "use a separate reference scan (--set calib=FILE), ready coil maps (--set maps=FILE), or a method that needs no maps (rss)"


def calibration_size(mask: Tensor, limit: int | Sequence[int]) -> tuple[int, ...]:
    """Lengths of the largest centred fully sampled block of `mask`, one for each of its axes, at most `limit`.

    `mask`: bool ([nz,] ny, nx) or with axes of length 1 where sampling is complete, as in (ny, 1); such an axis gives
    `limit` (its true length is not in the mask). 0 where even the centre is missing.
    """
    limits = _per_axis(limit, mask.ndim)
    top = [most if n == 1 else min(most, n) for n, most in zip(mask.shape, limits, strict=True)]
    if not _complete(mask, [1] * mask.ndim):
        return (0,) * mask.ndim
    size = [1] * mask.ndim
    growing = [axis for axis in range(mask.ndim) if size[axis] < top[axis]]
    while growing:
        together = [n + (axis in growing) for axis, n in enumerate(size)]
        if _complete(mask, together):
            size = together
        else:  # no square grows any more: let each axis go as far as it can, the longest room first
            for axis in growing:
                while size[axis] < top[axis] and _complete(mask, [n + (a == axis) for a, n in enumerate(size)]):
                    size[axis] += 1
            break
        growing = [axis for axis in growing if size[axis] < top[axis]]
    return tuple(size)


def sampled_positions(kspace: Tensor, image_axes: int = 2) -> Tensor:
    """Bool ([nz,] ny, nx): where any coil of any batch item of (*batch, coil, [z,] y, x) is not exactly zero."""
    return (kspace.flatten(0, kspace.ndim - image_axes - 1) != 0).any(0)


def calibration_block(kspace: Tensor, calib: int | Sequence[int], *, smallest: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """The centred block of k-space (*batch, coil, [z,] y, x) that was really sampled, at most `calib` long per axis.

    `smallest`: the least length per axis, an axis of length 1 excepted; `mask` as in `calibration_size`, else (and
    in addition: padding may have zeroed lines that the mask lists) found from the zeros of the data.
    Raises `BadInput` with the measured size when the block is smaller.
    """
    axes = len(smallest)
    shape = tuple(kspace.shape[-axes:])
    limits = [min(most, n) for most, n in zip(_per_axis(calib, axes), shape, strict=True)]
    found = sampled_positions(centre_crop(kspace, limits), axes)
    if not bool(found.any()):
        raise BadInput(f"calibration: the centre of k-space {shape} holds no signal (all zeros): {HELP}")
    if mask is not None:
        found = found & centre_crop(mask.to(found.device).expand(shape), limits)
    size = calibration_size(found, limits)
    need = [min(least, n) if n > 1 else 1 for least, n in zip(smallest, shape, strict=True)]
    if any(n < least for n, least in zip(size, need, strict=True)):
        raise BadInput(
            f"calibration: the fully sampled centre of k-space {shape} measures {_times(size)} (axes {_names(axes)}), "
            f"expected at least {_times(need)}: {HELP}"
        )
    return centre_crop(kspace, size)


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or any(n < 1 for n in values):
        raise BadInput(f"calibration size {value}: expected one positive number, or one for each of the {axes} k-space axes")
    return values


def _complete(mask: Tensor, size: Sequence[int]) -> bool:
    # an axis of length 1 stands for a completely sampled one
    return bool(torch.all(centre_crop(mask, [min(n, m) for n, m in zip(size, mask.shape, strict=True)]) != 0))


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _names(axes: int) -> str:
    return ", ".join("zyx"[-axes:])
