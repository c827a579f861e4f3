"""Pseudoinverse guidance and moment matching: the prior's own covariance between image and data."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.moment import MomentMatched, MomentMatchedDraw, PseudoinverseGuided, unit_error
from medrecon.consistency.proximal import Proximal
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import ancestral, renoise
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.nonlinear import Nonlinear
from medrecon.solvers.projected import projected
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Problem, dense, measured, moments, published, real_moments

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
PROBLEMS = [
    dense(8, 6),
    dense(8, 6, complex_field=True),
    dense(8, 6, rank=2),
    dense(8, 12, complex_field=True, rank=5),
    dense(8, 6, condition=1e4, noise_std=1e-2),
]
EXACT = {"krylov_steps": 16}


def parts(problem: Problem) -> tuple[Tensor, Tensor]:
    """V = Cov[x | noisy] and V A^H."""
    cov = problem.cov @ torch.linalg.inv(problem.cov + SIGMA**2 * torch.eye(len(problem.cov), dtype=torch.float64)) * SIGMA**2
    return cov, cov.to(problem.matrix.dtype) @ problem.matrix.mH


def guided(problem: Problem, noisy: Tensor, inner: Tensor) -> Tensor:
    """D + V A^H (inner + noise^2)^-1 (y - A D) by a dense solve."""
    _, cross = parts(problem)
    mean = problem.prior.denoise(noisy, SIGMA)
    noise = problem.noise_std**2 * torch.eye(len(problem.matrix), dtype=torch.float64)
    return mean + (problem.y - mean @ problem.matrix.mT) @ torch.linalg.solve(inner + noise, cross, left=False).mT


@pytest.mark.parametrize("problem", PROBLEMS)
def test_moment_matching_gives_the_exact_conditional_mean_of_a_gaussian_prior(problem: Problem) -> None:
    noisy = random((2, 3, 8), problem.mean.dtype, "noisy")
    estimate = MomentMatched(problem.prior, problem.likelihood(), **EXACT).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    expected = guided(problem, noisy, problem.matrix @ parts(problem)[1])
    torch.testing.assert_close(estimate.clean, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(estimate.clean + SIGMA * estimate.noise, noisy)


@pytest.mark.parametrize("count", [7, 25])
def test_its_mean_error_telescopes_and_its_spread_comes_like_one_over_the_levels(count: int) -> None:
    problem = dense(8, 6)
    step = MomentMatched(problem.prior, problem.likelihood(), **EXACT)
    mean, cov = moments(ancestral, step, edm_levels(count, 100.0, 0.01), problem.mean)
    true_mean, true_cov = problem.posterior()
    predicted = true_cov @ torch.linalg.solve(true_cov + 1e4 * torch.eye(8, dtype=torch.float64), -true_mean)
    torch.testing.assert_close(mean - true_mean, predicted, atol=1e-8, rtol=0)
    assert 1 - measured(problem, mean, cov).sd < 8 / count


@pytest.mark.parametrize("problem", PROBLEMS[2:])
def test_its_draws_are_exact_with_few_levels(problem: Problem) -> None:
    step = MomentMatchedDraw(problem.prior, problem.likelihood(), root_steps=16, **EXACT)
    mean, cov = moments(renoise, step, edm_levels(6, 100.0, 0.01), problem.mean)
    true_mean, true_cov = real_moments(*problem.posterior())
    torch.testing.assert_close(mean, true_mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(cov, true_cov, atol=1e-6, rtol=0)


def test_ten_products_suffice_for_draws_and_means() -> None:
    """64 numbers, 32 data: the published problem with the defaults, 300 draws at 10 levels."""
    problem, levels, draw = published("aniso64"), edm_levels(10, 100.0, 0.01), seeded_draw(0, [0], (1,))
    start = levels[0] * draw(torch.zeros(1, 300, 64, dtype=torch.float64))
    x = run(renoise(MomentMatchedDraw(problem.prior, problem.likelihood()), start, levels, draw)).x[0]
    found = measured(problem, x.mean(0), torch.cov(x.T))
    assert found.dmean < 0.08  # 300 draws alone give 0.06
    assert (found.sd, found.sd_range, found.sd_null) == pytest.approx((1.0, 1.0, 1.0), abs=0.02)


def white(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    return sigma**2 / (1 + sigma**2)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("exact", [True, False])
def test_guidance_has_the_jacobian_outside_and_the_error_inside(problem: Problem, exact: bool) -> None:
    noisy = random((2, 3, 8), problem.mean.dtype, "noisy")
    step = PseudoinverseGuided(problem.prior, problem.likelihood(exact=exact), bounded=False, cg_steps=60, cg_tolerance=1e-12)
    estimate = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    inner = problem.prior.error(SIGMA) * problem.matrix @ problem.matrix.mH
    torch.testing.assert_close(estimate.clean, guided(problem, noisy, inner), atol=1e-8, rtol=0)
    torch.testing.assert_close(estimate.clean + SIGMA * estimate.noise, noisy)


def test_guidance_is_the_proximal_step_for_a_white_prior() -> None:
    problem = published("iso64")
    noisy = random((2, 64), torch.float64, "noisy")
    pair = [
        kind(problem.prior, problem.likelihood()).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
        for kind in (PseudoinverseGuided, Proximal)
    ]
    torch.testing.assert_close(pair[0].clean, pair[1].clean, atol=1e-12, rtol=0)


class Stretched(Gaussian):
    """Overrates what it knows: its error curve is a hundredth of the truth, so guidance overshoots a hundredfold."""

    def error(self, sigma: Tensor) -> Tensor:
        return super().error(sigma) / 100


def test_a_bounded_step_never_raises_the_objective_that_it_descends() -> None:
    problem = published("aniso64")
    prior = Stretched(problem.mean, problem.cov)
    noisy = random((5, 64), torch.float64, "noisy")
    mean = prior.denoise(noisy, SIGMA)
    precision = torch.linalg.inv(problem.cov) + torch.eye(64, dtype=torch.float64) / SIGMA**2

    def objective(x: Tensor) -> Tensor:
        away = x - mean
        return problem.likelihood().value(x).flatten() + (away @ precision * away).sum(-1) / 2

    free, bounded = (
        PseudoinverseGuided(prior, problem.likelihood(), bounded=b).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
        for b in (False, True)
    )
    assert bool((objective(bounded) <= objective(mean) + 1e-9).all())
    assert bool((objective(bounded) < objective(free)).any())


# dmean, sd, sd in the range, sd in the null space, as published: not bounded, so that the step is affine
TABLE = [
    (partial(PseudoinverseGuided, variance=white, bounded=False), 1.0, 20, (0.212, 0.819, 0.831, 0.871)),
    (partial(PseudoinverseGuided, variance=white, bounded=False), 1.0, 100, (0.151, 0.992, 1.004, 1.053)),
    (partial(PseudoinverseGuided, variance=white, bounded=False), 0.0, 20, (0.459, 1.039, 0.997, 0.957)),
    (partial(PseudoinverseGuided, variance=unit_error, prior_noise=True, bounded=False), 0.0, 20, (0.200, 0.644, 0.481, 0.803)),
    (partial(PseudoinverseGuided, bounded=False), 1.0, 20, (0.104, 0.741, 0.725, 0.788)),
    (partial(PseudoinverseGuided, bounded=False), 1.0, 100, (0.080, 0.935, 0.920, 0.967)),
]


@pytest.mark.parametrize(("step", "churn", "count", "expected"), TABLE)
def test_guidance_is_biased_by_the_measured_amount(step, churn, count, expected) -> None:  # type: ignore[no-untyped-def]
    problem = published("aniso64")
    both = step(problem.prior, problem.likelihood())
    found = measured(problem, *moments(partial(ancestral, churn=churn), both, edm_levels(count, 100.0, 0.01), problem.mean))
    assert (found.dmean, found.sd, found.sd_range, found.sd_null) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("kind", [PseudoinverseGuided, MomentMatched, MomentMatchedDraw])
@pytest.mark.parametrize("problem", PROBLEMS[:2])
def test_images_of_a_batch_do_not_meet(kind, problem: Problem) -> None:  # type: ignore[no-untyped-def]
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100
    likelihood = problem.likelihood(exact=False)
    whole = kind(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, seeded_draw(0, [0, 1, 2], (3,))).clean
    for k in range(3):
        alone = kind(problem.prior, likelihood).estimate(noisy[k : k + 1], SIGMA, LOWER, seeded_draw(0, [k], (1,))).clean
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [partial(PseudoinverseGuided, cg_steps=40, cg_tolerance=1e-12), partial(MomentMatched, krylov_steps=16)])
def test_a_nonlinear_operator_is_taken_by_its_tangent(kind) -> None:  # type: ignore[no-untyped-def]
    """For a linear A in the clothes of a nonlinear one nothing changes."""
    problem = dense(8, 6)
    clothed = Nonlinear(lambda x: x @ problem.matrix.mT / problem.noise_std, problem.y / problem.noise_std, (8,))
    noisy = random((2, 8), torch.float64, "noisy")
    pair = [
        kind(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
        for likelihood in (clothed, problem.likelihood())
    ]
    torch.testing.assert_close(pair[0], pair[1], atol=1e-8, rtol=0)


class Lopsided(Gaussian):
    """A denoiser whose Jacobian is far from symmetric and has directions of negative gain, as networks' have."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        n = noisy.shape[-1]
        turn = torch.triu(random((n, n), noisy.dtype, "turn"), 1) - 0.5 * torch.eye(n, dtype=noisy.dtype)
        return super().denoise(noisy, sigma) + 0.6 * noisy @ turn


