"""Each named objective, computed as its paper writes it, is the denoising loss with its weight and its levels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medrecon.prior.losses import OBJECTIVES, DDPMTimes, LogNormal, LogUniform
from medrecon.prior.network import UNet
from medrecon.prior.precondition import preconditioned

SIGMA_DATA = 0.3


def network() -> UNet:
    """A fixed network that is not the Wiener filter."""
    torch.manual_seed(0)
    found = UNet(1, (4, 6), (1, 1), embedding=8)
    torch.nn.init.normal_(found.head.weight, std=0.1)
    return found.double()


def by_noise(clean: Tensor, sigma: Tensor, noise: Tensor, denoised: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x_t = a x + s e, a^2 + s^2 = 1; the network's noise is what its D leaves."""
    a = (1 + sigma**2).rsqrt()
    s = sigma * a
    noisy = a * clean + s * noise
    return ((noisy - a * denoised(noisy / a, sigma)) / s - noise).square()


def by_score(clean: Tensor, sigma: Tensor, noise: Tensor, denoised: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """sigma^2 |score - gradient of ln p(u | x)|^2."""
    u = clean + sigma * noise
    score = (denoised(u, sigma) - u) / sigma**2
    return sigma**2 * (score + noise / sigma).square()


def by_velocity(clean: Tensor, sigma: Tensor, noise: Tensor, denoised: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x_t = (1 - t) x + t e; the velocity e - x."""
    t = sigma / (1 + sigma)
    noisy = (1 - t) * clean + t * noise
    velocity = (noisy - denoised(noisy / (1 - t), sigma)) / t
    return (velocity - (noise - clean)).square()


def by_preconditioned_network(clean: Tensor, sigma: Tensor, noise: Tensor, denoised: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """|F - (x - c_skip u) / c_out|^2: the raw network's own target has unit weight."""
    u, total = clean + sigma * noise, sigma**2 + SIGMA_DATA**2
    skip, out = SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt()
    return ((denoised(u, sigma) - skip * u) / out - (clean - skip * u) / out).square()


PAPERS = {"edm": by_preconditioned_network, "vp": by_noise, "ve": by_score, "flow": by_velocity}


def test_every_objective_is_compared_with_its_paper() -> None:
    assert PAPERS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_what_its_paper_writes(name: str) -> None:
    loss, F = OBJECTIVES[name](SIGMA_DATA), network()
    clean = 0.3 * torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = loss(F, clean, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    sigma = loss.levels(6, generator).to(clean)
    noise = torch.randn(clean.shape, generator=generator).to(clean)

    def denoised(u: Tensor, level: Tensor) -> Tensor:
        return preconditioned(F, u, level.reshape(-1), SIGMA_DATA)

    expected = PAPERS[name](clean, sigma[:, None, None, None], noise, denoised).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_logit_normal_times_of_a_flow_are_log_normal_noise_levels() -> None:
    sigma = LogNormal(0.4, 1.0, low=1e-9, high=1e9)(20000, torch.Generator().manual_seed(0)).double()
    t = sigma / (1 + sigma)
    logit = (t / (1 - t)).log()
    torch.testing.assert_close(logit, sigma.log())
    assert float(logit.mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(logit.std()) == pytest.approx(1.0, abs=1e-3)


def test_ddpm_times_are_evenly_spread_over_the_levels_in_range() -> None:
    survival = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    levels = ((1 - survival) / survival).sqrt()
    drawn = DDPMTimes(high=1e9)(1000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, levels.float())  # one in each stratum, so every time once
    assert [float(levels[k]) for k in (0, 499, 999)] == pytest.approx([0.0100005, 3.42414, 157.407], rel=1e-5)
    assert float(DDPMTimes()(4096, torch.Generator().manual_seed(0)).max()) <= 20


def test_log_uniform_levels_fill_their_range_evenly() -> None:
    shares = (LogUniform(0.01, 10.0)(4096, torch.Generator().manual_seed(0)) / 0.01).log() / torch.tensor(1000.0).log()
    torch.testing.assert_close(shares.sort().values, (torch.arange(4096) + 0.5) / 4096, atol=2e-4, rtol=0)
