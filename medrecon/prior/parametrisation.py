"""How networks of other packages see noise: x_t = a (x + sigma e), the time that they are told, and what they predict.

All of it is algebra on D = E[x | x + sigma e]; u = x + sigma e is what a Prior sees.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.curve import interpolated
from medrecon.prior.schedule import COSINE_OFFSET, flow_sigma, flow_time

Prediction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(output, u, sigma, a) -> D."""

PREDICTIONS: dict[str, Prediction] = {
    "clean": lambda output, u, sigma, a: output,
    "noise": lambda output, u, sigma, a: u - sigma * output,
    "score": lambda output, u, sigma, a: u + a * sigma**2 * output,
    "v": lambda output, u, sigma, a: (u - sigma / a * output) / (1 + sigma**2),
    "flow": lambda output, u, sigma, a: (u - sigma * output) / (1 + sigma),
    "velocity": lambda output, u, sigma, a: (u + sigma * output) / (1 + sigma),
}
"""What a network can predict: x, e, the score of x_t, v = a e - a sigma x (Salimans and Ho 2022, arXiv:2202.00512), e - x of a
rectified flow (arXiv:2209.03003), or x - e, the velocity of flow matching, whose time runs from noise to image."""


class Noising(ABC):
    """x_t = a (x + sigma e)."""

    @property
    @abstractmethod
    def sigma_range(self) -> tuple[float, float]:
        """The levels that a network of this kind has seen."""

    @abstractmethod
    def amplitude(self, sigma: Tensor) -> Tensor:
        """a."""

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """The t of x_t, by the convention of the papers named below; it grows with sigma."""


@dataclass(frozen=True)
class VarianceExploding(Noising):
    """a = 1, t = sigma: plain denoisers, EDM (0.002 to 80), the continuous score networks of Song et al. 2021 (arXiv:2011.13456)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self.sigma_range)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.low, self.high

    def amplitude(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma


class GeometricTime(VarianceExploding):
    """The same, told t from 0 to 1 of sigma = low (high / low)^t (Song et al. 2021, arXiv:2011.13456, eq. 30)."""

    def time(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class VariancePreserving(Noising):
    """a = exp(-B/2), B = (beta_max - beta_min) t^2 / 2 + beta_min t, t from `first` to 1 (arXiv:2011.13456, eq. 32)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    first: float = 1e-3

    @property
    def sigma_range(self) -> tuple[float, float]:
        ends = torch.tensor([self.first, 1.0], dtype=torch.float64)
        low, high = (ends**2 * (self.beta_max - self.beta_min) / 2 + ends * self.beta_min).expm1().sqrt().tolist()
        return low, high

    def amplitude(self, sigma: Tensor) -> Tensor:
        return preserving(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        exponent, slope = torch.log1p(sigma**2), self.beta_max - self.beta_min
        # The root of B(t) = exponent in the form that loses no digits where sigma is small.
        return 2 * exponent / (self.beta_min + (self.beta_min**2 + 2 * slope * exponent).sqrt())


class DiscreteTime(Noising):
    """A variance-preserving chain of so many steps, told k = 0, 1, ..., and between its levels k interpolated in ln sigma.

    `levels`: sigma of each step, rising, see `ddpm_linear`, `ddpm_cosine`, `chain`. Sinusoidal embeddings take k with
    decimals; a network with a table of embeddings wants whole ones, `FromModule(..., told=whole)`.
    """

    def __init__(self, levels: Tensor) -> None:
        levels = levels.to("cpu", torch.float64)
        if levels.ndim != 1 or len(levels) < 2 or not bool((levels[1:] > levels[:-1]).all()):
            raise BadInput("levels of a discrete diffusion: expected at least two noise levels that rise")
        _check_range((float(levels[0]), float(levels[-1])))
        self.levels = levels

    @property
    def sigma_range(self) -> tuple[float, float]:
        return float(self.levels[0]), float(self.levels[-1])

    def amplitude(self, sigma: Tensor) -> Tensor:
        return preserving(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return interpolated(sigma.log(), self.levels.log().to(sigma), torch.arange(len(self.levels)).to(sigma))


@dataclass(frozen=True)
class RectifiedFlow(Noising):
    """x_t = (1 - t) x + t e: a = 1 - t, sigma = t / (1 - t); `first` and `last` are the t that the network has seen."""

    first: float = 0.001
    last: float = 0.999

    @property
    def sigma_range(self) -> tuple[float, float]:
        low, high = flow_sigma(torch.tensor([self.first, self.last], dtype=torch.float64)).tolist()
        return low, high

    def amplitude(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return flow_time(sigma)


def preserving(sigma: Tensor) -> Tensor:
    """a with a^2 (1 + sigma^2) = 1: images of unit variance keep it."""
    return (1 + sigma**2).rsqrt()


def ddpm_linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DiscreteTime:
    """beta evenly spaced (Ho et al. 2020, arXiv:2006.11239): sigma 0.01 to 157.4."""
    return chain(1 - torch.linspace(first, last, steps, dtype=torch.float64))


def ddpm_cosine(steps: int = 1000) -> DiscreteTime:
    """The cosine schedule, beta at most 0.999 (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
    return chain(cosine_kept(steps))


def cosine_kept(steps: int) -> Tensor:
    """1 - beta of each step of the cosine schedule."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
    total = angle.cos() ** 2
    return (total[1:] / total[:-1]).clamp_min(0.001)


def chain(kept: Tensor) -> DiscreteTime:
    """The chain that keeps the share `kept` = 1 - beta of the signal's power at each step."""
    power = kept.to(torch.float64).cumprod(0)
    return DiscreteTime(((1 - power) / power).sqrt())


def whole(time: Tensor) -> Tensor:
    """The nearest step, as an integer."""
    return time.round().long()


def _check_range(ends: tuple[float, float]) -> None:
    if not 0 < ends[0] < ends[1] < math.inf:
        raise BadInput(f"noise levels {ends[0]} to {ends[1]}: expected positive numbers, the range rising")
