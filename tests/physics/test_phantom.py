"""The ellipse phantom: k-space against explicit integrals, maps against their Fourier sums."""

from __future__ import annotations

import math

import pytest
import torch

from medrecon.linop.fourier import ifft
from medrecon.physics.phantom import Ellipse, ellipse_image, ellipse_kspace, fourier_maps, phantom_kspace, shepp_logan


@pytest.mark.parametrize("ellipse", [Ellipse(1.0, (0.0, 0.0), (0.3, 0.2)), Ellipse(-0.5, (0.1, -0.2), (0.1, 0.25), 0.7)])
def test_kspace_of_an_ellipse_is_its_integral(ellipse: Ellipse) -> None:
    n = 256
    image = ellipse_image((ellipse,), (n, n), oversampling=8)
    place = (torch.arange(n, dtype=torch.float64) - n // 2) / n
    for ky, kx in ((0.0, 0.0), (1.0, -2.0), (3.5, 1.25)):
        wave = torch.polar(torch.ones(n, n, dtype=torch.float64), -2 * math.pi * (ky * place[:, None] + kx * place))
        summed = (image * wave).sum() / n**2
        exact = ellipse_kspace((ellipse,), torch.tensor(ky, dtype=torch.float64), torch.tensor(kx, dtype=torch.float64))
        assert abs(complex(exact - summed)) < 2e-4 * abs(ellipse.value)


def test_zero_frequency_is_the_area() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    value = ellipse_kspace((Ellipse(2.0, (0.1, 0.2), (0.3, 0.1), 0.4),), zero, zero)
    assert complex(value) == pytest.approx(2 * math.pi * 0.3 * 0.1)


@pytest.mark.parametrize("shape", [(128, 128), (121, 96)])
def test_inverse_fft_of_phantom_kspace_is_near_the_phantom(shape: tuple[int, int]) -> None:
    maps = fourier_maps(3, seed=1)
    image = ifft(phantom_kspace(shepp_logan(), shape, maps), (-2, -1))
    expected = maps.image(shape) * ellipse_image(shepp_logan(), shape)
    error = (image - expected).norm() / expected.norm()
    assert 0.01 < error < 0.15  # near, but not equal: truncation rings, which a simulated FFT would hide


def test_phantom_is_not_symmetric() -> None:
    image = ellipse_image(shepp_logan(), (64, 64))
    assert (image - image.flip(0)).abs().max() > 0.1
    assert (image - image.flip(1)).abs().max() > 0.1
