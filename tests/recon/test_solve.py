"""`medrecon.solve`: calibrated draws on Gaussian problems, reproducibility, units, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medrecon.consistency.proximal import error_curve, seen_error
from medrecon.errors import BadInput, Diverged, NotSupported
from medrecon.linop.basic import Diagonal
from medrecon.prior import Gaussian, StationaryGaussian
from medrecon.prior.denoiser import Prior
from medrecon.recon.solve import solve
from medrecon.solvers.likelihood import Gaussian as GaussianLikelihood
from medrecon.tensors import generator_for, unit_noise
from tests.solvers.systems import Matrix

N, M, NOISE = 24, 12, 0.05
STUDENT = 2.040  # t quantile .975 with 31 degrees of freedom


def problem() -> tuple[Matrix, Gaussian, Tensor]:
    """An ill-conditioned operator, a prior with a 1/f spectrum, its covariance."""
    generator = torch.Generator().manual_seed(1)
    u, _ = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))
    values = 1 / (1 + torch.arange(N, dtype=torch.float64)) ** 1.2
    cov = (u * (values * N / values.sum())) @ u.T
    left, _ = torch.linalg.qr(torch.randn(M, M, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(N, M, generator=generator, dtype=torch.float64))
    A = Matrix((left * torch.logspace(0, -1, M, dtype=torch.float64)) @ right.T)
    return A, Gaussian(torch.zeros(N, dtype=torch.float64), cov), cov


def draws(prior: Gaussian, cov: Tensor, A: Matrix, count: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    root = torch.linalg.cholesky(cov)
    x = unit_noise((count, N), torch.float64, generator_for(seed, "truth")) @ root.T
    return x, A(x) + NOISE * unit_noise((count, M), torch.float64, generator_for(seed, "noise"))


def test_intervals_of_the_sample_preset_cover_95_percent_on_200_gaussian_problems() -> None:
    A, prior, cov = problem()
    x, y = draws(prior, cov, A, 200)
    found = solve(A, y, "dds", prior=prior, noise_std=NOISE, samples=32, preset="sample", steps=100, seed=3)
    half = STUDENT * found.samples.std(0) * math.sqrt(1 + 1 / 32)
    covered = ((x - found.mean).abs() <= half).double().mean()
    assert 0.93 <= float(covered) <= 0.97
    assert 0.9 < sum(found.log["chi2"]) / len(found.log["chi2"]) < 1.1


def test_the_mean_of_draws_is_near_the_exact_posterior_mean() -> None:
    A, prior, cov = problem()
    _, y = draws(prior, cov, A, 4)
    a = A.matrix
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + NOISE**2 * torch.eye(M, dtype=torch.float64))
    posterior = cov - gain @ a @ cov
    found = solve(A, y, "dds", prior=prior, noise_std=NOISE, samples=256, preset="sample", seed=1)
    bias = torch.linalg.solve(torch.linalg.cholesky(posterior), (found.mean - y @ gain.T).T)
    assert float(bias.square().mean().sqrt()) < 0.25  # in posterior standard deviations; Monte Carlo floor 0.06
    spread = (found.samples.var(0).mean() / posterior.diagonal().mean()).sqrt()
    assert 0.9 < float(spread) < 1.15


def test_a_prior_that_overrates_itself_is_corrected_by_the_data() -> None:
    A, prior, cov = problem()
    x, y = draws(prior, cov, A, 16)
    likelihood = GaussianLikelihood(1 / NOISE * A, y / NOISE)
    sigma = torch.tensor(0.5, dtype=torch.float64)
    wrong = x + 0.4 * unit_noise(x.shape, x.dtype, generator_for(0, "error"))
    seen = seen_error(prior, likelihood, wrong, sigma)
    assert float(seen.mean()) == pytest.approx(0.16, rel=0.35)
    perfect = seen_error(prior, likelihood, x, sigma)
    torch.testing.assert_close(perfect, error_curve(prior, likelihood, x, sigma).expand_as(perfect))
    assert float(seen_error(prior, likelihood, x + 100, sigma).max()) == pytest.approx(0.25)


@pytest.mark.parametrize("preset", ["sample", "mmse", "paper", "fast", "ode"])
def test_a_sample_does_not_depend_on_how_many_are_drawn_or_on_the_batch(preset: str) -> None:
    A, prior, cov = problem()
    _, y = draws(prior, cov, A, 3)
    settings = {"prior": prior, "noise_std": NOISE, "preset": preset, "steps": 12, "seed": 9}
    many = solve(A, y, "dds", samples=4, **settings)  # type: ignore[arg-type]
    few = solve(A, y, "dds", samples=2, **settings)  # type: ignore[arg-type]
    first = solve(A, y[:1], "dds", samples=2, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(few.samples, many.samples[:2], atol=1e-8, rtol=0)
    torch.testing.assert_close(first.samples[:, 0], few.samples[:, 0], atol=1e-8, rtol=0)
    again = solve(A, y, "dds", samples=2, **settings)  # type: ignore[arg-type]
    assert torch.equal(again.samples, few.samples)


def test_rescaled_data_operator_and_noise_give_the_same_image() -> None:
    A, prior, cov = problem()
    _, y = draws(prior, cov, A, 2)
    here = solve(A, y, "dds", prior=prior, noise_std=NOISE, samples=2, steps=20)
    there = solve(Matrix(A.matrix * 1e-6), y * 1e-6, "dds", prior=prior, noise_std=NOISE * 1e-6, samples=2, steps=20)
    torch.testing.assert_close(here.samples, there.samples, atol=1e-5, rtol=1e-5)


def test_complex_problems_have_noise_and_spread_per_component() -> None:
    shape = (6, 5)
    prior = StationaryGaussian(torch.zeros(shape, dtype=torch.complex128), torch.ones(shape, dtype=torch.float64))
    A = Diagonal(torch.ones(shape, dtype=torch.complex128))
    noise = 0.5
    x = unit_noise((50, *shape), torch.complex128, generator_for(0, "x"))
    y = x + noise * unit_noise(x.shape, x.dtype, generator_for(0, "n"))
    found = solve(A, y, "dds", prior=prior, noise_std=noise, samples=32, preset="sample", steps=40)
    exact = noise**2 / (1 + noise**2)
    assert float(found.samples.real.var(0).mean()) == pytest.approx(exact, rel=0.1)
    assert float(found.samples.imag.var(0).mean()) == pytest.approx(exact, rel=0.1)
    torch.testing.assert_close(found.mean, y / (1 + noise**2), atol=4 * (2 * exact / 32) ** 0.5, rtol=0)


class Broken(Prior):
    """Returns NaN."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy * float("nan")


