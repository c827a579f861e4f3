"""Line integrals of ellipses along parallel rays, in bins: chord lengths, no geometry of the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PARTS = ((3, -5, 80, 60, 0.3, 0.02), (-25, 10, 15, 25, 1.0, 0.01), (30, -20, 10, 10, 0.0, -0.015), (5, 35, 8, 14, 2.0, 0.02))
"""x, y, half axes (bins), angle, attenuation (1/bin): off the axis, with a hole; line integrals up to 3.5."""


def ellipse_sinogram(angles: np.ndarray, centre: float, bins: int, per_bin: int = 8) -> Tensor:
    """(view, bin) float64, the mean over each bin; the axis of rotation projects to bin `centre`."""
    s = (np.arange(bins * per_bin) + 0.5) / per_bin - 0.5 - centre
    total = np.zeros((len(angles), bins * per_bin))
    t = np.asarray(angles)[:, None]
    for x, y, a, b, turn, mu in PARTS:
        square = (a * np.cos(t - turn)) ** 2 + (b * np.sin(t - turn)) ** 2
        distance = s - (x * np.cos(t) + y * np.sin(t))
        total += mu * 2 * a * b * np.sqrt(np.clip(square - distance**2, 0, None)) / square
    return torch.from_numpy(total.reshape(len(angles), bins, per_bin).mean(-1))
