"""Decreasing noise levels, float64 on the CPU, ending in 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.errors import BadInput


def edm_levels(steps: int, high: float, low: float, rho: float = 7.0) -> Tensor:
    """`steps` levels from `high` to `low`, evenly spaced in sigma^(1/rho), then 0 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def vp_levels(steps: int, high: float, low: float) -> Tensor:
    """`steps` levels evenly spaced in the times of the DDPM schedule (1000 times, beta 1e-4 to 0.02), within high..low, then 0.

    The times are spread after clipping, so that `steps` evaluations are always made; ln sigma is linear between whole times.
    Raises `BadInput` where the schedule (0.01 to 157.4) has no level within high..low.
    """
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    survival = torch.cumprod(1 - beta, 0)
    log = ((1 - survival) / survival).log() / 2
    inside = log[(log <= math.log(high)) & (log >= math.log(low))]
    if len(inside) == 0:
        raise BadInput(f"the DDPM schedule has no noise level between {low:.3g} and {high:.3g}: it goes from 0.01 to 157.4")
    time = torch.linspace(len(inside) - 1, 0, steps, dtype=torch.float64)
    below = time.floor().long()
    above = (below + 1).clamp(max=len(inside) - 1)
    levels = torch.lerp(inside[below], inside[above], time - below).exp()
    return torch.cat([levels, levels.new_zeros(1)])
