"""Iterations that see prior and data: their fixed points against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, Diverged
from medrecon.iterate import Step, run
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.prior.wrapped import Wrapped
from medrecon.sample.implicit_prior import Restorer, drp
from medrecon.sample.plug_and_play import half_quadratic, pnp_admm, pnp_fista, red
from medrecon.sample.variational import reddiff, released
from medrecon.solvers.likelihood import Gaussian as Data
from medrecon.solvers.norm import norm
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Problem, dense, published
from tests.solvers.systems import Matrix

PROBLEMS = {
    "real": dense(8, 6),
    "complex": dense(8, 6, complex_field=True),
    "rank deficient": dense(8, 6, rank=2),
    "ill conditioned": dense(8, 6, condition=1e4, noise_std=1e-2),
}
ALL: list[Callable[..., Iterator[Step]]] = [reddiff, released, pnp_fista, red, pnp_admm, half_quadratic, drp]


def constant(sigma: float, steps: int) -> Tensor:
    return torch.cat([torch.full((steps,), sigma, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


def levels(problem: Problem, steps: int) -> Tensor:
    """As a recipe has them."""
    std = problem.prior.data_std
    return edm_levels(steps, 20 * std, min(0.05 * std, 0.5 / norm(problem.likelihood().A, like=problem.mean)))


def result(problem: Problem, iteration: Callable[..., Iterator[Step]], sigmas: Tensor, exact: bool = True) -> Tensor:
    x = torch.zeros(1, *problem.mean.shape, dtype=problem.mean.dtype)
    steps = iteration(problem.prior, problem.likelihood(exact=exact), x, sigmas, seeded_draw(0, [0], (1,)))
    return run(steps, limit=len(sigmas) - 1).x[0]


def mode(problem: Problem, variance: Callable[[Tensor], Tensor]) -> Tensor:
    """argmin |A x - y|^2 / 2 + (x - m)^H variance(C)^-1 (x - m) / 2, whitened."""
    A, y = problem.matrix / problem.noise_std, problem.y / problem.noise_std
    precision = torch.linalg.inv(variance(problem.cov.to(A.dtype)))
    return torch.linalg.solve(A.mH @ A + precision, A.mH @ y + precision @ problem.mean)


def smoothed(sigma: float) -> Callable[[Tensor], Tensor]:
    return lambda cov: cov + sigma**2 * torch.eye(len(cov), dtype=cov.dtype)


def error(problem: Problem, x: Tensor) -> float:
    """|x - posterior mean| in posterior standard deviations."""
    mean, cov = problem.posterior()
    away = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (x - mean).unsqueeze(-1), upper=False)
    return float(away.norm()) / len(mean) ** 0.5


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize("iteration", [reddiff, red, partial(red, accelerated=False), drp, partial(drp, tau=0.5)])
def test_scores_lead_to_the_mode_of_the_smoothed_posterior(problem: Problem, iteration: Callable[..., Iterator[Step]]) -> None:
    sigma = 0.5
    found = result(problem, iteration, constant(sigma, 600))
    torch.testing.assert_close(found, mode(problem, smoothed(sigma)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "errors"), [("iso64", (0.0480, 0.0009, 0.0000)), ("aniso64", (0.4455, 0.0184, 0.0002))])
def test_the_smoothed_mode_approaches_the_posterior_mean_by_the_published_errors(name: str, errors: tuple[float, ...]) -> None:
    problem = published(name)
    for sigma, expected in zip((1.0, 0.1, 0.01), errors, strict=True):
        assert error(problem, mode(problem, smoothed(sigma))) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_admm_leads_to_the_posterior_mean_at_every_denoiser_strength(problem: Problem, sigma: float) -> None:
    floor = 1 / norm(problem.likelihood().A, like=problem.mean)
    found = result(problem, pnp_admm, torch.cat([levels(problem, 60)[:-1], constant(max(sigma, floor), 600)]))
    torch.testing.assert_close(found, problem.posterior()[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("problem", [PROBLEMS["real"], PROBLEMS["complex"], PROBLEMS["rank deficient"]])
def test_proximal_gradients_lead_to_the_posterior_mean_where_the_strength_is_the_step(problem: Problem) -> None:
    found = result(problem, partial(pnp_fista, anneal=False), constant(0.1, 1200))
    torch.testing.assert_close(found, problem.posterior()[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("accelerated", [True, False])
def test_a_denoiser_stronger_than_the_step_weighs_the_prior_by_their_ratio(accelerated: bool) -> None:
    """grad(x) + (s^2 / t) C^-1 (x - m) = 0 with t = 1 / (1.05 |A|^2)."""
    problem, strength = PROBLEMS["real"], 0.4
    ratio = strength**2 * 1.05 * norm(problem.likelihood().A, like=problem.mean) ** 2
    found = result(problem, partial(pnp_fista, accelerated=accelerated), constant(strength, 2000))
    torch.testing.assert_close(found, mode(problem, lambda cov: cov / ratio), atol=1e-6, rtol=1e-6)
    assert error(problem, found) > 0.1


def test_half_quadratic_splitting_solves_its_own_equation() -> None:
    """x = (A^H A + rho)^-1 (A^H y + rho D(x)): with s = 1/|A| throughout the last steps no longer move."""
    problem = PROBLEMS["real"]
    s = 1 / norm(problem.likelihood().A, like=problem.mean)
    found = result(problem, partial(half_quadratic, strongest=1e-6), constant(1.0, 3000))
    again = problem.prior.denoise(problem.likelihood().prox(found, 0.23 / s**2), torch.tensor(s))
    torch.testing.assert_close(again, found, atol=1e-8, rtol=0)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize(("iteration", "bound"), [(reddiff, 0.17), (red, 0.05), (pnp_admm, 0.002), (drp, 0.12)])
def test_a_hundred_levels_come_close_to_the_posterior_mean(
    problem: Problem, iteration: Callable[..., Iterator[Step]], bound: float
) -> None:
    assert error(problem, result(problem, iteration, levels(problem, 100))) < bound


def test_noise_of_opposite_sign_cancels() -> None:
    """With one draw a step the gradient's noise stays in the image; with pairs a Gaussian prior leaves none."""
    problem = published("aniso64")
    assert error(problem, result(problem, reddiff, levels(problem, 100))) < 0.1
    assert error(problem, result(problem, partial(reddiff, noises=1), levels(problem, 100))) > 0.5


