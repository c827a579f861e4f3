"""Curves known at some points, r^2(sigma) above all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput


class ErrorCurve:
    """The mean squared error at noise level sigma, from pairs (sigma, r^2), interpolated in log-log.

    Beyond its ends it falls like sigma^2 below, like the noise variance itself, and keeps the last value above.
    """

    def __init__(self, pairs: Sequence[Sequence[float]]) -> None:
        curve = torch.tensor(sorted(map(tuple, pairs)), dtype=torch.float64)
        if curve.ndim != 2 or curve.shape[1] != 2 or len(curve) < 2 or not bool(((curve > 0) & curve.isfinite()).all()):
            raise BadInput("error curve: expected at least two pairs (sigma, mean squared error), all positive")
        if not bool((curve[1:, 0] > curve[:-1, 0]).all()):
            raise BadInput("error curve: the same sigma twice")
        self.knots, self.values = curve[:, 0].log(), curve[:, 1].log()

    def __call__(self, sigma: Tensor) -> Tensor:
        """Like sigma in shape, dtype and device."""
        sigma = torch.as_tensor(sigma, dtype=None if isinstance(sigma, Tensor) else torch.float64)
        at = sigma.detach().to("cpu", torch.float64).log()
        below = 2 * (at - self.knots[0]).clamp(max=0)
        return (interpolated(at, self.knots, self.values) + below).exp().to(sigma)


def interpolated(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """The straight lines through (knots, values), knots rising, at any places; beyond the ends the last value holds."""
    right = torch.searchsorted(knots, at.contiguous()).clamp(1, len(knots) - 1)
    t = ((at - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], t)