def test_refusals_say_what_to_do() -> None:
    A, prior, cov = problem()
    _, y = draws(prior, cov, A, 1)
    with pytest.raises(BadInput, match="noise_std="):
        solve(A, y, "dds", prior=prior, noise_std=0)
    with pytest.raises(BadInput, match="needs a prior"):
        solve(A, y, "dds", noise_std=NOISE)
    with pytest.raises(NotSupported, match="no randomness"):
        solve(A, y, "sense", noise_std=NOISE, samples=2)
    with pytest.raises(BadInput, match="did you mean 'sense'"):
        solve(A, y, "sens", noise_std=NOISE)
    with pytest.raises(BadInput, match="did you mean 'cg_steps'"):
        solve(A, y, "dds", prior=prior, noise_std=NOISE, cg_step=3)
    with pytest.raises(BadInput, match="preset"):
        solve(A, y, "dds", prior=prior, noise_std=NOISE, preset="samples")
    with pytest.raises(Diverged, match="finite"):
        solve(A, y, "dds", prior=Broken(), noise_std=NOISE, steps=3)


def test_noise_free_data_run_where_no_noise_level_is_needed() -> None:
    A, prior, cov = problem()
    x, _ = draws(prior, cov, A, 1)
    found = solve(A, A(x), "sense", noise_std=0, steps=60)
    torch.testing.assert_close(A(found.mean), A(x), atol=1e-5, rtol=0)


class Runaway(Prior):
    """Finite, and far from anything."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy + 1e6


def test_a_run_that_left_the_road_says_what_to_change() -> None:
    A, _, cov = problem()
    _, y = draws(Gaussian(torch.zeros(N, dtype=torch.float64), cov), cov, A, 2)
    with pytest.raises(Diverged, match=r"method ddnm: .*worse than none.*cg_steps"):
        solve(A, y, "ddnm", prior=Runaway(), noise_std=NOISE, steps=3)


def test_an_image_that_misses_the_data_is_told() -> None:
    A, prior, cov = problem()
    _, y = draws(prior, cov, A, 2)
    stubborn = Gaussian(torch.ones(N, dtype=torch.float64), 1e-6 * torch.eye(N, dtype=torch.float64))
    found = solve(A, y, "red", prior=stubborn, noise_std=NOISE, steps=20)
    assert any("explains the data badly" in warning for warning in found.log["warnings"])
