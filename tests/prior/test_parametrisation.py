"""Noise levels and times of the published families."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.prior.parametrisation import (
    DiscreteTime,
    GeometricTime,
    Noising,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
    chain,
    ddpm_cosine,
    ddpm_linear,
)


def level(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


@pytest.mark.parametrize(
    ("noising", "time", "sigma"),
    [
        (VariancePreserving(), 1e-3, 0.010486),
        (VariancePreserving(), 1.0, 152.167),
        (ddpm_linear(), 0, 0.0100005),
        (ddpm_linear(), 499, 3.42414),
        (ddpm_linear(), 999, 157.407),
        (RectifiedFlow(), 0.5, 1.0),
        (GeometricTime(0.01, 50.0), 0.5, 0.5**0.5),
        (VarianceExploding(0.002, 80.0), 3.0, 3.0),
    ],
)
def test_the_time_of_a_published_level_is_the_published_one(noising: Noising, time: float, sigma: float) -> None:
    assert float(noising.time(level(sigma))) == pytest.approx(time, rel=1e-4, abs=1e-4)


def test_steps_between_two_levels_are_linear_in_their_logarithm() -> None:
    noising = ddpm_linear()
    middle = (noising.levels[7] * noising.levels[8]).sqrt()
    assert float(noising.time(middle)) == pytest.approx(7.5, abs=1e-12)


def test_ranges_are_those_of_the_first_and_last_time() -> None:
    assert ddpm_linear().sigma_range == pytest.approx((0.0100005, 157.407), rel=1e-5)
    assert VariancePreserving().sigma_range == pytest.approx((0.010486, 152.167), rel=1e-4)
    assert RectifiedFlow(0.01, 0.9).sigma_range == pytest.approx((1 / 99, 9.0))


def test_the_cosine_chain_keeps_its_share_of_the_image() -> None:
    noising = ddpm_cosine()
    total = torch.cos((torch.tensor(500 / 1000, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
    start = torch.cos(torch.tensor(0.008 / 1.008, dtype=torch.float64) * torch.pi / 2) ** 2
    assert float(noising.amplitude(noising.levels[499]) ** 2) == pytest.approx(float(total / start), rel=1e-10)
    assert float(noising.levels[-1] / noising.levels[-2]) == pytest.approx(1000**0.5, rel=1e-3)


@pytest.mark.parametrize("noising", [VariancePreserving(), ddpm_linear(), ddpm_cosine()])
def test_signal_and_noise_of_a_preserving_chain_add_to_one(noising: Noising) -> None:
    for sigma in map(level, (0.02, 1.0, 80.0)):
        a = noising.amplitude(sigma)
        assert float(a**2 + (a * sigma) ** 2) == pytest.approx(1.0, abs=1e-14)


def test_small_levels_keep_their_digits() -> None:
    """B(t) is about 0.1 t there."""
    assert float(VariancePreserving(first=1e-9).time(torch.tensor(1e-4))) == pytest.approx(1e-7, rel=1e-4)


@pytest.mark.parametrize("levels", [[1.0], [1.0, 0.5], [0.0, 1.0], [0.5, float("inf")]])
def test_levels_that_do_not_rise_are_refused(levels: list[float]) -> None:
    with pytest.raises(BadInput):
        DiscreteTime(torch.tensor(levels))


def test_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(BadInput, match="rising"):
        VarianceExploding(1.0, 0.1)
    with pytest.raises(BadInput):
        chain(torch.tensor([1.0, 0.9]))
