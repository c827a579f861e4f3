"""Higher-order samplers: distances to exact posteriors, orders of convergence, what they ask of a data step."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.proximal import Proximal
from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.prior.denoiser import Estimate
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels, log_levels
from medrecon.sample.ancestral import ancestral
from medrecon.sample.gradient import gradient_estimation
from medrecon.sample.heun import heun
from medrecon.sample.multistep import adams_bashforth, extrapolated, multistep
from medrecon.sample.pndm import pndm
from medrecon.tensors import Draw, seeded_draw
from tests.oracles.gaussian import dense, moments, published
from tests.sample.known_posteriors import endpoint, exact, silent, wasserstein

EULER = partial(ancestral, churn=0.0)
DETERMINISTIC = [EULER, multistep, adams_bashforth, heun, pndm, gradient_estimation]


@pytest.mark.parametrize(
    ("sampler", "distances"),
    [
        (EULER, (0.264, 0.135, 0.069)),
        (partial(gradient_estimation, gamma=1.5), (0.079, 0.021, 0.009)),  # the multistep weights 3/2, -1/2 on uneven steps
        (gradient_estimation, (0.087, 0.087, 0.056)),
        (multistep, (0.105, 0.043, 0.012)),
        (heun, (0.208, 0.042, 0.012)),
        # measured here: weights of the levels at hand, in sigma and in ln sigma
        (partial(adams_bashforth, order=2, logarithmic=False), (0.196, 0.065, 0.020)),
        (partial(adams_bashforth, order=2), (0.092, 0.024, 0.010)),
        (adams_bashforth, (0.011, 0.008, 0.008)),
        (partial(adams_bashforth, order=4), (0.033, 0.008, 0.008)),
        (pndm, (0.033, 0.008, 0.008)),
    ],
)
def test_distance_to_the_posterior_is_that_of_an_independent_implementation(sampler, distances) -> None:  # type: ignore[no-untyped-def]
    found = [wasserstein(published("aniso64"), sampler, edm_levels(steps, 100.0, 0.01)) for steps in (10, 20, 40)]
    assert found == pytest.approx(distances, abs=0.001)


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (EULER, 1),
        (partial(adams_bashforth, order=1), 1),
        (multistep, 2),
        (heun, 2),
        (partial(adams_bashforth, order=2), 2),
        (partial(adams_bashforth, order=2, logarithmic=False), 2),
        (partial(pndm, order=2), 2),
        (partial(gradient_estimation, gamma=1.0), 1),
        (pndm, 4),
    ],
)
def test_orders_of_convergence_to_the_end_of_the_flow(sampler, order: int, complex_field: bool) -> None:  # type: ignore[no-untyped-def]
    prior = exact(dense(5, 3, complex_field=complex_field, rank=2))
    x = 5 * seeded_draw(3, [0], (1,))(torch.zeros(1, 5, dtype=prior.mean.dtype))
    errors = []
    for steps in (30, 60, 120):
        sigmas = log_levels(steps + 1, 5.0, 0.2)[:-1]
        end = run(sampler(prior, x, sigmas, silent)).x
        errors.append(float((end - endpoint(prior, x, sigmas[0], sigmas[-1])).norm()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.35), (errors, orders)


def test_even_steps_have_the_classical_weights() -> None:
    levels = [1.0, 1.1, 1.2, 1.3]
    for order, weights in ((2, (3 / 2, -1 / 2)), (3, (23 / 12, -16 / 12, 5 / 12)), (4, (55 / 24, -59 / 24, 37 / 24, -9 / 24))):
        past = list(zip(levels, torch.eye(4, dtype=torch.float64), strict=True))[:order]
        found = extrapolated(past, 0.9, logarithmic=False) / -0.1
        torch.testing.assert_close(found[:order], torch.tensor(weights, dtype=torch.float64), atol=1e-12, rtol=0)


def test_polynomials_of_the_noise_are_integrated_exactly() -> None:
    levels = [0.7, 1.0, 1.9, 4.0]
    cubic = [(s, torch.tensor(math.log(s) ** 3, dtype=torch.float64)) for s in levels]
    antiderivative = [s * (math.log(s) ** 3 - 3 * math.log(s) ** 2 + 6 * math.log(s) - 6) for s in (0.1, 0.7)]
    assert float(extrapolated(cubic, 0.1)) == pytest.approx(antiderivative[0] - antiderivative[1], abs=1e-10)


@pytest.mark.parametrize("mu", [0.3, 0.5])
def test_the_random_gradient_estimate_keeps_the_marginals(mu: float) -> None:
    """gamma 1, mu 1/2 is ancestral sampling; every mu keeps variance C + sigma^2 as the steps grow."""
    prior = exact(published("1d"))
    sigmas = edm_levels(200, 100.0, 0.01)
    memoryless = partial(gradient_estimation, gamma=1.0, mu=mu)
    found = moments(memoryless, prior, sigmas, prior.mean)
    if mu == 0.5:
        torch.testing.assert_close(found, moments(ancestral, prior, sigmas, prior.mean), atol=1e-12, rtol=0)
    assert float(found[1] / prior.values) == pytest.approx(1, abs=0.08)


class Memory(Proximal):
    remembers = True


@pytest.mark.parametrize("sampler", [heun, pndm])
def test_samplers_that_look_twice_refuse_a_data_step_that_remembers(sampler) -> None:  # type: ignore[no-untyped-def]
    problem = dense(4, 3)
    step = Memory(problem.prior, problem.likelihood())
    with pytest.raises(NotSupported, match=f"{sampler.__name__} .* Memory remembers"):
        run(sampler(step, torch.zeros(1, 4, dtype=torch.float64), edm_levels(4, 10.0, 0.1), silent))
    run(multistep(step, torch.zeros(1, 4, dtype=torch.float64), edm_levels(4, 10.0, 0.1), silent))


def test_a_wrapped_prior_that_remembers_makes_the_data_step_remember() -> None:
    problem = dense(4, 3)
    assert Proximal(Memory(problem.prior, problem.likelihood()), problem.likelihood()).remembers


class Merged(Gaussian):
    """Replaces the noisy image by another one before it denoises, as merging with data does."""

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        merged = 0.5 * noisy + 1
        clean = self.denoise(merged, sigma)
        return Estimate(clean, (merged - clean) / sigma)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_the_first_step_goes_on_from_the_state_after_the_data_step(sampler) -> None:  # type: ignore[no-untyped-def]
    facts = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    x, sigmas = torch.randn(1, 2, dtype=torch.float64), torch.tensor([1.0, 0.8], dtype=torch.float64)
    if sampler in (heun, pndm):
        sigmas = torch.tensor([1.0, 1.0 - 1e-9], dtype=torch.float64)
    expected = run(sampler(Gaussian(*facts), 0.5 * x + 1, sigmas, silent)).x
    torch.testing.assert_close(run(sampler(Merged(*facts), x, sigmas, silent)).x, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_single_precision_stays_and_images_do_not_depend_on_their_neighbours(sampler, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    problem = dense(6, 4, complex_field=dtype.is_complex)
    prior = Gaussian(problem.mean.to(dtype), problem.cov.to(dtype))
    x = 10 * seeded_draw(0, [0, 1, 2], (3,))(torch.zeros(3, 6, dtype=dtype))
    sigmas = edm_levels(8, 10.0, 0.01)
    together = run(sampler(prior, x, sigmas, silent)).x
    assert together.dtype == dtype
    torch.testing.assert_close(together[1:2], run(sampler(prior, x[1:2], sigmas, silent)).x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (partial(adams_bashforth, order=5), "order = 5"),
        (partial(pndm, order=3), "order = 3"),
        (partial(gradient_estimation, mu=1.0), "mu = 1"),
    ],
)
def test_settings_out_of_range_are_named(sampler, message: str) -> None:  # type: ignore[no-untyped-def]
    prior = exact(published("1d"))
    with pytest.raises(BadInput, match=message):
        run(sampler(prior, torch.zeros(1, 1, dtype=torch.float64), edm_levels(4, 10.0, 0.1), silent))
