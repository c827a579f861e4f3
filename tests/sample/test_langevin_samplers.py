"""Predictor-corrector and annealed Langevin dynamics: exact moments, stationary variances, released formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.iterate import run
from medrecon.prior.denoiser import Estimate
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import log_levels
from medrecon.sample.langevin import _corrected, annealed_langevin, predictor_corrector
from medrecon.tensors import Draw, seeded_draw
from tests.oracles.gaussian import Problem, dense, measured, moments, published
from tests.sample.known_posteriors import exact


class Merged(Consistency):
    """The noisy image with its measured part replaced by noisy data, then denoised (Song et al. 2022)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.prior, problem.likelihood())
        self.problem, self.inverse = problem, torch.linalg.pinv(problem.matrix)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        data = self.problem.y + sigma * draw(noisy) @ self.problem.matrix.mT
        merged = noisy + (data - noisy @ self.problem.matrix.mT) @ self.inverse.mT
        clean = self.prior.denoise(merged, sigma)
        return Estimate(clean, (merged - clean) / sigma)


class Drawn(Consistency):
    """The score plus A^H (y - A u) / (noise^2 + sigma^2), |A| = 1 (Jalal et al. 2021)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.prior, problem.likelihood())
        self.problem = problem

    def stiffness(self, sigma: Tensor) -> Tensor:
        return 1 + sigma**2 / (self.problem.noise_std**2 + sigma**2)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        p = self.problem
        pull = (p.y - noisy @ p.matrix.mT) @ p.matrix.conj() / (p.noise_std**2 + sigma**2)
        clean = self.prior.denoise(noisy, sigma) + sigma**2 * pull
        return Estimate(clean, (noisy - clean) / sigma)


@pytest.mark.parametrize(("name", "expected"), [("iso64", (0.102, 0.754, 0.062, 1.056)), ("aniso64", (0.379, 0.930, 0.071, 1.380))])
def test_predictions_from_merged_states_have_the_moments_of_an_independent_implementation(name, expected) -> None:  # type: ignore[no-untyped-def]
    problem = published(name)
    found = measured(
        problem, *moments(partial(predictor_corrector, corrector_steps=0), Merged(problem), log_levels(100, 378.0, 0.01), problem.mean)
    )
    assert (found.dmean, found.sd, found.sd_range, found.sd_null) == pytest.approx(expected, abs=0.004)


def test_the_corrector_takes_the_bias_of_merging_out_of_unmeasured_directions() -> None:
    problem = published("aniso64")
    draw = seeded_draw(0, [0], (1,))
    x = 378 * draw(torch.zeros(1, 1000, 64, dtype=torch.float64))
    found = run(predictor_corrector(Merged(problem), x, log_levels(100, 378.0, 0.01), draw)).x[0]
    after = measured(problem, found.mean(0), found.T.cov())
    assert (after.dmean, after.sd_null) == pytest.approx((0.258, 1.18), abs=0.03)  # without: 0.379, 1.380


def test_predictions_keep_the_marginals_without_data_as_the_steps_grow() -> None:
    prior = exact(published("aniso64"))
    errors = []
    for steps in (60, 120):
        levels = log_levels(steps, 100.0, 0.02)[:-1]
        _, cov = moments(partial(predictor_corrector, corrector_steps=0), prior, levels, prior.mean)
        spread = (prior.vectors.mT @ cov @ prior.vectors).diagonal() / (prior.values + levels[-1] ** 2)
        errors.append(float((spread - 1).abs().max()))
    assert errors[1] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4)


def test_short_correctors_keep_the_marginals_without_data() -> None:
    prior = exact(published("aniso64"))
    draw = seeded_draw(0, [0], (1,))
    levels = log_levels(200, 100.0, 0.02)
    x = 100 * draw(torch.zeros(1, 500, 64, dtype=torch.float64))
    for step, level in zip(predictor_corrector(prior, x, levels[:-1], draw, snr=0.05), levels[1:], strict=False):
        if level < 50:
            spread = ((step.x[0] - prior.mean) @ prior.vectors).square().mean(0) / (prior.values + level**2)
            assert float(spread.mean()) == pytest.approx(1, abs=0.13)  # 0.07 of it by reverse diffusion, which goes like 1 / levels


@pytest.mark.parametrize("complex_field", [False, True])
def test_the_correctors_step_is_that_of_each_image(complex_field: bool) -> None:
    """x + h g + sqrt(2 h) z, h = 2 (snr |z| / |g|)^2, with the norms of one image."""
    problem = dense(6, 4, complex_field=complex_field)
    x = 3 * seeded_draw(0, [0, 1], (2,))(problem.mean.expand(2, 6))
    z = seeded_draw(1, [0, 1], (2,))(x)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    found = _corrected(problem.prior, x, sigma, lambda like: z, 0.16)
    for image, noise, result in zip(x, z, found, strict=True):
        score = (problem.prior.denoise(image, sigma) - image) / sigma**2
        h = 2 * (0.16 * torch.linalg.vector_norm(noise) / torch.linalg.vector_norm(score)) ** 2
        torch.testing.assert_close(result, image + h * score + (2 * h).sqrt() * noise, atol=1e-12, rtol=0)


@pytest.mark.parametrize("step", [0.1, 0.3, 1.15])
@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_the_stationary_variance_of_a_level_is_that_of_unadjusted_langevin(step: float, sigma: float) -> None:
    """v / (1 - h / (2 v)) with v = C + sigma^2, h = step sigma^2: to 2 % after many steps at one level."""
    variance = 0.25
    prior = Gaussian(torch.zeros(1, dtype=torch.float64), variance * torch.eye(1, dtype=torch.float64))
    levels = torch.full((150,), sigma, dtype=torch.float64)
    _, cov = moments(partial(annealed_langevin, inner=1, step=step), prior, levels, prior.mean)
    v, h = variance + sigma**2, step * sigma**2
    assert float(cov) == pytest.approx(v / (1 - h / (2 * v)), rel=0.02)


@pytest.mark.parametrize(
    ("name", "expected"), [("1d", (0.021, 1.023, 1.023)), ("iso64", (0.398, 1.211, 1.805)), ("aniso64", (0.338, 1.219, 1.578))]
)
def test_annealed_langevin_has_the_bias_of_an_independent_implementation(name: str, expected) -> None:  # type: ignore[no-untyped-def]
    problem = published(name)
    found = measured(problem, *moments(annealed_langevin, Drawn(problem), log_levels(200, 20.0, 0.01), problem.mean))
    assert (found.dmean, found.sd, found.sd_range) == pytest.approx(expected, abs=0.012)  # here the last estimate is clean


@pytest.mark.parametrize("sampler", [predictor_corrector, annealed_langevin])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_langevin_images_do_not_depend_on_their_neighbours(sampler, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    problem = dense(6, 4, complex_field=dtype.is_complex)
    prior = Gaussian(problem.mean.to(dtype), problem.cov.to(dtype))
    levels = log_levels(20, 20.0, 0.02)

    def solved(keys: list[int]) -> Tensor:
        draw = seeded_draw(0, keys, (len(keys),))
        return run(sampler(prior, 20 * draw(torch.zeros(len(keys), 6, dtype=dtype)), levels, draw)).x

    together = solved([0, 1, 2])
    assert together.dtype == dtype
    torch.testing.assert_close(together[1:2], solved([1]), atol=1e-4, rtol=1e-4)
