"""Whether the object leaves the field of view."""

from __future__ import annotations

from torch import Tensor

from medrecon.tensors import quantile

CUT = 0.05
"""Line integrals at the ends of a view, over the largest ones, above which the object is cut."""

END = 0.02
"""Share of the bins, at least three, that are an end."""


def truncated(line_integrals: Tensor, *, level: float = CUT) -> Tensor:
    """Which views (all axes but the bins', bool) have an object at an end of the detector: their mean there is above `level` times
    the largest line integrals (the 99th percentile of all). The image of such data has a bright rim and wrong values everywhere."""
    n = line_integrals.shape[-1]
    width = min(n, max(3, round(END * n)))
    largest = quantile(line_integrals, 0.99)
    ends = line_integrals[..., :width].mean(-1).maximum(line_integrals[..., n - width :].mean(-1))
    return ends > level * largest.clamp_min(0)
