"""Data steps: what they minimise, what they draw, and how they stand between prior and likelihood."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.krylov import Decomposed
from medrecon.consistency.proximal import Perturbed, Proximal, Variance, error_curve, noise_level, seen_error
from medrecon.errors import BadInput, NotSupported
from medrecon.linop.laws import random
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.norm import norm
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Problem, dense

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


def no_noise(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return dense(8, 6, complex_field=request.param)


def minimiser(problem: Problem, mean: Tensor, r2: Tensor | float) -> Tensor:
    """argmin |A x - y|^2 / (2 noise^2) + |x - mean|^2 / (2 r2) by a dense solve, for (batch, n)."""
    matrix, noise = problem.matrix, problem.noise_std
    system = matrix.mH @ matrix / noise**2 + torch.eye(matrix.shape[1], dtype=matrix.dtype) / r2
    right = (matrix.mH @ problem.y / noise**2)[:, None] + mean.T / r2
    return torch.linalg.solve(system, right).T


def errors(variance: Variance, problem: Problem, mean: Tensor) -> Tensor:
    """r^2 of every item, (batch,)."""
    return variance(problem.prior, problem.likelihood(), mean, SIGMA).flatten().expand(len(mean))


@pytest.mark.parametrize("variance", [error_curve, noise_level, seen_error])
@pytest.mark.parametrize("exact", [True, False])
def test_the_proximal_step_weighs_data_and_denoised_image(problem: Problem, variance: Variance, exact: bool) -> None:
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    likelihood = problem.likelihood(exact=exact)
    both = Proximal(problem.prior, likelihood, variance=variance, cg_steps=60, cg_tolerance=1e-13)
    estimate = both.estimate(noisy, SIGMA, LOWER, no_noise)
    mean = problem.prior.denoise(noisy, SIGMA)
    expected = torch.cat([minimiser(problem, m[None], r2) for m, r2 in zip(mean, errors(variance, problem, mean), strict=True)])
    torch.testing.assert_close(estimate.clean, expected, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(estimate.clean + SIGMA * estimate.noise, noisy)


def test_the_published_step_keeps_the_noise_of_the_denoised_image(problem: Problem) -> None:
    noisy, likelihood = random((3, 8), problem.mean.dtype, "noisy"), problem.likelihood()
    estimate = Decomposed(problem.prior, likelihood, gamma=2.0).estimate(noisy, SIGMA, LOWER, no_noise)
    mean = problem.prior.denoise(noisy, SIGMA)
    size = norm(likelihood.A, like=problem.mean)
    torch.testing.assert_close(estimate.noise, (noisy - mean) / SIGMA)
    torch.testing.assert_close(estimate.clean, minimiser(problem, mean, 2.0 / size**2), atol=1e-9, rtol=1e-7)


def test_fewer_conjugate_gradients_stay_nearer_to_the_denoised_image(problem: Problem) -> None:
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    mean = problem.prior.denoise(noisy, SIGMA)
    distances = []
    for steps in (1, 3, 30):
        both = Decomposed(problem.prior, problem.likelihood(exact=False), gamma=50.0, cg_steps=steps)
        distances.append(float((both.estimate(noisy, SIGMA, LOWER, no_noise).clean - mean).norm()))
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]


@pytest.mark.parametrize("exact", [True, False])
def test_perturbed_steps_draw_from_the_product_of_two_gaussians(problem: Problem, exact: bool) -> None:
    count, noisy = 20_000, random((1, 8), problem.mean.dtype, "noisy")
    both = Perturbed(problem.prior, problem.likelihood(exact=exact), cg_steps=60, cg_tolerance=1e-10)
    many = noisy[None].expand(1, count, 8)
    found = both.estimate(many, SIGMA, LOWER, seeded_draw(0, [0], (1,))).clean[0]
    r2 = problem.prior.error(SIGMA)
    system = problem.matrix.mH @ problem.matrix / problem.noise_std**2 + torch.eye(8, dtype=problem.matrix.dtype) / r2
    cov = torch.linalg.inv(system)
    centred = found - found.mean(0)
    measured = centred.T @ centred.conj() / (count - 1) / (2 if found.is_complex() else 1)
    spread = cov.diagonal().real.max()
    torch.testing.assert_close(measured, cov, atol=6 * float(spread) * (2 / count) ** 0.5, rtol=0)
    expected = minimiser(problem, problem.prior.denoise(noisy, SIGMA), r2)[0]
    torch.testing.assert_close(found.mean(0), expected, atol=5 * float(spread / count) ** 0.5 * 2**0.5, rtol=0)


def test_without_noise_the_perturbed_step_is_the_proximal_one(problem: Problem) -> None:
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    drawn, plain = (kind(problem.prior, problem.likelihood()).estimate(noisy, SIGMA, LOWER, no_noise) for kind in (Perturbed, Proximal))
    torch.testing.assert_close(drawn.clean, plain.clean)


@pytest.mark.parametrize("kind", [Proximal, Perturbed, Decomposed])
def test_items_of_a_batch_do_not_meet(problem: Problem, kind: type[Proximal]) -> None:
    noisy = random((4, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100

    def estimate(images: Tensor, keys: list[int]) -> Tensor:
        both = kind(problem.prior, problem.likelihood(exact=False))
        return both.estimate(images, SIGMA, LOWER, seeded_draw(0, keys, (len(keys),))).clean

    whole = estimate(noisy, [0, 1, 2, 3])
    for k in range(4):
        torch.testing.assert_close(estimate(noisy[k : k + 1], [k]), whole[k : k + 1], atol=1e-10, rtol=1e-8)


def test_a_sampler_cannot_tell_a_data_step_from_its_prior(problem: Problem) -> None:
    both = Proximal(problem.prior, problem.likelihood())
    assert isinstance(both, Consistency)
    for name in ("field", "sigma_range", "data_std", "image_axes", "domain_name"):
        assert getattr(both, name) == getattr(problem.prior, name)
    noisy = random((2, 8), problem.mean.dtype, "noisy")
    torch.testing.assert_close(both.denoise(noisy, SIGMA), problem.prior.denoise(noisy, SIGMA))
    torch.testing.assert_close(both.error(SIGMA), problem.prior.error(SIGMA))
    assert both.scale(8) == problem.prior.scale(8)


class Counts(Likelihood):
    """A likelihood that is not Gaussian, without a proximal step."""

    def __init__(self) -> None:
        self.y = torch.ones(8, dtype=torch.float64)

    domain = (8,)
    n_data = 8

    def residual(self, x: Tensor) -> Tensor:
        return x - self.y

    def value(self, x: Tensor) -> Tensor:
        return (x - self.y * x.log()).sum(-1, keepdim=True)

    def gradient(self, x: Tensor) -> Tensor:
        return 1 - self.y / x


@pytest.mark.parametrize("kind", [Proximal, Perturbed, Decomposed])
def test_a_likelihood_without_the_step_is_refused_by_name(kind: type[Proximal]) -> None:
    with pytest.raises(NotSupported, match="Counts"):
        kind(dense(8, 6).prior, Counts()).estimate(torch.ones(1, 8, dtype=torch.float64), SIGMA, LOWER, no_noise)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(gamma: float) -> None:
    with pytest.raises(BadInput, match="gamma"):
        Decomposed(dense(8, 6).prior, dense(8, 6).likelihood(), gamma=gamma)
