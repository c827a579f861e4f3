"""`solve` and `infer` beyond white Gaussian noise on a linear operator."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.prior import Gaussian
from medrecon.recon.solve import infer, solve
from medrecon.solvers.poisson import Poisson
from medrecon.tensors import generator_for, unit_noise
from tests.solvers.systems import Matrix

N, M = 12, 20
PRIOR = Gaussian(torch.zeros(N, dtype=torch.float64), torch.eye(N, dtype=torch.float64))


def system(noise: torch.Tensor | float, m: int = M) -> tuple[Matrix, torch.Tensor, torch.Tensor]:
    A = Matrix(unit_noise((m, N), torch.float64, generator_for(1, "matrix")) / m**0.5)
    x = unit_noise((3, N), torch.float64, generator_for(1, "x"))
    return A, x, A(x) + noise * unit_noise((3, m), torch.float64, generator_for(1, "noise"))


def test_a_noise_level_for_every_sample_weighs_the_data() -> None:
    std = torch.cat([torch.full((M // 2,), 0.05), torch.full((M // 2,), 5.0)]).double()
    A, _, y = system(std)
    found = solve(A, y, prior=PRIOR, noise_std=std, steps=60, average=16)
    good = A.matrix[: M // 2] / 0.05
    bad = A.matrix[M // 2 :] / 5
    precision = torch.eye(N, dtype=torch.float64) + good.T @ good + bad.T @ bad
    exact = torch.linalg.solve(precision, (y[:, : M // 2] @ good / 0.05 + y[:, M // 2 :] @ bad / 5).T).T
    assert float((found.mean - exact).norm() / exact.norm()) < 0.1
    assert found.log["chi2"][0] == pytest.approx(1, abs=0.6)


def test_an_unknown_noise_level_is_estimated_and_told() -> None:
    A, _, y = system(0.05, m=200)
    found = solve(A, y, prior=PRIOR, noise_std=None, steps=20)
    assert found.log["noise_std"] == pytest.approx([0.05] * 3, rel=0.2)


def test_any_differentiable_function_may_be_the_operator() -> None:
    A, _, y = system(0.05)
    linear = solve(A, y, prior=PRIOR, noise_std=0.05, steps=20, seed=2, cg_steps=60, cg_tolerance=1e-9)
    found = solve(
        lambda x: x @ A.matrix.T, y, prior=PRIOR, noise_std=0.05, steps=20, seed=2, domain=(N,), data_axes=1, cg_steps=60, cg_tolerance=1e-9
    )
    torch.testing.assert_close(found.mean, linear.mean, atol=1e-4, rtol=0)


def test_counts_are_inferred_from() -> None:
    A = Matrix(torch.rand(M, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    prior = Gaussian(torch.full((N,), 100.0, dtype=torch.float64), 900 * torch.eye(N, dtype=torch.float64))
    x = 100 + 30 * unit_noise((N,), torch.float64, generator_for(4, "x"))
    y = torch.poisson(A(x), generator=torch.Generator().manual_seed(5))
    found = infer(Poisson(A, y), prior=prior, steps=100, average=64)
    weights = A.matrix.T @ (A.matrix / A(x)[:, None])
    exact = torch.linalg.solve(
        torch.eye(N, dtype=torch.float64) / 900 + weights, A.matrix.T @ (y / A(x)) + prior.mean / 900
    )  # many counts: nearly Gaussian with variance A x
    assert float((found.mean - exact).norm() / (exact - 100).norm()) < 0.12


def test_refusals_say_what_to_do() -> None:
    A, _, y = system(0.05)
    with pytest.raises(BadInput, match="domain="):
        solve(lambda x: x, y, prior=PRIOR, noise_std=0.1)
    with pytest.raises(BadInput, match="cannot be estimated"):
        solve(lambda x: x, y, prior=PRIOR, noise_std=None, domain=(N,))
    with pytest.raises(BadInput, match="noise_std"):
        solve(A, y, prior=PRIOR, noise_std=-1.0)
    with pytest.raises(BadInput, match="noise_std"):
        solve(A, y, prior=PRIOR, noise_std=torch.ones(7, dtype=torch.float64))
