"""Bins of the detector that do not measure: dead, hot, stuck or noisy; found and interpolated.

Readings, or transmission, are (*batch, view, bin), or (*batch, view, row, bin) with `view_axis` = -3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput
from medrecon.tensors import ratio

AROUND = 9
"""Bins whose median stands for what a bin should read: up to four bad ones side by side do not matter."""

OFF = 0.5
"""Relative deviation of a reading that no gain error explains; for those see `rings`."""

OFTEN, TIMES = 0.15, 6.0
"""Share of the views in which a bin is off, and over that of the bins around, from which it is bad: quanta alone do that to all."""

MOST = 0.1
"""Share of bad bins beyond which something else is wrong."""


def bad_bins(readings: Tensor, *, view_axis: int = -2) -> Tensor:
    """True where a bin is bad, bool, shape of one view with an axis of length 1 for the views.

    Bad is what is off its neighbours by half, in most views or in many more than they are; does not change while they do; or
    is not finite. Before the logarithm. Raises `BadInput` where more than a tenth of a detector is bad.
    """
    x = readings.detach().movedim(view_axis, -2)
    finite = torch.isfinite(x)
    x = x.masked_fill(~finite, 0)
    deviation = _deviation(x)
    off = (deviation.abs() > OFF).to(torch.float32).mean(-2)
    # Both in most views and on average: of few quanta many readings are zero, but not their mean; one flash moves the mean alone.
    bad = (deviation.median(-2).values.abs() > OFF) & (_deviation(x.mean(-2)).abs() > OFF)
    bad = bad | ~finite.all(-2) | ((off > OFTEN) & (off > TIMES * _running_median(off)))
    still = x.amax(-2) == x.amin(-2)
    moving = F.pad(~still, (1, 1))
    bad = bad | (still & moving[..., :-2] & moving[..., 2:])
    share = float(bad.double().mean())
    if share > MOST:
        raise BadInput(
            f"{share:.0%} of the detector's bins look dead, hot or noisy: expected at most {MOST:.0%}; check flat and dark fields "
            "(--set repair=false leaves the bins as they are)"
        )
    return bad.unsqueeze(-2).movedim(-2, view_axis)


def interpolated(readings: Tensor, bad: Tensor) -> Tensor:
    """`readings` with the bad bins on a straight line between the good ones beside them, at the ends equal to the nearest.

    `bad` broadcasts against `readings`.
    """
    n = readings.shape[-1]
    if bool(bad.all(-1).any()):
        raise BadInput("no good bin in a row of the detector: nothing to interpolate from")
    index = torch.arange(n, device=readings.device).expand(bad.shape)
    before = index.masked_fill(bad, -1).cummax(-1).values
    after = index.masked_fill(bad, n).flip(-1).cummin(-1).values.flip(-1)
    first, last = torch.where(before < 0, after, before), torch.where(after >= n, before, after)
    fraction = ratio((index - first).to(readings.dtype), (last - first).to(readings.dtype))
    left, right = (readings.gather(-1, i.expand(readings.shape)) for i in (first, last))
    return torch.where(bad, torch.lerp(left, right, fraction.expand(readings.shape)), readings)


def _deviation(x: Tensor) -> Tensor:
    """From the bins around, relative; 0 where they read nothing."""
    around = _running_median(x)
    return ratio(x - around, around)


def _running_median(x: Tensor) -> Tensor:
    """Of `AROUND` bins, mirrored at the ends."""
    half = min(AROUND // 2, x.shape[-1] - 1)
    padded = F.pad(x.reshape(-1, 1, x.shape[-1]), (half, half), mode="reflect").reshape(*x.shape[:-1], -1)
    return padded.unfold(-1, 2 * half + 1, 1).median(-1).values
