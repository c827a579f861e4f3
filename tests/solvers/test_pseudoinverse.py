"""Functions of A^H A in Krylov spaces, and the eigenbasis of small operators."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import NotSupported
from medrecon.linop.laws import random, spectrum_error
from medrecon.linop.operator import LinearOperator, Spectrum
from medrecon.linop.spectral import exact_spectrum
from medrecon.solvers.lanczos import applied
from tests.solvers.systems import Maps, Matrix, hermitian


class WithSpectrum(LinearOperator):
    """An operator together with its eigenbasis from its matrix."""

    def __init__(self, operator: LinearOperator, like: torch.Tensor) -> None:
        super().__init__()
        self.operator, self.like = operator, like
        self.domain, self.range = operator.domain, operator.range

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.operator._forward(x)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.operator._adjoint(y)

    @property
    def spectrum(self) -> Spectrum:
        return exact_spectrum(self.operator, self.like)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_matrix_of_a_small_operator_gives_its_eigenbasis(dtype: torch.dtype) -> None:
    assert spectrum_error(WithSpectrum(Maps(random((3, 4, 5), dtype, "maps")), torch.zeros(4, 5, dtype=dtype)), dtype) < 1e-12


def test_every_image_of_a_batch_has_the_eigenbasis_of_its_own_operator() -> None:
    matrix, x = random((3, 6, 8), torch.complex128, "matrices"), random((5, 3, 8), torch.complex128, "x")
    spectrum = exact_spectrum(Matrix(matrix), torch.zeros(3, 8, dtype=torch.complex128))
    assert spectrum.values.shape == (3, 8)
    rebuilt = spectrum.basis.H(spectrum.values * spectrum.basis(x))
    torch.testing.assert_close(rebuilt, Matrix(matrix).normal(x), atol=1e-12, rtol=1e-12)


def test_too_large_an_operator_is_not_written_out() -> None:
    with pytest.raises(NotSupported, match="20 numbers, at most 19"):
        exact_spectrum(Maps(random((3, 4, 5), torch.float64, "maps")), torch.zeros(4, 5, dtype=torch.float64), limit=19)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_function_of_an_operator_is_that_of_its_eigenvalues(dtype: torch.dtype) -> None:
    eigenvalues = torch.tensor([[0.0, 0.0, 0.1, 0.5, 1.0, 2.0], [1e-3, 1.0, 1.0, 1.0, 3.0, 3.0]], dtype=torch.float64)
    matrix = hermitian(eigenvalues, torch.complex128 if dtype.is_complex else torch.float64)
    b = random((4, 2, 6), dtype, "b")
    found = applied(lambda values: values.rsqrt(), Matrix(matrix), b, steps=6)
    values, vectors = torch.linalg.eigh(matrix)
    wanted = torch.where(values > 1e-9, values.clamp_min(1e-12).rsqrt(), 0)
    expected = ((b.unsqueeze(-2) @ vectors.conj()) * wanted.unsqueeze(-2) @ vectors.mT).squeeze(-2)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_few_steps_do_for_smooth_functions_and_nothing_stays_nothing() -> None:
    matrix = hermitian(torch.linspace(0.1, 1, 60, dtype=torch.float64), torch.float64)
    b = random((2, 60), torch.float64, "b")
    b[1] = 0
    found = applied(lambda values: (-values).exp(), Matrix(matrix), b, steps=10)
    torch.testing.assert_close(found, b @ torch.linalg.matrix_exp(-matrix).mT, atol=1e-10, rtol=0)
