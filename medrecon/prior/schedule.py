"""Decreasing noise levels, float64 on the CPU, ending in 0."""

from __future__ import annotations

import torch
from torch import Tensor


def edm_levels(steps: int, high: float, low: float, rho: float = 7.0) -> Tensor:
    """`steps` levels from `high` to `low`, evenly spaced in sigma^(1/rho), then 0 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def vp_levels(steps: int, high: float, low: float) -> Tensor:
    """`steps` levels of the DDPM schedule (1000 times, beta 1e-4 to 0.02) evenly skipped, those within high..low, then 0.

    The levels are thinned after clipping, so that `steps` evaluations are always made.
    """
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    survival = torch.cumprod(1 - beta, 0)
    sigma = ((1 - survival) / survival).sqrt()
    inside = sigma[(sigma <= high) & (sigma >= low)]
    index = torch.linspace(len(inside) - 1, 0, steps, dtype=torch.float64).round().long()
    return torch.cat([inside[index], inside.new_zeros(1)])
