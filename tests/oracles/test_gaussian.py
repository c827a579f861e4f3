"""The oracle itself: its posterior against other formulas, its moment propagation against Monte Carlo."""

from __future__ import annotations

import pytest
import torch

from medrecon.consistency.proximal import Perturbed
from medrecon.iterate import run
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import renoise
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import dense, moments, published, real_moments


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize(("rank", "condition"), [(None, 10.0), (3, 10.0), (None, 1e5)])
def test_the_posterior_is_that_of_the_precision_form(complex_field: bool, rank: int | None, condition: float) -> None:
    problem = dense(8, 6, complex_field=complex_field, rank=rank, condition=condition)
    mean, cov = problem.posterior()
    precision = torch.linalg.inv(problem.cov) + problem.matrix.mH @ problem.matrix / problem.noise_std**2
    weighted = torch.linalg.solve(problem.cov, problem.mean) + problem.matrix.mH @ problem.y / problem.noise_std**2
    torch.testing.assert_close(cov, torch.linalg.inv(precision), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(mean, torch.linalg.solve(precision, weighted), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("complex_field", [False, True])
def test_propagated_moments_are_those_of_many_draws(complex_field: bool) -> None:
    problem = dense(4, 3, complex_field=complex_field)
    likelihood, sigmas = problem.likelihood(), edm_levels(6, 20.0, 0.02)
    mean, cov = moments(renoise, Perturbed(problem.prior, likelihood), sigmas, problem.mean)
    count = 40_000
    x = torch.zeros(1, count, 4, dtype=problem.mean.dtype)
    draw = seeded_draw(1, [0], (1,))
    found = run(renoise(Perturbed(problem.prior, likelihood), sigmas[0] * draw(x), sigmas, draw)).x[0]
    components = torch.view_as_real(found).flatten(1) if complex_field else found
    spread = cov.diagonal().max()
    torch.testing.assert_close(components.mean(0), mean, atol=4 * float((spread / count).sqrt()), rtol=0)
    torch.testing.assert_close(components.T.cov(), cov, atol=6 * float(spread) * (2 / count) ** 0.5, rtol=0)


def test_real_components_keep_the_covariance_of_a_complex_field() -> None:
    problem = dense(3, 2, complex_field=True)
    _, cov = real_moments(problem.mean, problem.cov)
    noise = torch.complex(torch.randn(3, 200_000, dtype=torch.float64), torch.randn(3, 200_000, dtype=torch.float64))
    drawn = torch.view_as_real(torch.linalg.cholesky(problem.cov) @ noise).permute(0, 2, 1).reshape(6, -1)
    torch.testing.assert_close(drawn.cov(), cov, atol=0.1, rtol=0)


def test_published_problems_have_their_stated_spectra() -> None:
    problem = published("aniso64")
    singular = torch.linalg.svdvals(problem.matrix)
    assert float(singular[0]) == pytest.approx(1, abs=1e-12)
    assert float(singular[-1]) == pytest.approx(0.1, abs=1e-12)
    assert float(problem.cov.diagonal().mean()) == pytest.approx(1, abs=1e-12)
