"""Decoupled annealing and annealed Langevin dynamics: exact draws, what the published variants do, nonlinear data."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.annealed import AnnealedLikelihood
from medrecon.consistency.decoupled import Decoupled, LangevinDraw
from medrecon.consistency.proximal import noise_level
from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels, log_levels
from medrecon.sample.ancestral import renoise
from medrecon.sample.langevin import annealed_langevin
from medrecon.solvers.nonlinear import Nonlinear
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Problem, dense, measured, moments, published, real_moments

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return dense(8, 6, complex_field=request.param)


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
def test_decoupled_draws_are_exact_for_a_white_prior_with_few_levels(complex_field: bool, rank: int | None) -> None:
    known = dense(6, 4, complex_field=complex_field, rank=rank, condition=1e3)
    known = Problem(0 * known.mean, torch.eye(6, dtype=known.cov.dtype), known.matrix, known.y, known.noise_std, known.truth)
    mean, cov = moments(renoise, Decoupled(known.prior, known.likelihood()), edm_levels(5, 100.0, 0.01), known.mean)
    true_mean, true_cov = real_moments(*known.posterior())
    torch.testing.assert_close(mean, true_mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(cov, true_cov, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("name", "ode_steps", "sd_null", "dmean"),
    [
        pytest.param("iso64", 1, 1.017, 0.002, marks=pytest.mark.slow),
        pytest.param("iso64", 5, 1.256, 0.035, marks=pytest.mark.slow),
        pytest.param("aniso64", 1, 1.086, 0.045, marks=pytest.mark.slow),
        ("aniso64", 5, 1.354, 0.082),
    ],
)
def test_the_flows_end_counts_the_uncertainty_twice(name: str, ode_steps: int, sd_null: float, dmean: float) -> None:
    """As released: 200 levels from 100 to 0.1, r = sigma."""
    known = published(name)
    step = Decoupled(known.prior, known.likelihood(), ode_steps=ode_steps, variance=noise_level)
    found = measured(known, *moments(renoise, step, edm_levels(200, 100.0, 0.1), known.mean))
    assert (found.sd_null, found.dmean) == pytest.approx((sd_null, dmean), abs=0.002)


@pytest.mark.parametrize("complex_field", [False, True])
def test_langevin_steps_end_in_the_product_of_both_gaussians_without_inflating_it(complex_field: bool) -> None:
    """Mean and covariance propagated exactly: step 1 would double the variance of the stiffest direction as published."""
    known = dense(3, 2, complex_field=complex_field, condition=1.5, noise_std=0.3)
    one = torch.stack([SIGMA, torch.zeros_like(SIGMA)])
    pair = [
        moments(renoise, step(known.prior, known.likelihood()), one, known.mean)
        for step in (partial(LangevinDraw, langevin_steps=25), Decoupled)
    ]
    torch.testing.assert_close(pair[0][0], pair[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(pair[0][1], pair[1][1], atol=1e-6, rtol=0)


def test_langevin_draws_approach_the_posterior() -> None:
    known = dense(8, 6)
    draw, levels = seeded_draw(0, [0], (1,)), edm_levels(30, 100.0, 0.01)
    start = levels[0] * draw(torch.zeros(1, 1000, 8, dtype=torch.float64))
    ends = []
    for step in (LangevinDraw(known.prior, known.likelihood()), Decoupled(known.prior, known.likelihood())):
        x = run(renoise(step, start, levels, draw)).x[0]
        ends.append(measured(known, x.mean(0), torch.cov(x.T)))
    assert (ends[0].sd, ends[0].sd_range, ends[0].sd_null) == pytest.approx((ends[1].sd, ends[1].sd_range, ends[1].sd_null), abs=0.08)


def test_langevin_draws_are_exact_for_a_nonlinear_operator_and_a_gaussian_prior() -> None:
    """One number, y = x + x^3 / 4 + noise, against quadrature: N(D, r^2) is x given the noisy image, exactly."""
    y, noise_std, count = 1.5, 0.3, 4000
    prior = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    likelihood = Nonlinear(lambda x: (x + x**3 / 4) / noise_std, torch.tensor([y / noise_std], dtype=torch.float64), (1,))
    draw, levels = seeded_draw(0, [0], (1,)), edm_levels(20, 20.0, 0.02)
    start = levels[0] * draw(torch.zeros(1, count, 1, dtype=torch.float64))
    x = run(renoise(LangevinDraw(prior, likelihood, step=0.5), start, levels, draw)).x.flatten()
    grid = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    density = torch.exp(-(grid**2) / 2 - (grid + grid**3 / 4 - y) ** 2 / (2 * noise_std**2))
    density /= density.sum()
    mean = (grid * density).sum()
    std = ((grid - mean) ** 2 * density).sum().sqrt()
    assert float(abs(x.mean() - mean) / std) < 4 / count**0.5 + 0.01
    assert float(x.std() / std) == pytest.approx(1.0, abs=4 / (2 * count) ** 0.5 + 0.02)


def test_a_nonlinear_operator_is_sent_to_langevin_dynamics() -> None:
    likelihood = Nonlinear(lambda x: x**2, torch.ones(8, dtype=torch.float64), (8,))
    with pytest.raises(NotSupported, match="langevin"):
        Decoupled(dense(8, 6).prior, likelihood).estimate(torch.ones(1, 8, dtype=torch.float64), SIGMA, LOWER, torch.zeros_like)


@pytest.mark.parametrize("kind", [Decoupled, LangevinDraw, AnnealedLikelihood])
def test_images_of_a_batch_do_not_meet(problem: Problem, kind) -> None:  # type: ignore[no-untyped-def]
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100
    likelihood = problem.likelihood(exact=False)
    whole = kind(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, seeded_draw(0, [0, 1, 2], (3,))).clean
    for k in range(3):
        alone = kind(problem.prior, likelihood).estimate(noisy[k : k + 1], SIGMA, LOWER, seeded_draw(0, [k], (1,))).clean
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "setting"), [(Decoupled, {"ode_steps": 0}), (LangevinDraw, {"step": 2.0}), (LangevinDraw, {"ode_steps": 0})]
)
def test_settings_that_cannot_work_are_refused(kind, setting) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=next(iter(setting))):
        kind(dense(8, 6).prior, dense(8, 6).likelihood(), **setting)


def test_the_annealed_score_is_that_of_the_formula(problem: Problem) -> None:
    noisy, likelihood = random((3, 8), problem.mean.dtype, "noisy"), problem.likelihood()
    step = AnnealedLikelihood(problem.prior, likelihood)
    estimate = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    prior_score = (problem.prior.denoise(noisy, SIGMA) - noisy) / SIGMA**2
    wider = problem.noise_std**2 + (SIGMA * step.gain(noisy) * problem.noise_std) ** 2
    data_score = (problem.y - noisy @ problem.matrix.mT) @ problem.matrix.conj() / wider
    torch.testing.assert_close(-estimate.noise / SIGMA, prior_score + data_score)
    torch.testing.assert_close(estimate.clean + SIGMA * estimate.noise, noisy)
    assert 1 < float(step.stiffness(SIGMA)) < 2


@pytest.mark.parametrize(
    ("name", "expected"), [("1d", (0.021, 1.023, 1.023)), ("iso64", (0.398, 1.211, 1.805)), ("aniso64", (0.338, 1.219, 1.578))]
)
def test_annealed_langevin_dynamics_is_biased_by_the_measured_amount(name: str, expected: tuple[float, float, float]) -> None:
    """200 levels of 3 steps of 0.3; |A| is 2 % larger here, and the last level ends with a clean image."""
    known = published(name)
    step = AnnealedLikelihood(known.prior, known.likelihood())
    found = measured(known, *moments(annealed_langevin, step, log_levels(200, 20.0, 0.01), known.mean))
    assert (found.dmean, found.sd, found.sd_range) == pytest.approx(expected, abs=0.015)


def test_annealed_langevin_dynamics_finds_an_intensity() -> None:
    prior = Gaussian(torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    y: Tensor = torch.tensor([1.0, 4.0], dtype=torch.float64) / 0.2
    draw, levels = seeded_draw(0, range(50), (50,)), log_levels(100, 20.0, 0.01)
    start = levels[0] * draw(torch.zeros(50, 2, dtype=torch.float64))
    x = run(annealed_langevin(AnnealedLikelihood(prior, Nonlinear(lambda v: v**2 / 0.2, y, (2,))), start, levels, draw)).x
    torch.testing.assert_close(x.abs().median(0).values, torch.tensor([1.0, 2.0], dtype=torch.float64), atol=0.2, rtol=0)