def test_a_lopsided_jacobian_moves_the_image_no_farther_than_the_data_ask() -> None:
    problem = dense(8, 6, noise_std=1e-3)
    prior = Lopsided(problem.mean, problem.cov)
    noisy, steep = random((4, 8), torch.float64, "noisy"), torch.tensor(10.0, dtype=torch.float64)
    step = MomentMatched(prior, problem.likelihood())
    mean, covariance = step.moments(noisy, steep)
    A, residual = problem.likelihood().A, -problem.likelihood().residual(mean)
    weights = projected(lambda v: 1 / (1 + v), lambda v: A(covariance(A.H(v))), residual, 1)
    assert bool((weights.norm(dim=-1) <= residual.norm(dim=-1)).all())
    assert bool(step.estimate(noisy, steep, LOWER, torch.zeros_like).clean.isfinite().all())


def test_no_graph_is_left_and_memory_may_be_bounded() -> None:
    problem, noisy = dense(8, 6), random((2, 8), torch.float64, "noisy")
    for kind in (PseudoinverseGuided, MomentMatched):
        pair = [
            kind(problem.prior, problem.likelihood(), checkpoint=c).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
            for c in (False, True)
        ]
        torch.testing.assert_close(pair[0], pair[1])
        assert not pair[0].requires_grad


def test_single_precision_stays_single() -> None:
    prior = Gaussian(torch.zeros(4), torch.eye(4))
    likelihood = dense(4, 3).likelihood(exact=False)
    likelihood.A.float()
    likelihood.y = likelihood.y.float()
    for kind in (PseudoinverseGuided, MomentMatched, MomentMatchedDraw):
        estimate = kind(prior, likelihood).estimate(torch.ones(2, 4), SIGMA, LOWER, seeded_draw(0, [0, 1], (2,)))
        assert estimate.clean.dtype == estimate.noise.dtype == torch.float32