def test_the_released_weights_lose_the_prior() -> None:
    """In the null space nothing holds the image, in the range the noise is fitted."""
    problem = published("1d")
    likelihood = problem.likelihood()
    found = result(problem, released, torch.cat([edm_levels(300, 20.0, 0.001)[:-1], constant(0.001, 300)]))
    least_squares = problem.y / problem.matrix[0]
    assert abs(float(found - least_squares)) < 0.02 < abs(float(problem.posterior()[0] - least_squares))
    assert float(likelihood.chi2(found)) < 0.01


class Deblurring(Restorer):
    """The affine restorer of H x + sigma n for a Gaussian prior."""

    def __init__(self, problem: Problem, degradation: LinearOperator, matrix: Tensor) -> None:
        super().__init__()
        self.problem, self.degradation, self.matrix = problem, degradation, matrix
        self.data_std, self.image_axes = problem.prior.data_std, 1

    def restore(self, degraded: Tensor, sigma: Tensor) -> Tensor:
        H, cov = self.matrix, self.problem.cov.to(self.matrix.dtype)
        total = H @ cov @ H.mH + sigma**2 * torch.eye(len(H), dtype=torch.float64)
        gain = torch.linalg.solve(total, H @ cov).mH
        return self.problem.mean + (degraded - H @ self.problem.mean) @ gain.mT

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.problem.prior.denoise(noisy, sigma)


