"""The parallel sampler returns what the sequential one does, in fewer turns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.projection import NullSpace
from medrecon.consistency.proximal import Perturbed, Proximal
from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.gaussian import GaussianMixture
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import ancestral, euler
from medrecon.sample.fixed_point import parallel
from medrecon.sample.travel import travelled
from medrecon.tensors import Draw, seeded_draw
from tests.oracles.gaussian import dense


def both(prior: Prior, sigmas: Tensor, dtype: torch.dtype, n: int, churn: float, **settings: float) -> tuple[float, int]:
    """Relative difference of the parallel sampler from the sequential one, and its iterations."""
    x = float(sigmas[0]) * seeded_draw(0, [0, 1, 2], (3,))(torch.zeros(3, n, dtype=dtype))
    one = run(ancestral(prior, x, sigmas, seeded_draw(1, [0, 1, 2], (3,)), churn=churn)).x
    all_at_once = run(parallel(prior, x, sigmas, seeded_draw(1, [0, 1, 2], (3,)), churn=churn, **settings))
    assert all_at_once.x.dtype == dtype
    return float((all_at_once.x - one).norm() / one.norm()), all_at_once.n_steps


def step(complex_field: bool) -> Proximal:
    problem = dense(8, 6, complex_field=complex_field)
    return Proximal(problem.prior, problem.likelihood())


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("churn", [0.0, 1.0])
@pytest.mark.parametrize("window", [7, 25])
@pytest.mark.parametrize("history", [1, 5])
def test_as_many_iterations_as_levels_are_exact(complex_field: bool, churn: float, window: int, history: int) -> None:
    dtype = torch.complex128 if complex_field else torch.float64
    error, turns = both(step(complex_field), edm_levels(25, 20.0, 0.02), dtype, 8, churn, window=window, history=history, tolerance=0.0)
    assert error < 1e-9
    assert turns <= 25


@pytest.mark.parametrize("churn", [0.0, 1.0])
@pytest.mark.parametrize("history", [1, 5])
def test_it_converges_in_few_turns(churn: float, history: int) -> None:
    for levels, turns_at_most in ((25, 13), (100, 32)):
        error, turns = both(step(True), edm_levels(levels, 20.0, 0.02), torch.complex128, 8, churn, history=history)
        assert error < 1e-3
        assert turns <= turns_at_most


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_priors_of_several_modes_and_steps_of_one_level_at_a_time(churn: float) -> None:
    class OneLevel(GaussianMixture):
        item_levels = False

        def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
            assert sigma.ndim == 0
            return super().estimate(noisy, sigma, lower, draw)

    means = torch.tensor([[1.0, -1.0], [-1.0, 0.5]], dtype=torch.float64)
    for kind in (GaussianMixture, OneLevel):
        error, _ = both(kind([0.3, 0.7], means.unsqueeze(1), [0.05, 0.1]), edm_levels(20, 20.0, 0.02), torch.float64, 2, churn)
        assert error < 1e-3


def test_single_precision_and_time_travel() -> None:
    problem = dense(6, 4)
    prior = type(problem.prior)(problem.mean.float(), problem.cov.float())
    error, _ = both(prior, travelled(edm_levels(12, 10.0, 0.05), length=4, repeats=2), torch.float32, 6, 1.0, tolerance=1e-6)
    assert error < 1e-5


def test_parallel_images_do_not_depend_on_their_neighbours() -> None:
    data_step, sigmas = step(True), edm_levels(25, 20.0, 0.02)

    def solved(keys: list[int]) -> Tensor:
        draw = seeded_draw(0, keys, (len(keys),))
        return run(parallel(data_step, 20 * draw(torch.zeros(len(keys), 8, dtype=torch.complex128)), sigmas, draw)).x

    torch.testing.assert_close(solved([0, 1, 2])[1:2], solved([1]), atol=1e-10, rtol=0)


class Memory(Proximal):
    remembers = True


def test_data_steps_that_remember_are_refused() -> None:
    problem = dense(4, 3)
    x = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(NotSupported, match="Memory remembers"):
        run(parallel(Memory(problem.prior, problem.likelihood()), x, edm_levels(5, 10.0, 0.1), seeded_draw(0, [0], (1,))))
    with pytest.raises(BadInput, match="window = 0"):
        run(parallel(problem.prior, x, edm_levels(5, 10.0, 0.1), seeded_draw(0, [0], (1,)), window=0))


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("kind", [Perturbed, NullSpace])
def test_data_steps_that_draw_get_the_same_noise_in_every_turn(kind: type[Consistency], complex_field: bool) -> None:
    """With a draw that knows only shapes the order of the draws does not matter, and both samplers see the same noise."""
    problem = dense(8, 6, complex_field=complex_field)
    data_step, sigmas = kind(problem.prior, problem.likelihood()), edm_levels(30, 20.0, 0.02)
    dtype = problem.mean.dtype

    def draw(like: Tensor) -> Tensor:
        return seeded_draw(like.shape[-1], [0], (1,))(like)

    x = 20 * draw(torch.zeros(1, 8, dtype=dtype))
    for sampler, churn in ((euler, 0.0), (ancestral, 1.0)):
        one = run(sampler(data_step, x, sigmas, draw)).x
        together = run(parallel(data_step, x, sigmas, draw, churn=churn, tolerance=1e-6))
        torch.testing.assert_close(together.x, one, atol=1e-4, rtol=0)
        assert together.n_steps < 30
