"""Decreasing noise levels, float64 on the CPU, ending in 0: `steps` of them from `high` to `low`, then 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.errors import BadInput

COSINE_OFFSET = 0.008
"""Keeps the first steps of the cosine schedule from being too small."""
VE_RANGE = (0.01, 378.0)
"""Noise levels of the published variance-exploding priors for MRI."""


def edm_levels(steps: int, high: float, low: float, rho: float = 7.0) -> Tensor:
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""
    return _ended((high ** (1 / rho) + _ramp(steps) * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def coarse_levels(steps: int, high: float, low: float) -> Tensor:
    """`edm_levels` that end a hundredth of the first level, where decoupled annealing does as published (arXiv:2407.01521)."""
    return edm_levels(steps, high, max(low, high / 100))


def log_levels(steps: int, high: float, low: float) -> Tensor:
    """Evenly spaced in ln sigma, as annealed Langevin dynamics goes (Song and Ermon 2019, arXiv:1907.05600)."""
    return _ended(_between(_level(high).log(), _level(low).log(), steps).exp())


def ve_levels(steps: int, high: float, low: float) -> Tensor:
    """Evenly spaced in ln sigma within 0.01 to 378, the variance-exploding schedule of Score-MRI (arXiv:2110.05243).

    Raises `BadInput` where nothing of it lies within high..low.
    """
    smallest, largest = VE_RANGE
    if high < smallest or low > largest:
        raise BadInput(f"the variance-exploding schedule has no noise level between {low:.3g} and {high:.3g}: it goes from 0.01 to 378")
    return log_levels(steps, min(high, largest), max(low, smallest))


def vp_levels(steps: int, high: float, low: float) -> Tensor:
    """Evenly spaced in the times of the DDPM schedule (1000 times, beta 1e-4 to 0.02) whose levels lie within high..low.

    The times are spread after clipping, so that `steps` evaluations are always made; ln sigma is linear between whole times.
    Raises `BadInput` where the schedule (0.01 to 157.4) has no level within high..low.
    """
    return _ddpm(_ramp(steps), high, low)


def quad_levels(steps: int, high: float, low: float) -> Tensor:
    """The DDPM schedule with the square root of evenly spaced times, dense at low noise (DiffPIR, arXiv:2305.08995)."""
    return _ddpm(_ramp(steps).sqrt(), high, low)


def cosine_levels(steps: int, high: float, low: float) -> Tensor:
    """Evenly spaced in the time of the cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
    return _ended(cosine_sigma(_between(cosine_time(_level(high)), cosine_time(_level(low)), steps)))


def flow_levels(steps: int, high: float, low: float, shift: float = 1.0) -> Tensor:
    """Evenly spaced in the time t = sigma / (1 + sigma) of a rectified flow (Liu et al. 2022, arXiv:2209.03003).

    `shift` k spends more steps on high noise: t -> k t / (1 + (k - 1) t), which multiplies sigma by k (Esser et al. 2024,
    arXiv:2403.03206, eq. 23).
    """
    return _ended(shift * flow_sigma(_between(flow_time(_level(high) / shift), flow_time(_level(low) / shift), steps)))


def cosine_sigma(time: Tensor) -> Tensor:
    """sigma = sqrt((1 - a) / a), a = cos^2(pi/2 (t + .008) / 1.008) / (its value at 0); t from 0 to 1."""
    first = math.cos(math.pi / 2 * COSINE_OFFSET / (1 + COSINE_OFFSET))
    ratio = first / torch.cos(math.pi / 2 * (time + COSINE_OFFSET) / (1 + COSINE_OFFSET))
    return (ratio**2 - 1).clamp_min(0).sqrt()


def cosine_time(sigma: Tensor) -> Tensor:
    """The inverse of `cosine_sigma`."""
    first = math.cos(math.pi / 2 * COSINE_OFFSET / (1 + COSINE_OFFSET))
    return torch.acos(first / (1 + sigma**2).sqrt()) * (2 / math.pi) * (1 + COSINE_OFFSET) - COSINE_OFFSET


def flow_sigma(time: Tensor) -> Tensor:
    """sigma = t / (1 - t): x_t = (1 - t) (x + sigma e)."""
    return time / (1 - time)


def flow_time(sigma: Tensor) -> Tensor:
    """The inverse of `flow_sigma`."""
    return sigma / (1 + sigma)


def _ramp(steps: int) -> Tensor:
    """0 to 1 in `steps` numbers; one step is 0, the highest level."""
    return torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)


def _between(first: Tensor, last: Tensor, steps: int) -> Tensor:
    return first + (last - first) * _ramp(steps)


def _level(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def _ended(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def _ddpm(shares: Tensor, high: float, low: float) -> Tensor:
    """Levels at the `shares` (0 to 1) of the times from high to low, then 0."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    survival = torch.cumprod(1 - beta, 0)
    log = ((1 - survival) / survival).log() / 2
    inside = log[(log <= math.log(high)) & (log >= math.log(low))]
    if len(inside) == 0:
        raise BadInput(f"the DDPM schedule has no noise level between {low:.3g} and {high:.3g}: it goes from 0.01 to 157.4")
    time = (len(inside) - 1) * (1 - shares)
    below = time.floor().long()
    above = (below + 1).clamp(max=len(inside) - 1)
    return _ended(torch.lerp(inside[below], inside[above], time - below).exp())
