"""Levels that rise again, and what samplers do there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels, log_levels
from medrecon.sample.ancestral import ancestral, flow_noise, renoise
from medrecon.sample.fixed_point import parallel
from medrecon.sample.gradient import gradient_estimation
from medrecon.sample.heun import heun
from medrecon.sample.langevin import annealed_langevin, predictor_corrector
from medrecon.sample.multistep import adams_bashforth, multistep
from medrecon.sample.pndm import pndm
from medrecon.sample.travel import travelled
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import moments

EVERY = [
    ancestral,
    renoise,
    flow_noise,
    multistep,
    adams_bashforth,
    heun,
    pndm,
    gradient_estimation,
    predictor_corrector,
    annealed_langevin,
    parallel,
]


def released_times(total: int, length: int, repeats: int) -> list[int]:
    """The times of the released DDNM, whose way back up goes one by one; without that, and without the last -1."""
    jumps = dict.fromkeys(range(0, total - length, length), repeats - 1)
    times, t = [], total
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            t += length
            times.append(t)
    return times


@pytest.mark.parametrize(("steps", "length", "repeats"), [(20, 5, 3), (20, 1, 2), (7, 3, 4), (5, 9, 9), (1, 1, 5)])
def test_levels_travel_as_in_the_released_code(steps: int, length: int, repeats: int) -> None:
    levels = edm_levels(steps, 80.0, 0.01)
    expected = [float(levels[steps - 1 - t]) for t in released_times(steps, length, repeats)] + [0.0]
    assert travelled(levels, length=length, repeats=repeats).tolist() == expected


def test_one_passage_changes_nothing() -> None:
    levels = edm_levels(20, 80.0, 0.01)
    assert torch.equal(travelled(levels, length=5, repeats=1), levels)
    with pytest.raises(BadInput, match="length = 0"):
        travelled(levels, length=0)


def test_travelling_keeps_the_marginals_at_every_level() -> None:
    """Bridges are exact, and the steps down err like 1 / levels, whichever way they are gone."""
    prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64)))
    levels = travelled(edm_levels(60, 100.0, 0.01), length=12, repeats=3)
    for end in (40, 80, len(levels)):
        _, cov = moments(ancestral, prior, levels[:end], prior.mean)
        target = torch.tensor([1.0, 0.3], dtype=torch.float64) + levels[end - 1] ** 2
        assert float((cov.diagonal() / target - 1).abs().max()) < 0.2


@pytest.mark.parametrize("sampler", EVERY)
def test_rising_levels_add_the_missing_noise_and_ask_for_no_estimate(sampler) -> None:  # type: ignore[no-untyped-def]
    class Asked(Gaussian):
        levels: list[float]

        def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            self.levels += sigma.flatten().tolist()
            return super().denoise(noisy, sigma)

    prior = Asked(torch.zeros(400, dtype=torch.float64), torch.eye(400, dtype=torch.float64))
    prior.levels = []
    x = torch.zeros(2, 400, dtype=torch.float64)
    sigmas = torch.tensor([4.0, 1.0, 3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    steps = list(sampler(prior, x, sigmas, seeded_draw(0, [0, 1], (2,))))
    # A long run to 1, then to 3: the difference is white noise of variance 9 - 1.
    rise = next(i for i, step in enumerate(steps) if step.measure is not None and float(step.measure) == 3)
    added = steps[rise].x - steps[rise - 1].x
    if sampler is annealed_langevin:
        assert prior.levels.count(1.0) == 2 * 3  # Langevin steps before it leaves either visit of the level
    else:
        assert added.square().mean() == pytest.approx(8, rel=5 * math.sqrt(2 / 800))
    assert torch.isfinite(steps[-1].x).all()


@pytest.mark.parametrize("sampler", [multistep, adams_bashforth, gradient_estimation, pndm])
def test_a_sampler_with_a_past_forgets_it_when_the_level_rises(sampler) -> None:  # type: ignore[no-untyped-def]
    prior = Gaussian(torch.zeros(3, dtype=torch.float64), torch.diag(torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)))
    x, sigmas = torch.randn(1, 3, dtype=torch.float64), log_levels(8, 10.0, 0.1)
    *_, fell = sampler(prior, x, sigmas[:5], torch.zeros_like)
    path = torch.cat([sigmas[:5], sigmas])
    again = run(sampler(prior, x, path, torch.zeros_like)).x
    torch.testing.assert_close(again, run(sampler(prior, fell.x, sigmas, torch.zeros_like)).x, atol=1e-12, rtol=0)


def test_flow_noise_is_fresh_by_what_is_left_of_the_flows_time() -> None:
    """x_t' = (1 - t') clean + t' (sqrt(t') noise + sqrt(1 - t') z), divided by 1 - t'."""
    prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    x, z = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    sigmas = torch.tensor([2.0, 0.5], dtype=torch.float64)
    clean = prior.denoise(x, sigmas[0])
    time = 0.5 / 1.5
    expected = clean + time / (1 - time) * (time**0.5 * (x - clean) / 2 + (1 - time) ** 0.5 * z)
    torch.testing.assert_close(run(flow_noise(prior, x, sigmas, lambda like: z)).x, expected)
