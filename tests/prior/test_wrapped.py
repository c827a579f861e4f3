"""Every prior around a prior forwards the facts, passes both fields and stacks with the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from medrecon.linop.laws import random
from medrecon.prior.cache import Cached
from medrecon.prior.calibrated import Calibrated, NoiseMeans
from medrecon.prior.denoiser import Prior
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.quantise import quantised
from medrecon.prior.schedule import edm_levels
from medrecon.prior.tiles import Tiled
from medrecon.prior.time_shift import TimeShifted
from tests.prior.test_network import small_prior

SHAPE = (24, 20)


def calibrated(prior: Prior) -> Prior:
    dtype = torch.complex64 if prior.field == "complex" else torch.float32
    return Calibrated(prior, NoiseMeans(torch.tensor([0.1, 1.0]), torch.zeros(2, *SHAPE, dtype=dtype)))


WRAPPERS: dict[str, Callable[[NetworkPrior], Prior]] = {
    "cached": lambda prior: Cached(prior, every=2),
    "shifted": TimeShifted,
    "calibrated": calibrated,
    "8 bits": quantised,
    "tiled": lambda prior: Tiled(prior, 16),
    "all": lambda prior: Cached(TimeShifted(calibrated(Tiled(quantised(prior), 16, offset=0))), every=2),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("field", ["complex", "real"])
def test_facts_are_forwarded_and_a_run_stays_near_the_prior(name: str, field: str) -> None:
    prior = small_prior(field, error_curve=((0.1, 0.004), (1.0, 0.04)), kappas=((8, 0.7),))
    around = WRAPPERS[name](prior)
    for fact in ("field", "sigma_range", "data_std", "image_axes", "domain_name"):
        assert getattr(around, fact) == getattr(prior, fact)
    assert around.scale(8) == 0.7
    torch.testing.assert_close(around.error(torch.tensor(0.3)), prior.error(torch.tensor(0.3)))
    assert around.remembers == ("cached" in name or name == "all")
    dtype = torch.complex64 if field == "complex" else torch.float32
    clean, noise = (random((2, 3, *SHAPE), dtype, part) for part in ("clean", "noise"))
    for sigma in edm_levels(20, 6.0, 0.02)[:-1]:
        noisy = 0.3 * clean + sigma * noise
        estimate = around.estimate(noisy, sigma, sigma / 2, torch.zeros_like)
        assert estimate.clean.dtype == dtype
        assert estimate.clean.shape == noisy.shape
        plain = prior.denoise(noisy, sigma)
        assert float((estimate.clean - plain).norm() / plain.norm()) < 0.2
        torch.testing.assert_close(estimate.clean + sigma * estimate.noise, noisy, atol=1e-5, rtol=1e-4)
