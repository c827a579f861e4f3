"""Roots of covariances that are known by their products alone."""

from __future__ import annotations

import pytest
import torch

from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.solvers.krylov import cg, shifted
from medrecon.solvers.projected import projected, square_root
from tests.solvers.systems import Matrix, hermitian


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_complete_krylov_space_gives_the_root(dtype: torch.dtype) -> None:
    values = torch.stack([torch.logspace(0, -6, 8), torch.tensor([3.0, 3, 3, 1, 1, 0, 0, 0])]).double()
    matrix = hermitian(values, dtype)
    z = random((5, 2, 8), dtype, "z")
    found = square_root(lambda v: torch.einsum("bij,abj->abi", matrix, v), z, 1, steps=10)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    root = vectors @ torch.diag_embed(eigenvalues.clamp_min(0).sqrt()).to(dtype) @ vectors.mH
    torch.testing.assert_close(found, torch.einsum("bij,abj->abi", root, z), atol=1e-7, rtol=0)


def test_an_inverse_is_that_of_conjugate_gradients() -> None:
    matrix = hermitian(torch.logspace(0, 2, 12).double()[None], torch.complex128)[0]
    z = random((3, 12), torch.complex128, "z")
    found = projected(lambda v: 1 / (1 + v), lambda v: v @ matrix.mT, z, 1, steps=5)
    expected = run(cg(shifted(Matrix(matrix), 1.0), z), limit=5).x
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_a_short_krylov_space_misses_little_of_the_standard_deviation(steps: int) -> None:
    """At most 0.14 / steps of the largest, on a spectrum that reaches 0; the root times itself is the covariance then."""
    values = torch.linspace(0, 1, 200, dtype=torch.float64) ** 4
    z = random((1, 200), torch.float64, "z")
    error = square_root(lambda v: values * v, z, 1, steps=steps) - values.sqrt() * z
    assert float(error.norm() / z.norm()) < 0.14 / steps * 2


def test_items_do_not_meet_and_zero_stays_zero() -> None:
    values = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1e6, 0.0, 1.0]], dtype=torch.float64)
    found = square_root(lambda v: values * v, z, 1, steps=6)
    torch.testing.assert_close(found, values.sqrt() * z)


def test_a_product_that_is_not_quite_symmetric_or_positive_counts_as_the_nearest_that_is() -> None:
    symmetric, skew = torch.diag(torch.tensor([2.0, 1.0, -1e-3])), torch.tensor([[0.0, 1, 2], [-1, 0, 3], [-2, -3, 0]]) * 1e-3
    z = torch.ones(1, 3, dtype=torch.float64)
    found = square_root(lambda v: v @ (symmetric + skew).double().T, z, 1, steps=3)
    torch.testing.assert_close(found, torch.tensor([[2**0.5, 1.0, 0.0]], dtype=torch.float64), atol=1e-12, rtol=0)
