"""Calibration takes off the mean error of a denoiser, and nothing where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior.calibrated import Calibrated, NoiseMeans, calibration
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.wrapped import Wrapped
from medrecon.tensors import seeded_draw

SHAPE, COUNT = (8, 6), 2000
SIGMAS = (0.1, 0.5, 2.0)


def gaussian(dtype: torch.dtype) -> StationaryGaussian:
    return StationaryGaussian(random(SHAPE, dtype, "mean"), torch.full(SHAPE, 0.3, dtype=torch.float64))


class Biased(Wrapped):
    """A denoiser that is off by sigma times an image that falls with ln sigma."""

    def offset(self, sigma: Tensor) -> Tensor:
        dtype = torch.complex128 if self.field == "complex" else torch.float64
        return (0.2 - 0.05 * torch.as_tensor(sigma).log()) * random(SHAPE, dtype, "offset")

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.prior.denoise(noisy, sigma) - sigma * self.offset(sigma)


def measured(prior: Prior, dtype: torch.dtype) -> tuple[NoiseMeans, Tensor]:
    """The table, and the images that it was made of."""
    images = gaussian(dtype).sample(random((COUNT, *SHAPE), dtype, "images"))
    return calibration(prior, images, SIGMAS, seeded_draw(1, range(COUNT), (COUNT,))), images


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_mean_of_what_comes_back_is_the_mean_image(dtype: torch.dtype) -> None:
    prior = Biased(gaussian(dtype))
    table, images = measured(prior, dtype)
    calibrated = Calibrated(prior, table)
    for sigma in (0.1, 0.3, 2.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        noisy = images + level * random(images.shape, dtype, f"noise {sigma}")
        before, after = ((p.denoise(noisy, level) - images).mean(0).abs().square().mean().sqrt() for p in (prior, calibrated))
        assert float(after) < 0.15 * float(before)


def test_the_measured_mean_is_that_of_the_predicted_noise() -> None:
    prior = Biased(gaussian(torch.float64))
    table, _ = measured(prior, torch.float64)
    for sigma, value in zip(table.sigmas, table.values, strict=True):
        torch.testing.assert_close(value, prior.offset(sigma), atol=0.07, rtol=0)


def test_chance_is_shrunk_away_from_an_exact_denoiser() -> None:
    """The mean over n images is off by chance; what is kept has no more than a fraction of that."""
    prior = gaussian(torch.float64)
    table, _ = measured(prior, torch.float64)
    for sigma, value in zip(SIGMAS, table.values, strict=True):
        chance = (float(prior.error(torch.tensor(sigma))) / (sigma**2 * COUNT)) ** 0.5
        assert float(value.square().mean().sqrt()) < 0.6 * chance


def test_between_levels_it_is_linear_in_their_logarithm_and_constant_beyond() -> None:
    values = torch.stack([torch.full(SHAPE, v, dtype=torch.float64) for v in (1.0, 3.0, 4.0)])
    calibrated = Calibrated(gaussian(torch.float64), NoiseMeans(torch.tensor([0.1, 1.0, 10.0]), values))
    sigma = torch.tensor([0.01, 0.1, 10**-0.5, 1.0, 10**0.25, 10.0, 50.0], dtype=torch.float64).reshape(7, 1, 1)
    noisy = random((7, *SHAPE), torch.float64, "noisy")
    added = (calibrated.denoise(noisy, sigma) - calibrated.prior.denoise(noisy, sigma)) / sigma
    torch.testing.assert_close(added[:, 0, 0], torch.tensor([1, 1, 2, 3, 3.25, 4, 4], dtype=torch.float64), atol=1e-6, rtol=1e-6)
    single = calibrated.denoise(noisy[:1], torch.tensor(10**-0.5, dtype=torch.float64))
    torch.testing.assert_close(single, calibrated.denoise(noisy[:1], sigma[2:3]))


def test_images_and_tables_that_do_not_fit_are_refused() -> None:
    prior = gaussian(torch.float64)
    one = torch.zeros(1, *SHAPE, dtype=torch.float64)
    with pytest.raises(BadInput, match="rising"):
        NoiseMeans(torch.tensor([1.0, 0.5]), torch.cat([one, one]))
    with pytest.raises(BadInput, match="one image for each level"):
        NoiseMeans(torch.tensor([0.5, 1.0]), one)
    with pytest.raises(BadInput, match="real images"):
        Calibrated(prior, NoiseMeans(torch.ones(1), one.to(torch.complex128)))
    with pytest.raises(BadInput, match="calibrate for this size"):
        Calibrated(prior, NoiseMeans(torch.ones(1), one)).denoise(torch.zeros(1, 9, 6), torch.tensor(1.0))
    with pytest.raises(BadInput, match="at least two"):
        calibration(prior, one, SIGMAS, torch.zeros_like)
