"""Diffusion posterior sampling: the step that scales itself and the published one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.gradient import NormalisedGradient, PosteriorGradient
from medrecon.consistency.moment import MomentMatched
from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels, vp_levels
from medrecon.sample.ancestral import ancestral
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.nonlinear import Nonlinear
from medrecon.solvers.poisson import Poisson
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Measured, Problem, dense, measured, published
from tests.solvers.systems import Matrix

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return dense(8, 6, complex_field=request.param)


def jacobian(problem: Problem) -> Tensor:
    return problem.cov @ torch.linalg.inv(problem.cov + SIGMA**2 * torch.eye(8, dtype=torch.float64))


def drawn(problem: Problem, step: object, levels: Tensor, count: int) -> Measured:
    """Against the posterior, of `count` samples."""
    n = len(problem.mean)
    draw = seeded_draw(0, [0], (1,))
    start = levels[0] * draw(torch.zeros(1, count, n, dtype=torch.float64))
    x = run(ancestral(step(problem.prior, problem.likelihood()), start, levels, draw)).x[0]  # type: ignore[operator]
    return measured(problem, x.mean(0), torch.cov(x.T))


def test_the_step_goes_along_the_first_conjugate_gradient_of_moment_matching(problem: Problem) -> None:
    """Which moment matching then goes on along to the minimum of its objective."""
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    gradient = PosteriorGradient(problem.prior, problem.likelihood()).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    matched = MomentMatched(problem.prior, problem.likelihood(), krylov_steps=1).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    mean = problem.prior.denoise(noisy, SIGMA)
    one, other = gradient.clean - mean, matched.clean - mean
    lengths = (one.conj() * other).real.sum(-1, keepdim=True) / one.abs().square().sum(-1, keepdim=True)
    torch.testing.assert_close(other, lengths * one)
    assert bool((lengths > 0).all())
    torch.testing.assert_close(gradient.clean + SIGMA * gradient.noise, noisy)


def test_the_step_is_the_score_form_where_the_prior_is_sure(problem: Problem) -> None:
    """kappa is 1 - sigma^2 |A|^2 and so on."""
    low = torch.tensor(1e-4, dtype=torch.float64)
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    likelihood = problem.likelihood()
    found = PosteriorGradient(problem.prior, likelihood).estimate(noisy, low, low, torch.zeros_like).clean
    mean = problem.prior.denoise(noisy, low)
    score = -likelihood.gradient(mean) * low**2
    torch.testing.assert_close(found - mean, score, rtol=1e-4, atol=1e-12)


def test_the_published_step_is_an_ancestral_one_and_then_a_step_of_length_zeta(problem: Problem) -> None:
    noisy, zeta = random((3, 8), problem.mean.dtype, "noisy"), 0.7
    levels, draw = torch.stack([SIGMA, LOWER]), seeded_draw(3, [0, 1, 2], (3,))
    step = NormalisedGradient(problem.prior, problem.likelihood(), zeta=zeta)
    found = run(ancestral(step, noisy, levels, draw)).x
    mean = problem.prior.denoise(noisy, SIGMA)
    fresh = LOWER * (1 - LOWER**2 / SIGMA**2).sqrt() * seeded_draw(3, [0, 1, 2], (3,))(noisy)
    plain = mean + LOWER**2 / SIGMA**2 * (noisy - mean) + fresh
    residual = problem.y - mean @ problem.matrix.mT
    towards = residual @ problem.matrix.conj() @ jacobian(problem).mT.to(residual.dtype)
    a, a_lower = 1 / (1 + SIGMA**2).sqrt(), 1 / (1 + LOWER**2).sqrt()
    largest = torch.linalg.matrix_norm(problem.matrix, 2)
    expected = plain + zeta * towards / residual.norm(dim=1, keepdim=True) / (a * a_lower) / largest
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * zeta)  # |A| by power iteration
    longer = (found - plain) / (expected - plain)
    torch.testing.assert_close(longer, torch.ones_like(longer) * longer[0, 0], rtol=1e-9, atol=0)


def test_the_step_is_biased_by_the_measured_amount() -> None:
    found = drawn(published("aniso64"), PosteriorGradient, edm_levels(100, 100.0, 0.01), 400)
    assert (found.sd, found.sd_range, found.sd_null) == pytest.approx((1.05, 1.47, 1.09), abs=0.03)
    assert found.dmean == pytest.approx(0.434, abs=0.05)
    few = drawn(published("aniso64"), PosteriorGradient, edm_levels(20, 100.0, 0.01), 400)
    assert few.sd_range < 2, "stable with few levels, where the score form diverges"


@pytest.mark.slow
@pytest.mark.parametrize(("zeta", "sd", "sd_range"), [(0.3, 0.80, 0.24), (1.0, 1.44, 0.58), (3.0, 3.84, 1.67)])
def test_the_published_step_has_no_calibrated_length(zeta: float, sd: float, sd_range: float) -> None:
    found = drawn(published("iso64"), partial(NormalisedGradient, zeta=zeta), vp_levels(1000, 200.0, 0.001), 400)
    assert (found.sd, found.sd_range) == pytest.approx((sd, sd_range), rel=0.05)


@pytest.mark.parametrize("kind", [PosteriorGradient, NormalisedGradient])
def test_images_of_a_batch_do_not_meet(problem: Problem, kind: type[PosteriorGradient]) -> None:
    noisy = random((2, 3, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100
    step = kind(problem.prior, problem.likelihood())
    whole = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    alone = step.estimate(noisy[1:, 2:], SIGMA, LOWER, torch.zeros_like)
    torch.testing.assert_close(whole.clean[1:, 2:], alone.clean)
    torch.testing.assert_close(whole.noise[1:, 2:], alone.noise)


def squares() -> Likelihood:
    """Intensities: phase is lost."""
    return Nonlinear(lambda x: x.abs() ** 2 / 0.1, torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64) / 0.1, (3,))


def counts() -> Likelihood:
    return Poisson(Matrix(torch.eye(3, dtype=torch.float64) * 50), torch.tensor([50.0, 100.0, 25.0], dtype=torch.float64))


@pytest.mark.parametrize(("likelihood", "truth"), [(squares, (1.0, 2.0, 0.5)), (counts, (1.0, 2.0, 0.5))])
@pytest.mark.parametrize("kind", [PosteriorGradient, partial(NormalisedGradient, zeta=0.1)])
def test_other_likelihoods_are_followed_too(likelihood, truth, kind) -> None:  # type: ignore[no-untyped-def]
    prior = Gaussian(torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    draw, levels = seeded_draw(0, range(40), (40,)), edm_levels(100, 20.0, 0.01)
    start = levels[0] * draw(torch.zeros(40, 3, dtype=torch.float64))
    found = run(ancestral(kind(prior, likelihood()), start, levels, draw)).x
    size = found.abs().median(0).values
    torch.testing.assert_close(size, torch.tensor(truth, dtype=torch.float64), atol=0.2, rtol=0)


def test_memory_may_be_bounded_without_changing_the_result(problem: Problem) -> None:
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    for kind in (PosteriorGradient, NormalisedGradient):
        pair = [
            kind(problem.prior, problem.likelihood(), checkpoint=c).estimate(noisy, SIGMA, LOWER, torch.zeros_like) for c in (True, False)
        ]
        torch.testing.assert_close(pair[0].clean, pair[1].clean)
        assert not pair[0].clean.requires_grad


def test_a_length_that_is_not_positive_is_refused() -> None:
    with pytest.raises(BadInput, match="zeta"):
        NormalisedGradient(dense(8, 6).prior, dense(8, 6).likelihood(), zeta=0.0)
