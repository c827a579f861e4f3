"""D-Flow and EnKG against closed forms."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.prior.schedule import edm_levels
from medrecon.sample import ensemble
from medrecon.sample.ensemble import enkg
from medrecon.sample.flow import flow
from medrecon.sample.source import dflow, normal, shell
from medrecon.solvers.likelihood import Gaussian as Data
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Problem, dense

REAL, COMPLEX = dense(8, 6), dense(8, 6, complex_field=True)
HIGH, LOW = 40.0, 0.05


def optimum(problem: Problem, flow_steps: int, outer: int = 60, **settings: object) -> Tensor:
    x = torch.zeros(1, *problem.mean.shape, dtype=problem.mean.dtype)
    sigmas = edm_levels(outer, HIGH, LOW)
    return run(
        dflow(problem.prior, problem.likelihood(), x, sigmas, lambda t: torch.zeros_like(t), flow_steps=flow_steps, **settings), outer
    ).x[0]  # type: ignore[arg-type]


def carried(problem: Problem, flow_steps: int) -> tuple[Tensor, Tensor]:
    """Offset and matrix of z to image, found by running the flow on unit vectors."""
    levels = edm_levels(flow_steps, HIGH, LOW)
    mean = problem.prior.denoise(torch.zeros_like(problem.mean), levels[0])
    u = mean + (HIGH**2 + problem.prior.data_std**2) ** 0.5 * torch.cat([torch.zeros(1, 8), torch.eye(8)]).to(mean.dtype)
    for sigma, lower in pairwise(levels):
        u = flow(problem.prior, u, sigma, lower)
    return u[0], (u[1:] - u[0]).mT


@pytest.mark.parametrize("problem", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_optimal_source_is_the_posteriors_mean_for_the_flow_as_it_is(problem: Problem, checkpoint: bool) -> None:
    offset, forward = carried(problem, 6)
    A, y = problem.matrix / problem.noise_std @ forward, (problem.y - problem.matrix @ offset) / problem.noise_std
    z = torch.linalg.solve(A.mH @ A + torch.eye(8, dtype=torch.float64), A.mH @ y)
    torch.testing.assert_close(optimum(problem, 6, checkpoint=checkpoint), offset + forward @ z, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blend", [0.0, 1.0])
def test_the_start_does_not_matter_for_a_gaussian_prior(blend: float) -> None:
    torch.testing.assert_close(optimum(REAL, 6, blend=blend), optimum(REAL, 6, blend=0.5), atol=1e-5, rtol=1e-5)


def test_more_steps_of_the_flow_approach_the_posterior_mean() -> None:
    errors = [float((optimum(REAL, steps, outer=25) - REAL.posterior()[0]).norm()) for steps in (6, 16, 40)]
    assert errors[0] > 2 * errors[1]
    assert errors[2] < errors[1]
    assert errors[2] < 0.01


@pytest.mark.parametrize("penalty", [normal, shell])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_the_penalties_are_those_of_their_values(penalty, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    z = torch.randn(2, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.enable_grad():
        value, gradient = penalty(z, 2)
        (known,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(gradient, known)


def test_every_item_has_its_own_line_search() -> None:
    y = torch.stack([COMPLEX.y, 30 * COMPLEX.y.flip(-1), 0 * COMPLEX.y]) / COMPLEX.noise_std
    A = COMPLEX.likelihood().A

    def found(chosen: list[int]) -> Tensor:
        x = torch.zeros(1, len(chosen), 8, dtype=torch.complex128)
        draw = seeded_draw(0, chosen, (1, len(chosen)))
        return run(dflow(COMPLEX.prior, Data(A, y[chosen]), x, edm_levels(8, HIGH, LOW), draw, blend=0.5), limit=8).x

    together = found([0, 1, 2])
    for item in range(3):
        torch.testing.assert_close(together[:, [item]], found([item]), atol=1e-7, rtol=1e-7)


def kalman_draws(problem: Problem, particles: int, **settings: object) -> Tensor:
    """The ensemble at the end, (particle, n)."""
    x = torch.zeros(1, *problem.mean.shape, dtype=problem.mean.dtype)
    seen: list[Tensor] = []
    outcome = lambda u: seen.append(u) or u[0]  # type: ignore[func-returns-value]  # noqa: E731
    steps = enkg(
        problem.prior,
        problem.likelihood(),
        x,
        edm_levels(40, HIGH, LOW),
        seeded_draw(0, [0], (1,)),
        ensemble=particles,
        outcome=outcome,
        **settings,
    )  # type: ignore[arg-type]
    run(steps, limit=40)
    return seen[-1][:, 0]


@pytest.mark.parametrize("problem", [REAL, COMPLEX], ids=["real", "complex"])
def test_a_large_ensemble_is_the_posterior(problem: Problem) -> None:
    particles = kalman_draws(problem, 500)
    mean, cov = problem.posterior()
    root = torch.linalg.cholesky(cov)
    away = torch.linalg.solve_triangular(root, (particles - mean).mT, upper=False)
    spread = away - away.mean(1, keepdim=True)
    parts = 2 if problem.mean.is_complex() else 1
    assert float(away.mean(1).abs().square().mean() / parts) ** 0.5 < 0.15  # per real component
    assert float((spread.abs().square().mean() / parts) ** 0.5) == pytest.approx(1, abs=0.08)


def test_the_released_normalisation_collapses_onto_the_data() -> None:
    particles = kalman_draws(REAL, 400, update=ensemble.released, weight=0.5, updates=2)
    seen = particles @ REAL.matrix.mT
    true = REAL.matrix @ REAL.posterior()[1] @ REAL.matrix.mT
    assert float(seen.var(0).sum() / true.trace()) < 0.3
    assert float((seen.mean(0) - REAL.y).norm() / REAL.y.norm()) < 0.2


def test_only_values_of_the_operator_are_used() -> None:
    class Blind(Data):
        def gradient(self, x: Tensor) -> Tensor:
            raise AssertionError("asked for a gradient")

        prox = gradient  # type: ignore[assignment]

    x = torch.zeros(2, 1, 8, dtype=torch.float64)
    blind = Blind(REAL.likelihood().A, REAL.likelihood().y[None])
    found = run(enkg(REAL.prior, blind, x, edm_levels(10, HIGH, LOW), seeded_draw(0, [0, 1], (2, 1)), ensemble=20), limit=10).x
    assert found.shape == x.shape


def test_impossible_ensembles_are_refused() -> None:
    for settings in ({"ensemble": 1}, {"skip": 0.5}, {"weight": 0.0}):
        with pytest.raises(BadInput, match="expected at least 2 particles"):
            next(partial(enkg, **settings)(REAL.prior, REAL.likelihood(), torch.zeros(1, 8), edm_levels(3, 1, 0.1), torch.zeros_like))
