"""The noise level that an image has is found from its variance, for every image its own, and only where it can be known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.time_shift import TimeShifted
from medrecon.prior.wrapped import Wrapped

SIZE = 96
DTYPES = [torch.float64, torch.complex128]


def field(dtype: torch.dtype) -> StationaryGaussian:
    """Smooth images with standard deviation 0.5 about a mean of 1."""
    axis = torch.fft.fftfreq(SIZE, dtype=torch.float64)
    spectrum = 1 / (1 + (axis[:, None] ** 2 + axis**2) / 0.1**2)
    return StationaryGaussian(torch.ones(SIZE, SIZE, dtype=dtype), 0.25 * spectrum / spectrum.mean())


class Told(Wrapped):
    """Remembers the level that it was told."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.told = sigma
        return self.prior.denoise(noisy, sigma)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0.5, 0.25])
def test_the_level_of_each_image_is_found(dtype: torch.dtype, level: float) -> None:
    """Images with other noise than the schedule says; the window is the largest correction."""
    prior = Told(field(dtype))
    clean = field(dtype).sample(random((4, SIZE, SIZE), dtype, "clean"))
    shifted = TimeShifted(prior, window=0.1)
    shifted.denoise(clean + 2 * level * random(clean.shape, dtype, "first"), torch.tensor(2 * level, dtype=torch.float64))
    share = torch.tensor([0.94, 1.0, 1.06, 1.5], dtype=torch.float64).reshape(4, 1, 1)
    shifted.denoise(clean + share * level * random(clean.shape, dtype, "second"), torch.tensor(level, dtype=torch.float64))
    expected = share.clamp(max=1.1) * level
    torch.testing.assert_close(prior.told, expected, atol=0, rtol=0.0125 / level)  # 2.4 standard deviations


def test_the_right_level_denoises_better() -> None:
    prior, level = field(torch.float64), torch.tensor(0.5, dtype=torch.float64)
    clean = prior.sample(random((4, SIZE, SIZE), torch.float64, "clean"))
    noisy = clean + 0.9 * level * random(clean.shape, torch.float64, "noise")
    shifted = TimeShifted(prior)
    shifted.denoise(clean + 2 * level * random(clean.shape, torch.float64, "first"), 2 * level)
    plain, better, best = (
        float((d - clean).square().mean())
        for d in (prior.denoise(noisy, level), shifted.denoise(noisy, level), prior.denoise(noisy, 0.9 * level))
    )
    assert 0.99 * best < better < best + 0.1 * (plain - best)


def test_there_is_no_shift_at_first_nor_where_chance_hides_it() -> None:
    prior = Told(field(torch.float64))
    clean = field(torch.float64).sample(random((1, SIZE, SIZE), torch.float64, "clean"))
    shifted = TimeShifted(prior, window=0.1)
    for sigma in (0.5, 0.05):
        # 2 std / (sigma n^(1/2)) is 0.2 at the second level.
        level = torch.tensor(sigma, dtype=torch.float64)
        shifted.denoise(clean + 1.5 * level * random(clean.shape, torch.float64, "noise"), level)
        torch.testing.assert_close(prior.told.squeeze(), level)


def test_images_are_shifted_independently_of_their_batch() -> None:
    clean = field(torch.float64).sample(random((3, SIZE, SIZE), torch.float64, "clean"))
    noise = random((2, *clean.shape), torch.float64, "noise")
    levels = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).reshape(3, 1, 1)

    def denoised(chosen: list[int]) -> Tensor:
        shifted = TimeShifted(field(torch.float64))
        for factor, n in ((2.0, noise[0]), (1.05, noise[1])):
            found = shifted.denoise(clean[chosen] + factor * levels[chosen] * n[chosen], levels[chosen] * (factor if factor > 1.5 else 1))
        return found

    together = denoised([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(denoised([i])[0], together[i])


def test_no_window_is_the_prior_itself_and_a_wrong_one_is_refused() -> None:
    prior, noisy = field(torch.float64), random((2, SIZE, SIZE), torch.float64, "noisy")
    shifted = TimeShifted(prior, window=0.0)
    for sigma in (torch.tensor(1.0), torch.tensor(0.7)):
        torch.testing.assert_close(shifted.denoise(noisy, sigma), prior.denoise(noisy, sigma), atol=1e-7, rtol=1e-7)
    with pytest.raises(BadInput, match="window = 1.5"):
        TimeShifted(prior, window=1.5)


def test_gradients_pass_and_facts_are_forwarded() -> None:
    prior, noisy = field(torch.complex128), random((2, SIZE, SIZE), torch.complex128, "noisy")
    shifted = TimeShifted(prior)
    leaf = noisy.clone().requires_grad_()
    shifted.denoise(leaf, torch.tensor(0.5))
    v = random(noisy.shape, noisy.dtype, "v")
    mean = shifted.denoise(leaf, torch.tensor(0.4))
    (gradient,) = torch.autograd.grad(mean, leaf, v)
    assert float((gradient.conj() * v).sum().real) > 0
    assert (shifted.field, shifted.image_axes, shifted.data_std) == ("complex", 2, prior.data_std)
    torch.testing.assert_close(shifted.error(torch.tensor(0.3)), prior.error(torch.tensor(0.3)))
