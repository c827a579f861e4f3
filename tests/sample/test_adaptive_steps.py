"""Error-controlled steps: right spread, fewer evaluations where it is easy, an unbiased path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.proximal import Perturbed, Proximal
from medrecon.errors import NotSupported
from medrecon.iterate import run
from medrecon.prior.gaussian import Gaussian
from medrecon.prior.schedule import edm_levels, log_levels
from medrecon.sample.adaptive import _Path, adaptive
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import dense, measured, published


class Counted(Gaussian):
    calls = 0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return super().denoise(noisy, sigma)


def many(name: str, count: int, steps: int, **settings: float):  # type: ignore[no-untyped-def]
    """Measures and evaluations of `count` draws with the exact conditional mean, in one batch."""
    problem = published(name)
    prior = Counted(*problem.posterior())
    draw = seeded_draw(0, [0], (1,))
    x = 100 * draw(torch.zeros(1, count, len(problem.mean), dtype=torch.float64))
    found = run(adaptive(prior, x, edm_levels(steps, 100.0, 0.01), draw, **settings), limit=steps).x[0]
    return measured(problem, found.mean(0), torch.atleast_2d(found.T.cov())), prior.calls


def test_draws_have_the_posteriors_mean_and_spread() -> None:
    found, calls = many("aniso64", 2000, 1000)
    assert found.dmean < 4 / 2000**0.5
    assert (found.sd, found.sd_range, found.sd_null) == pytest.approx((0.973, 0.974, 0.982), abs=0.02)
    assert found.coverage == pytest.approx(0.95, abs=0.01)
    assert calls < 200  # ancestral sampling with 200 levels: 0.97


def test_smaller_tolerances_come_closer_and_cost_more() -> None:
    loose, few = many("1d", 4000, 1000, relative=0.02, absolute=0.02)
    tight, more = many("1d", 4000, 1000, relative=0.002, absolute=0.002)
    assert few < more
    assert abs(tight.sd - 1) < 0.03 < 0.1 < abs(loose.sd - 1)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20, 41])
def test_evaluations_never_exceed_the_number_of_levels_and_end_at_the_lowest(steps: int) -> None:
    prior = Counted(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64))
    draw = seeded_draw(0, [0, 1], (2,))
    levels = edm_levels(steps, 100.0, 0.01)
    x = 100 * draw(torch.zeros(2, 8, dtype=torch.float64))
    made = list(adaptive(prior, x, levels, draw, relative=1e-9, absolute=1e-9))
    assert prior.calls <= steps
    left = [float(step.measure) for step in made if step.measure is not None]
    assert left[-1] == 0
    if steps > 2:
        assert left[-2] == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_an_image_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    problem = dense(6, 4, complex_field=dtype.is_complex)
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    prior = Gaussian(problem.mean.to(dtype), problem.cov.to(dtype if dtype.is_complex else real))
    zeros = torch.zeros(1, 6, dtype=dtype)
    levels = log_levels(300, 20.0, 0.02)

    def solved(scales: list[float]) -> Tensor:
        """One image for each scale of its start: a difficult one takes smaller steps."""
        draw = seeded_draw(0, scales, (len(scales),))
        x = torch.tensor(scales, dtype=real).unsqueeze(-1) * draw(zeros.expand(len(scales), 6))
        return run(adaptive(prior, x, levels, draw)).x

    assert solved([20.0]).dtype == dtype
    torch.testing.assert_close(solved([20.0, 400.0, 3.0])[:1], solved([20.0]), atol=2e-3 if real == torch.float32 else 1e-9, rtol=0)


def test_data_steps_work_with_a_level_for_each_image() -> None:
    problem = dense(6, 4, complex_field=True)
    draw = seeded_draw(1, [0], (1,))
    x = 40 * draw(torch.zeros(1, 2000, 6, dtype=torch.complex128))
    found = run(adaptive(Proximal(problem.prior, problem.likelihood()), x, edm_levels(200, 40.0, 0.01), draw)).x[0]
    residual = torch.linalg.vector_norm(found.mean(0) @ problem.matrix.mT - problem.y)
    assert float(residual) < 0.5  # noise of 0.1 in 8 numbers; 3 before


class OneLevel(Consistency):
    """A data step that declares nothing."""


class Memory(Proximal):
    remembers = True


@pytest.mark.parametrize(("step", "message"), [(OneLevel, "OneLevel takes one for all"), (Memory, "remembers"), (Perturbed, "random")])
def test_data_steps_that_cannot_serve_are_refused_by_name(step: type[Consistency], message: str) -> None:
    problem = dense(4, 3)
    x = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(NotSupported, match=message):
        run(adaptive(step(problem.prior, problem.likelihood()), x, edm_levels(9, 10.0, 0.1), seeded_draw(0, [0], (1,))))


def test_a_refused_step_keeps_its_path() -> None:
    """However it is cut, a path over length 1 has independent increments of variance equal to length."""
    torch.manual_seed(0)
    count = 40_000
    path, zero = _Path(), torch.zeros(count, 1, dtype=torch.float64)

    def go(length: float, refused: Tensor) -> Tensor:
        size = torch.full_like(zero, length)
        increment, rest = path.ahead(size, torch.randn_like(zero))
        path.keep(torch.where(refused, size, zero), increment, rest)
        return increment[:, 0]

    every, none, half = zero == 0, zero == 1, (torch.arange(count) % 2 == 0).unsqueeze(-1)
    whole, first = go(1.0, every), go(0.5, every)
    a, b, c, d = go(0.2, none), go(0.2, half), go(0.3, none), go(0.5, none)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    torch.testing.assert_close((a + c)[even], first[even], atol=1e-12, rtol=0)
    torch.testing.assert_close((a + c + d)[even], whole[even], atol=1e-12, rtol=0)
    for taken, lengths in (((a, c, d), (0.2, 0.3, 0.5)), ((a, b, c, d), (0.2, 0.2, 0.3, 0.5))):
        items = even if len(taken) == 3 else odd
        cov = torch.stack([part[items] for part in taken]).cov()
        torch.testing.assert_close(cov, torch.diag(torch.tensor(lengths, dtype=torch.float64)), atol=0.015, rtol=0)
