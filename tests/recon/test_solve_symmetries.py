"""What must not change the answer of `medrecon.solve`: how complex numbers are stored, phases, the kind of the draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior import Gaussian
from medrecon.recon.solve import solve
from tests.oracles.gaussian import Dense, Problem, dense, real_moments
from tests.solvers.systems import Matrix

PRESETS = ("sample", "mmse", "paper", "fast", "ode")


def embedded(matrix: Tensor) -> Tensor:
    """A complex matrix as a real one between interleaved real and imaginary parts."""
    rows = torch.stack([torch.stack([matrix.real, -matrix.imag], -1), torch.stack([matrix.imag, matrix.real], -1)], -2)
    return rows.permute(0, 2, 1, 3).reshape(2 * matrix.shape[0], 2 * matrix.shape[1])


def solved(problem: Problem, y: Tensor, preset: str, *, kind: type[Matrix] = Matrix, samples: int = 3) -> Tensor:
    return solve(
        kind(problem.matrix), y, "dds", prior=problem.prior, noise_std=problem.noise_std, samples=samples, preset=preset, steps=12, seed=2
    ).samples


@pytest.mark.parametrize("preset", PRESETS)
def test_complex_images_are_solved_like_their_real_and_imaginary_parts(preset: str) -> None:
    """The same noise belongs to the same component, so even single draws agree."""
    problem = dense(8, 6, complex_field=True)
    mean, cov = real_moments(problem.mean, problem.cov)
    parts = Problem(mean, cov, embedded(problem.matrix), torch.view_as_real(problem.y).flatten(), problem.noise_std, mean)
    found, expected = solved(problem, problem.y, preset), solved(parts, parts.y, preset)
    # The estimates of |A| and of E |A z|^2 start from other random vectors; what they decide differs a little.
    tolerance = 0.03 if preset in ("sample", "paper") else 1e-7
    spread = float(expected.std())
    torch.testing.assert_close(torch.view_as_real(found).flatten(1), expected, atol=tolerance * spread, rtol=0)


@pytest.mark.parametrize("preset", ["mmse", "paper", "fast", "ode"])
def test_a_turned_phase_of_the_data_turns_the_image(preset: str) -> None:
    problem = dense(8, 6, complex_field=True)
    centred = Problem(torch.zeros_like(problem.mean), problem.cov, problem.matrix, problem.y, problem.noise_std, problem.truth)
    turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))
    # What the fixed noise contributes does not turn; without data it stands alone.
    noise, plain, turned = (solved(centred, y, preset, kind=Dense) for y in (torch.zeros_like(problem.y), problem.y, turn * problem.y))
    torch.testing.assert_close(turned - noise, turn * (plain - noise), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("average", [1, 4])
@pytest.mark.parametrize("complex_field", [False, True])
def test_the_reported_deviation_is_the_posteriors_whatever_is_averaged(average: int, complex_field: bool) -> None:
    problem = dense(12, 8, complex_field=complex_field)
    found = solve(
        Dense(problem.matrix),
        problem.y,
        "dds",
        prior=problem.prior,
        noise_std=problem.noise_std,
        samples=300,
        preset="mmse",
        steps=200,
        average=average,
    )
    deviation = problem.posterior()[1].diagonal().real.sum().mul(2 if complex_field else 1).sqrt()
    assert found.std is not None
    assert float(found.std.square().sum().sqrt()) == pytest.approx(float(deviation), rel=0.08)


def test_one_draw_and_point_estimates_have_no_deviation() -> None:
    problem = dense(8, 6)
    settings = {"prior": problem.prior, "noise_std": problem.noise_std, "steps": 5}
    assert solve(Matrix(problem.matrix), problem.y, "dds", **settings).std is None  # type: ignore[arg-type]
    assert solve(Matrix(problem.matrix), problem.y, "dds", samples=3, preset="paper", **settings).std is None  # type: ignore[arg-type]
    assert solve(Matrix(problem.matrix), problem.y, "dds", samples=3, eta=0.5, **settings).std is None  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_of_several_items_is_solved_item_by_item(preset: str) -> None:
    problem = dense(8, 6, complex_field=True)
    y = torch.stack([problem.y, 3 * problem.y, -problem.y])
    whole = solved(problem, y, preset)
    assert whole.shape == (3, 3, 8)
    torch.testing.assert_close(solved(problem, y[:1], preset)[:, 0], whole[:, 0], atol=1e-8, rtol=0)
    torch.testing.assert_close(solved(problem, y[0], preset), whole[:, 0], atol=1e-8, rtol=0)


def test_prior_and_data_of_different_fields_are_refused() -> None:
    problem = dense(8, 6, complex_field=True)
    real = Gaussian(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64))
    with pytest.raises(BadInput, match="knows real images, the data are complex"):
        solve(Matrix(problem.matrix), problem.y, "dds", prior=real, noise_std=0.1)
    with pytest.raises(BadInput, match="knows complex images, the data are real"):
        solve(Matrix(problem.matrix.real), problem.y.real, "dds", prior=problem.prior, noise_std=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "expected at least 1"),
        ({"noise_std": -1.0}, "expected 0 or a positive number"),
        ({"noise_std": float("nan")}, "expected 0 or a positive number"),
        ({"eta": 1.5}, "expected 0 to 1"),
        ({"preset": "paper", "gamma": -1.0}, "expected a positive number"),
        ({"preset": "ode", "eta": 1.0}, "no setting 'eta'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], words: str) -> None:
    problem = dense(8, 6)
    with pytest.raises(BadInput, match=words):
        solve(Matrix(problem.matrix), problem.y, "dds", **{"prior": problem.prior, "noise_std": 0.1, "steps": 3, **settings})  # type: ignore[arg-type]
