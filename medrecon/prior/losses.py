"""The one denoising loss; the named objectives differ in the distribution of sigma and the weight only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medrecon.prior.precondition import preconditioned

Weight = Callable[[Tensor, float], Tensor]


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(sigma^2 + sd^2) / (sigma sd)^2: unit loss at every level when the network is zero (Karras et al. 2022)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2), clipped; stratified over the batch, which lowers the variance of the gradient for free."""

    mean: float = -1.8
    std: float = 1.3
    low: float = 0.002
    high: float = 20.0

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        normal = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return (self.mean + self.std * normal).exp().clamp(self.low, self.high)


@dataclass(frozen=True)
class DenoisingLoss:
    """E over x, sigma, n of weight(sigma) mean |D(x + sigma n, sigma) - x|^2, for channel images."""

    sigma_data: float
    levels: LogNormal = LogNormal()
    weight: Weight = edm_weight

    def __call__(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch (batch, channel, y, x), one number."""
        sigma = self.levels(len(clean), generator).to(clean)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        estimate = preconditioned(network, clean + sigma[:, None, None, None] * noise, sigma, self.sigma_data)
        squared = (estimate - clean).square().mean((1, 2, 3))
        return (self.weight(sigma, self.sigma_data) * squared).mean()
