"""Wavelets against PyWavelets where its transform is orthonormal, and on sizes where it is not."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.linop.laws import matrix
from medrecon.linop.wavelet import LOWPASS, Wavelet


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("name", LOWPASS)
@pytest.mark.parametrize("shape", [(32, 48), (8, 16, 24)])
def test_coefficients_are_those_of_periodization(name: str, shape: tuple[int, ...]) -> None:
    pywt = pytest.importorskip("pywt")
    image = torch.randn(*shape, dtype=torch.complex128)
    reference = pywt.wavedecn(image.numpy(), name, mode="periodization", level=3)
    expected = torch.from_numpy(pywt.coeffs_to_array(reference)[0])
    torch.testing.assert_close(Wavelet(shape, name, 3)(image), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", LOWPASS)
@pytest.mark.parametrize("shape", [(9, 14), (1, 5), (3, 5, 7)])
def test_the_basis_is_orthonormal_for_every_size(name: str, shape: tuple[int, ...]) -> None:
    W = matrix(Wavelet(shape, name, 4), torch.float64)
    identity = torch.eye(W.shape[0], dtype=torch.float64)
    torch.testing.assert_close(W @ W.mT, identity)
    torch.testing.assert_close(W.mT @ W, identity)


def test_polynomials_leave_no_details_inside() -> None:
    line = torch.linspace(-1, 2, 64, dtype=torch.float64)
    for name, degree in (("db1", 0), ("db2", 1), ("db3", 2), ("db4", 3)):
        details = Wavelet((64,), name, 1)(line**degree)[32:]
        assert float(details[4:-4].abs().max()) < 1e-12


def test_an_unknown_wavelet_offers_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean"):
        Wavelet((8, 8), "db22")
