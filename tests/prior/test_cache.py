"""The cache: what is evaluated, that polynomials are followed exactly, and what it costs on a known posterior."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.prior.cache import Cached, lagrange
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import ancestral
from tests.oracles.gaussian import published


class Polynomial(Prior):
    """Returns a polynomial of ln sigma, whatever the image; remembers where it was asked."""

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        super().__init__()
        self.coefficients, self.asked = coefficients, list[float]()

    def at(self, sigma: float) -> float:
        return sum(c * math.log(sigma) ** k for k, c in enumerate(self.coefficients))

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append(float(sigma))
        return torch.full_like(noisy, self.at(float(sigma)))


LEVELS = edm_levels(30, 20, 0.01)[:-1]


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_polynomial_of_lower_degree_than_the_order_is_followed_exactly(order: int, every: int) -> None:
    prior = Polynomial((0.4, -1.3, 0.7)[:order])
    cached, image = Cached(prior, every=every, order=order, warm=3), torch.zeros(2, 3, 4, dtype=torch.complex128)
    for sigma in LEVELS:
        found = cached.denoise(image, sigma)
        torch.testing.assert_close(found, torch.full_like(image, prior.at(float(sigma))), atol=1e-10, rtol=1e-10)


def test_the_first_the_last_and_every_second_level_are_evaluated() -> None:
    prior = Polynomial((1.0,))
    cached = Cached(prior, every=2, order=2, warm=3, finest=0.1)
    for sigma in LEVELS:
        cached.denoise(torch.zeros(1, 2, 2), sigma)
    coarse = [float(s) for s in LEVELS if s > 0.1]
    expected = coarse[:3] + coarse[4::2] + [float(s) for s in LEVELS if s <= 0.1]
    assert prior.asked == expected


def test_a_corrector_is_evaluated_and_replaces_what_was_known() -> None:
    prior = Polynomial((0.0, 1.0))
    cached, image = Cached(prior, every=3, order=2, warm=2), torch.zeros(1, 2, 2)
    for sigma in (4.0, 3.0, 2.0, 2.0, 1.0):
        cached.denoise(image, torch.tensor(sigma))
    assert prior.asked == [4.0, 3.0, 2.0]
    torch.testing.assert_close(cached.denoise(image, torch.tensor(0.5)), torch.full_like(image, math.log(0.5)), atol=1e-5, rtol=1e-5)


def test_a_rising_level_and_another_shape_forget_the_past() -> None:
    prior = Polynomial((0.0, 1.0))
    cached = Cached(prior, every=9, order=1, warm=1)
    for sigma in (6.0, 4.0, 3.0, 5.0, 4.0):
        cached.denoise(torch.zeros(1, 2, 2), torch.tensor(sigma))
    cached.denoise(torch.zeros(2, 2, 2), torch.tensor(3.5))
    assert prior.asked == [6.0, 5.0, 3.5]


def test_a_second_run_is_evaluated_where_the_first_was() -> None:
    prior = Polynomial((1.0,))
    cached = Cached(prior, warm=3)
    for sigma in torch.cat([LEVELS, LEVELS]):
        cached.denoise(torch.zeros(1, 2, 2), sigma)
    half = len(prior.asked) // 2
    assert prior.asked[:half] == prior.asked[half:]


def test_weights_of_the_extrapolation_are_those_of_equal_steps() -> None:
    assert lagrange([2.0], 5.0) == [1.0]
    assert lagrange([0.0, 1.0], 2.0) == pytest.approx([-1, 2])
    assert lagrange([0.0, 1.0, 2.0], 3.0) == pytest.approx([1, -3, 3])


def distance(prior: Prior, steps: int) -> float:
    """W2 to the posterior of DDIM with an exact denoiser, over its standard deviation; every step is affine."""
    problem = published("aniso64")
    mean, cov = problem.posterior()
    sigmas = edm_levels(steps, 100, 0.01)
    starts = float(sigmas[0]) * torch.cat([torch.zeros(1, 64), torch.eye(64)]).double()
    ends = run(partial(ancestral, churn=0.0)(prior, starts, sigmas, torch.zeros_like)).x
    found, factor = ends[0], (ends[1:] - ends[0]).T
    values, vectors = torch.linalg.eigh(cov)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ factor @ factor.T @ root).clamp_min(0).sqrt().sum()
    return math.sqrt(float((found - mean).square().sum() + cov.trace() + (factor @ factor.T).trace() - 2 * overlap) / float(cov.trace()))


@pytest.mark.parametrize(("steps", "held", "linear"), [(20, 0.249, 0.098), (40, 0.126, 0.059)])
def test_extrapolation_beats_holding_on_a_known_posterior(steps: int, held: float, linear: float) -> None:
    """Held answers are as good as half as many steps; linear ones as good as all steps evaluated."""
    exact = Gaussian(*published("aniso64").posterior())
    settings = {"warm": steps // 10, "finest": 0.1}
    assert distance(Cached(exact, every=2, order=1, **settings), steps) == pytest.approx(held, abs=0.01)  # type: ignore[arg-type]
    found = distance(Cached(exact, every=2, order=2, **settings), steps)  # type: ignore[arg-type]
    assert found == pytest.approx(linear, abs=0.01)
    assert found < distance(exact, steps)


def test_every_level_evaluated_is_the_prior_itself() -> None:
    problem = published("iso64")
    noisy = torch.randn(3, 64, dtype=torch.float64)
    cached = Cached(problem.prior, every=1)
    for sigma in (3.0, 2.0, 1.0):
        assert torch.equal(cached.denoise(noisy, torch.tensor(sigma)), problem.prior.denoise(noisy, torch.tensor(sigma)))


def test_what_a_cache_cannot_do_is_refused() -> None:
    cached, image = Cached(Polynomial((1.0,))), torch.zeros(2, 2, 2)
    with pytest.raises(NotSupported, match="cannot be differentiated"):
        cached.denoise(image.requires_grad_(), torch.tensor(1.0))
    with pytest.raises(NotSupported, match="one noise level"):
        cached.denoise(image.detach(), torch.tensor([1.0, 2.0]).reshape(2, 1, 1))
    with pytest.raises(BadInput, match="order = 4"):
        Cached(Polynomial((1.0,)), order=4)
    assert cached.remembers
    assert not cached.item_levels
