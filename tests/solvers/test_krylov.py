"""Conjugate gradients and minimal residuals against dense solutions."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import Diverged
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.solvers.krylov import cg, shifted
from medrecon.solvers.minres import minres
from tests.solvers.systems import Matrix, hermitian

KINDS = [(torch.complex128, 1e-10), (torch.float64, 1e-10), (torch.complex64, 1e-4), (torch.float32, 1e-4)]


def three_systems(dtype: torch.dtype) -> Matrix:
    """One batch of an easy, a middling and a harder system."""
    spectra = torch.stack([torch.linspace(1, top, 20, dtype=torch.float64) for top in (1.0, 20.0, 200.0)])
    return Matrix(hermitian(spectra, dtype))


@pytest.mark.parametrize(("dtype", "close"), KINDS)
def test_conjugate_gradients_solve_each_system_of_a_batch(dtype: torch.dtype, close: float) -> None:
    normal, b = three_systems(dtype), random((3, 20), dtype, "b")
    done = run(cg(normal, b, tolerance=close / 100), limit=200)
    expected = torch.linalg.solve(normal.matrix, b)
    assert done.x.dtype == dtype
    assert float((done.x - expected).norm() / expected.norm()) < close


def test_each_item_takes_its_own_steps_and_freezes_alone() -> None:
    normal, b = three_systems(torch.complex128), random((3, 20), torch.complex128, "b")
    together = run(cg(normal, b, tolerance=1e-8), limit=200)
    measures = torch.stack(together.history)
    for i in range(3):
        alone = run(cg(Matrix(normal.matrix[i]), b[i], tolerance=1e-8), limit=200)
        torch.testing.assert_close(together.x[i], alone.x, rtol=1e-12, atol=1e-12)
        n = alone.n_steps
        assert (measures[n - 1 :, i] == measures[n - 1, i]).all(), "a frozen item must not move"
    assert measures.shape[0] > (measures[:, 0] > 1e-8).sum() + 1


def test_a_warm_start_at_the_solution_does_not_move() -> None:
    normal, b = three_systems(torch.complex128), random((3, 20), torch.complex128, "b")
    expected = torch.linalg.solve(normal.matrix, b)
    done = run(cg(normal, b, expected, tolerance=1e-6), limit=20)
    assert done.n_steps == 1
    torch.testing.assert_close(done.x, expected, rtol=0, atol=0)


def test_steps_can_be_kept_and_arguments_stay_untouched() -> None:
    normal, b = three_systems(torch.complex128), random((3, 20), torch.complex128, "b")
    x0 = random((3, 20), torch.complex128, "x0")
    before = b.clone(), x0.clone()
    steps = [step.x for _, step in zip(range(4), cg(normal, b, x0), strict=False)]
    assert not torch.equal(steps[0], steps[1])
    assert torch.equal(b, before[0])
    assert torch.equal(x0, before[1])


def test_zero_data_give_zero_and_end() -> None:
    normal = three_systems(torch.complex128)
    done = run(cg(normal, torch.zeros(3, 20, dtype=torch.complex128), tolerance=1e-6), limit=5)
    assert (done.n_steps, float(done.x.abs().max())) == (1, 0.0)


def test_the_true_residual_is_what_is_reported_after_many_steps() -> None:
    normal = Matrix(hermitian(torch.logspace(-3, 0, 60, dtype=torch.float64), torch.complex64))
    b = random((60,), torch.complex64, "b")
    done = run(cg(normal, b), limit=250)
    true = float((b - normal(done.x)).norm() / b.norm())
    assert float(done.history[-1]) == pytest.approx(true, rel=0.5, abs=2e-6)


def test_an_indefinite_operator_is_named() -> None:
    normal = Matrix(hermitian(torch.linspace(-1, 1, 20, dtype=torch.float64)))
    with pytest.raises(Diverged, match=r"Matrix \(20,\) is not positive"):
        run(cg(normal, random((20,), torch.complex128, "b")), limit=50)


def test_data_that_are_not_finite_do_not_pass_silently() -> None:
    b = random((3, 20), torch.complex128, "b")
    b[1, 3] = float("nan")
    with pytest.raises(Diverged, match="not finite"):
        run(cg(three_systems(torch.complex128), b, tolerance=1e-6), limit=50)


def test_each_item_may_have_its_own_shift() -> None:
    normal, b = three_systems(torch.complex128), random((3, 20), torch.complex128, "b")
    rho = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    done = run(cg(shifted(normal, rho.reshape(3, 1)), b, tolerance=1e-12), limit=200)
    expected = torch.linalg.solve(normal.matrix + rho[:, None, None] * torch.eye(20), b)
    torch.testing.assert_close(done.x, expected)


@pytest.mark.parametrize(("dtype", "close"), KINDS)
def test_minimal_residuals_solve_indefinite_systems(dtype: torch.dtype, close: float) -> None:
    spectrum = torch.cat([torch.linspace(-3, -1, 8, dtype=torch.float64), torch.linspace(1, 4, 12, dtype=torch.float64)])
    normal, b = Matrix(hermitian(spectrum, dtype)), random((20,), dtype, "b")
    done = run(minres(normal, b, tolerance=close / 10), limit=60)
    expected = torch.linalg.solve(normal.matrix, b)
    assert float((done.x - expected).norm() / expected.norm()) < close
    history = torch.stack(done.history)
    assert (history[1:] <= history[:-1] * (1 + 1e-5)).all(), "the residual never grows"


def test_minimal_residuals_settle_on_inconsistent_data() -> None:
    spectrum = torch.cat([torch.zeros(5, dtype=torch.float64), torch.linspace(1, 4, 15, dtype=torch.float64)])
    normal, b = Matrix(hermitian(spectrum)), random((20,), torch.complex128, "b")
    x = run(minres(normal, b), limit=15).x
    best = b - normal.matrix @ (torch.linalg.pinv(normal.matrix) @ b)
    assert float((b - normal(x)).norm()) == pytest.approx(float(best.norm()), rel=1e-8)
