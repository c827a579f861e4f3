"""Data steps in closed form: likelihood of the noisy image, refined noise, half-quadratic splitting, and the flow's fading one."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from medrecon.consistency.flow import Damped
from medrecon.consistency.half_quadratic import HalfQuadratic
from medrecon.consistency.likelihood_step import NoisyLikelihood, RefinedNoise
from medrecon.consistency.proximal import Proximal, noise_level
from medrecon.errors import BadInput, NotSupported
from medrecon.linop.laws import random
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import ancestral, flow_noise, renoise
from medrecon.solvers.nonlinear import Nonlinear
from tests.oracles.gaussian import Problem, dense, measured, moments, published

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return dense(8, 6, complex_field=request.param, condition=1e4)


def unit(prior, likelihood, mean, sigma):  # type: ignore[no-untyped-def]
    return sigma**2 / (1 + sigma**2)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("weight", [1.0, 1.75])
def test_the_noisy_images_likelihood_is_that_of_the_formula(problem: Problem, exact: bool, weight: float) -> None:
    noisy = random((2, 3, 8), problem.mean.dtype, "noisy")
    step = NoisyLikelihood(problem.prior, problem.likelihood(exact=exact), weight=weight, cg_steps=60, cg_tolerance=1e-13)
    estimate = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    a, eye = problem.matrix, torch.eye(6, dtype=torch.float64)
    gain = a.mH @ torch.linalg.inv(SIGMA**2 * a @ a.mH + problem.noise_std**2 * eye)
    score = (problem.y - noisy @ a.mT) @ gain.mT
    expected = problem.prior.denoise(noisy, SIGMA) + weight * SIGMA**2 * score
    torch.testing.assert_close(estimate.clean, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(estimate.clean + SIGMA * estimate.noise, noisy)


@pytest.mark.parametrize("exact", [True, False])
def test_refined_noise_gives_the_proximal_step(problem: Problem, exact: bool) -> None:
    noisy, likelihood = random((2, 3, 8), problem.mean.dtype, "noisy"), problem.likelihood(exact=exact)
    pair = [
        kind(problem.prior, likelihood, cg_steps=60, cg_tolerance=1e-13).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
        for kind in (RefinedNoise, Proximal)
    ]
    torch.testing.assert_close(pair[0].clean, pair[1].clean, atol=1e-8, rtol=0)
    torch.testing.assert_close(pair[0].noise, pair[1].noise, atol=1e-7, rtol=0)


def test_refined_noise_with_the_noise_level_inside_is_not_the_noisy_images_likelihood(problem: Problem) -> None:
    """Residual at D in one, at the noisy image in the other."""
    noisy, likelihood = random((2, 8), problem.mean.dtype, "noisy"), problem.likelihood()
    refined = RefinedNoise(problem.prior, likelihood, variance=noise_level).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    other = NoisyLikelihood(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    assert float((refined - other).norm()) > 0.01


def test_half_quadratic_weight_divides_the_variance(problem: Problem) -> None:
    noisy, likelihood = random((2, 8), problem.mean.dtype, "noisy"), problem.likelihood()
    found = HalfQuadratic(problem.prior, likelihood, weight=7.0).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    expected = likelihood.prox(problem.prior.denoise(noisy, SIGMA), 7 / SIGMA**2)
    torch.testing.assert_close(found, expected)
    plain = [kind(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean for kind in (HalfQuadratic, PROX)]
    torch.testing.assert_close(*plain)


PROX = partial(Proximal, variance=noise_level)


def test_the_flow_step_fades_with_the_noise_until_noise_no_longer_drowns_the_data(problem: Problem) -> None:
    noisy, likelihood = random((2, 8), problem.mean.dtype, "noisy"), problem.likelihood()
    mean = problem.prior.denoise(noisy, SIGMA)
    full = Proximal(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    seen = float(SIGMA) / problem.noise_std  # |A| is 1 here
    for undamped, share in ((0.0, SIGMA / (1 + SIGMA)), (0.9 * seen, SIGMA / (1 + SIGMA)), (1.1 * seen, 1.0)):
        estimate = Damped(problem.prior, likelihood, undamped=undamped).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
        torch.testing.assert_close(estimate.clean, mean + share * (full - mean))
        torch.testing.assert_close(estimate.noise, (noisy - mean) / SIGMA)


# dmean, sd, sd in the range, sd in the null space
TABLE = [
    ("aniso64", NoisyLikelihood, ancestral, 20, (0.542, 0.924, 0.817, 1.245)),
    ("aniso64", NoisyLikelihood, ancestral, 100, (0.435, 1.093, 0.993, 1.418)),
    ("aniso64", partial(RefinedNoise, variance=unit), ancestral, 20, (0.332, 0.891, 0.771, 1.186)),
    ("aniso64", RefinedNoise, ancestral, 100, (0.272, 1.077, 1.048, 1.342)),
    ("aniso64", HalfQuadratic, renoise, 20, (0.243, 0.685, 0.606, 0.864)),
    ("aniso64", HalfQuadratic, renoise, 100, (0.069, 0.698, 0.684, 0.755)),
    ("aniso64", HalfQuadratic, partial(renoise, eta=0.1**0.5), 20, (0.443, 1.050, 0.832, 1.422)),
    ("aniso64", HalfQuadratic, partial(renoise, eta=0.1**0.5), 100, (0.333, 1.110, 0.956, 1.425)),
    ("aniso64", partial(HalfQuadratic, weight=7.0), partial(renoise, eta=0.3**0.5), 100, (0.433, 1.687, 1.866, 1.304)),
    ("aniso64", partial(Damped, undamped=0.0, variance=unit), flow_noise, 20, (1.054, 2.337, 2.036, 1.207)),
    ("aniso64", partial(Damped, undamped=0.0, variance=unit), flow_noise, 100, (0.963, 2.170, 1.985, 1.062)),
    ("aniso64", Damped, flow_noise, 100, (0.155, 0.825, 0.828, 1.034)),
]


@pytest.mark.parametrize(("name", "step", "sampler", "count", "expected"), TABLE)
def test_moments_are_those_of_an_independent_implementation(name, step, sampler, count, expected) -> None:  # type: ignore[no-untyped-def]
    known = published(name)
    both = step(known.prior, known.likelihood())
    found = measured(known, *moments(sampler, both, edm_levels(count, 100.0, 0.01), known.mean))
    assert (found.dmean, found.sd, found.sd_range, found.sd_null) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("kind", [NoisyLikelihood, RefinedNoise, HalfQuadratic, Damped])
def test_images_of_a_batch_do_not_meet(problem: Problem, kind) -> None:  # type: ignore[no-untyped-def]
    noisy = random((2, 3, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100
    step = kind(problem.prior, problem.likelihood(exact=False))
    whole = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    alone = step.estimate(noisy[1:, 2:], SIGMA, LOWER, torch.zeros_like).clean
    torch.testing.assert_close(whole[1:, 2:], alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [NoisyLikelihood, RefinedNoise])
def test_a_nonlinear_operator_is_refused_by_name(kind) -> None:  # type: ignore[no-untyped-def]
    likelihood = Nonlinear(lambda x: x**2, torch.ones(8, dtype=torch.float64), (8,))
    with pytest.raises(NotSupported, match="Nonlinear"):
        kind(dense(8, 6).prior, likelihood).estimate(torch.ones(1, 8, dtype=torch.float64), SIGMA, LOWER, torch.zeros_like)


@pytest.mark.parametrize("kind", [NoisyLikelihood, HalfQuadratic])
def test_a_weight_that_is_not_positive_is_refused(kind) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match="weight"):
        kind(dense(8, 6).prior, dense(8, 6).likelihood(), weight=0.0)
