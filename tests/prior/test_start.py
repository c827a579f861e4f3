"""Starts that contain an image, and noise with an offset: their means and covariances."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.start import low_frequencies, offset_draw, signal_leak_start
from medrecon.tensors import seeded_draw

COUNT, SHAPE = 4000, (6, 4)
DTYPES = [torch.float64, torch.complex128]


def spectrum() -> torch.Tensor:
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE)
    return 2 / (1 + (y[:, None] ** 2 + x**2) / 0.2**2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_start_has_the_mean_of_the_images_and_their_spectrum_above_the_noise(dtype: torch.dtype) -> None:
    rough, sigma = StationaryGaussian(random(SHAPE, dtype, "mean"), spectrum()), torch.tensor(0.7, dtype=torch.float64)
    like = torch.zeros(COUNT, *SHAPE, dtype=dtype)
    found = signal_leak_start(rough, like, sigma, seeded_draw(0, range(COUNT), (COUNT,)))
    parts = 2 if dtype.is_complex else 1
    torch.testing.assert_close(found.mean(0), rough.mean, atol=0.15, rtol=0)
    power = torch.fft.fft2(found - rough.mean, norm="ortho").abs().square().mean(0) / parts
    torch.testing.assert_close(power, spectrum() + 0.49, atol=0, rtol=0.12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_low_frequencies_are_learnt_from_images(dtype: torch.dtype) -> None:
    images = StationaryGaussian(random(SHAPE, dtype, "mean"), spectrum()).sample(random((COUNT, *SHAPE), dtype, "images"))
    learnt = low_frequencies(images, 0.26)
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE)
    inside = (y[:, None] ** 2 + x**2).sqrt() <= 0.26
    torch.testing.assert_close(learnt.spectrum[inside], spectrum()[inside], atol=0, rtol=0.12)
    assert bool((learnt.spectrum[~inside] == 0).all())
    torch.testing.assert_close(learnt.mean, images.mean(0))
    with pytest.raises(BadInput, match="at least two"):
        low_frequencies(images[:1], 0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_offset_noise_has_its_covariance(dtype: torch.dtype) -> None:
    draw = offset_draw(seeded_draw(0, range(COUNT), (COUNT,)), 0.5)
    noise = draw(torch.zeros(COUNT, *SHAPE, dtype=dtype)).flatten(1)
    parts = [noise.real, noise.imag] if dtype.is_complex else [noise]
    n = noise.shape[1]
    for part in parts:
        torch.testing.assert_close(part.T @ part / COUNT, torch.eye(n, dtype=torch.float64) + 0.25, atol=0.12, rtol=0)
    if dtype.is_complex:
        torch.testing.assert_close(noise.real.T @ noise.imag / COUNT, torch.zeros(n, n, dtype=torch.float64), atol=0.12, rtol=0)


def test_offset_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    like = torch.zeros(3, *SHAPE)
    together = offset_draw(seeded_draw(5, range(3), (3,)), 0.1)(like)
    alone = offset_draw(seeded_draw(5, [1], (1,)), 0.1)(like[1:2])
    assert torch.equal(together[1:2], alone)
