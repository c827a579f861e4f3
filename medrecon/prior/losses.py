"""The one denoising loss; the named objectives differ in the distribution of sigma and the weight only.

Every objective predicts something of which the clean image D is a part: x_t = a (x + sigma e), a^2 + s^2 = 1 (VP), a = 1 (VE)
or a = 1 - t, s = t (flow), sigma = s / a. Its squared error is that of D times a number, the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medrecon.prior.precondition import preconditioned

Weight = Callable[[Tensor, float], Tensor]
Levels = Callable[[int, torch.Generator], Tensor]

LOW, HIGH = 0.002, 20.0
"""Noise levels that a prior is trained for, per real component, images being about 1."""


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(sigma^2 + sd^2) / (sigma sd)^2: unit loss at every level when the network is zero (Karras et al. 2022)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def noise_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """1 / sigma^2: the squared error of the noise e = (u - D) / sigma (Ho et al. 2020, arXiv:2006.11239, eq. 14), which is
    sigma^2 times that of the score (D - u) / sigma^2 (Song et al. 2021, arXiv:2011.13456, eq. 7)."""
    return sigma**-2


def flow_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(1 + 1 / sigma)^2 = 1 / t^2: the squared error of the velocity e - x of a rectified flow (Liu et al. 2022, arXiv:2209.03003)."""
    return (1 + 1 / sigma) ** 2


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2), clipped; stratified over the batch, which lowers the variance of the gradient for free."""

    mean: float = -1.8
    std: float = 1.3
    low: float = LOW
    high: float = HIGH

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        normal = torch.special.ndtri(_strata(count, generator).clamp(1e-6, 1 - 1e-6))
        return (self.mean + self.std * normal).exp().clamp(self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """ln sigma evenly spread, the uniform times of a variance-exploding process; stratified."""

    low: float = LOW
    high: float = HIGH

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        return self.low * (self.high / self.low) ** _strata(count, generator)


@dataclass(frozen=True)
class DDPMTimes:
    """The levels of evenly spread times of DDPM (1000 of them, beta 1e-4 to 0.02) that lie within low..high; stratified."""

    low: float = LOW
    high: float = HIGH

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        survival = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        levels = ((1 - survival) / survival).sqrt()
        levels = levels[(levels >= self.low) & (levels <= self.high)]
        return levels[(_strata(count, generator) * len(levels)).long().clamp(max=len(levels) - 1)].float()


def _strata(count: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each of `count` equal parts of 0 to 1."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


@dataclass(frozen=True)
class DenoisingLoss:
    """E over x, sigma, n of weight(sigma) mean |D(x + sigma n, sigma) - x|^2, for channel images."""

    sigma_data: float
    levels: Levels = LogNormal()
    weight: Weight = edm_weight

    def __call__(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch (batch, channel, y, x), one number."""
        sigma = self.levels(len(clean), generator).to(clean)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        estimate = preconditioned(network, clean + sigma[:, None, None, None] * noise, sigma, self.sigma_data)
        squared = (estimate - clean).square().mean((1, 2, 3))
        return (self.weight(sigma, self.sigma_data) * squared).mean()


def edm(sigma_data: float) -> DenoisingLoss:
    """Log-normal levels and unit loss at the start (Karras et al. 2022, arXiv:2206.00364)."""
    return DenoisingLoss(sigma_data)


def vp(sigma_data: float) -> DenoisingLoss:
    """Noise prediction over DDPM's times (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""
    return DenoisingLoss(sigma_data, DDPMTimes(), noise_weight)


def ve(sigma_data: float) -> DenoisingLoss:
    """Denoising score matching over the times of a variance-exploding process (Song et al. 2021, arXiv:2011.13456)."""
    return DenoisingLoss(sigma_data, LogUniform(), noise_weight)


def flow(sigma_data: float) -> DenoisingLoss:
    """Flow matching with logit-normal t, that is log-normal sigma = t / (1 - t) (Esser et al. 2024, arXiv:2403.03206, eq. 19)."""
    return DenoisingLoss(sigma_data, LogNormal(0.0, 1.0), flow_weight)


OBJECTIVES: dict[str, Callable[[float], DenoisingLoss]] = {"edm": edm, "vp": vp, "ve": ve, "flow": flow}
"""By name, as `medrecon train --objective` takes them."""
