"""The centred transform where its answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.linop.fourier import Fourier, fft, ifft


@pytest.mark.parametrize("n", [8, 7, 1])
def test_an_impulse_at_the_centre_has_a_flat_real_spectrum(n: int) -> None:
    impulse = torch.zeros(n, dtype=torch.complex128)
    impulse[n // 2] = 1
    expected = torch.full((n,), n**-0.5, dtype=torch.complex128)
    torch.testing.assert_close(fft(impulse, (-1,)), expected)
    torch.testing.assert_close(ifft(impulse, (-1,)), expected)


@pytest.mark.parametrize(("ny", "nx"), [(6, 5), (7, 4)])
def test_the_transform_is_the_explicit_sum_with_its_sign(ny: int, nx: int) -> None:
    image = torch.randn(ny, nx, dtype=torch.complex128)
    y, x = torch.arange(ny).double() - ny // 2, torch.arange(nx).double() - nx // 2
    rows = torch.exp(-2j * math.pi * torch.outer(y, y) / ny)
    columns = torch.exp(-2j * math.pi * torch.outer(x, x) / nx)
    torch.testing.assert_close(fft(image, (-2, -1)), rows @ image @ columns / math.sqrt(ny * nx))


def test_axes_outside_the_domain_are_refused() -> None:
    with pytest.raises(BadInput, match="negative axes"):
        Fourier((4, 5), (0,))