@pytest.mark.parametrize("name", ["real", "complex"])
def test_a_restorer_leads_to_the_mode_under_the_density_of_degraded_images(name: str) -> None:
    """grad(x) + H^H (H C H^H + sigma^2)^-1 H (x - m) = 0, and gamma = tau sigma^2 makes it so for every tau."""
    problem, sigma = PROBLEMS[name], 0.5
    dtype = problem.mean.dtype
    H = torch.diag(torch.linspace(1, 0.3, 8, dtype=torch.float64)).to(dtype)[:7]
    prior = Wrapped(Deblurring(problem, Matrix(H), H))
    x = torch.zeros(1, 8, dtype=dtype)
    A, y = problem.matrix / problem.noise_std, problem.y / problem.noise_std
    inside = H @ problem.cov.to(dtype) @ H.mH + sigma**2 * torch.eye(7, dtype=torch.float64)
    precision = H.mH @ torch.linalg.solve(inside, H)
    known = torch.linalg.solve(A.mH @ A + precision, A.mH @ y + precision @ problem.mean)
    for tau in (1.0, 0.5):
        steps = drp(prior, problem.likelihood(), x, constant(sigma, 300), seeded_draw(0, [0], (1,)), tau=tau, data_steps=16)
        torch.testing.assert_close(run(steps, limit=300).x[0], known, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("iteration", ALL)
def test_every_item_of_a_batch_is_reconstructed_as_if_alone(iteration: Callable[..., Iterator[Step]]) -> None:
    problem = PROBLEMS["complex"]
    A = problem.likelihood().A
    y = torch.stack([problem.y, 30 * problem.y.flip(-1), 0 * problem.y]) / problem.noise_std
    sigmas = levels(problem, 12)

    def reconstructed(chosen: list[int]) -> Tensor:
        keys = [(draw, item) for draw in range(2) for item in chosen]
        x = torch.zeros(2, len(chosen), 8, dtype=torch.complex128)
        return run(iteration(problem.prior, Data(A, y[chosen]), x, sigmas, seeded_draw(0, keys, x.shape[:2])), limit=12).x

    together = reconstructed([0, 1, 2])
    for item in range(3):
        torch.testing.assert_close(together[:, [item]], reconstructed([item]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("iteration", ALL)
def test_single_precision_stays_single(iteration: Callable[..., Iterator[Step]]) -> None:
    problem = PROBLEMS["complex"]
    prior = type(problem.prior)(problem.mean.to(torch.complex64), problem.cov.to(torch.complex64))
    data = Data(Matrix((problem.matrix / problem.noise_std).to(torch.complex64)), (problem.y / problem.noise_std).to(torch.complex64))
    x = torch.zeros(1, 8, dtype=torch.complex64)
    found = run(iteration(prior, data, x, levels(problem, 20), seeded_draw(0, [0], (1,))), limit=20).x
    assert found.dtype == torch.complex64
    assert torch.isfinite(found.abs()).all()


class Expansive(Prior):
    """No denoiser: it enlarges whatever it gets."""

    image_axes = 1

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return 1e30 * noisy


@pytest.mark.parametrize("iteration", [pnp_fista, pnp_admm, red, drp, reddiff])
def test_a_run_that_blows_up_is_reported(iteration: Callable[..., Iterator[Step]]) -> None:
    problem = PROBLEMS["rank deficient"]
    x = torch.zeros(1, 8, dtype=torch.float64)
    with pytest.raises(Diverged, match="not finite"):
        run(iteration(Expansive(), problem.likelihood(exact=True), x, constant(1.0, 100), seeded_draw(0, [0], (1,))), limit=100)


def test_settings_out_of_range_are_refused_by_name() -> None:
    problem = PROBLEMS["real"]
    for iteration, words in (
        (partial(drp, tau=2.0), "tau = 2.0"),
        (partial(drp, gamma=-1.0), "gamma = -1.0"),
        (partial(reddiff, noises=0), "noises = 0"),
    ):
        with pytest.raises(BadInput, match=words):
            result(problem, iteration, levels(problem, 3))
