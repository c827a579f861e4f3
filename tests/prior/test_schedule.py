"""Noise levels: the published numbers, order, ends."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.prior.schedule import edm_levels, vp_levels


def test_ddpm_levels_are_the_published_ones() -> None:
    levels = vp_levels(1000, 1000.0, 1e-3).flip(0)
    assert [float(levels[k + 1]) for k in (0, 499, 999)] == pytest.approx([0.0100005, 3.42414, 157.407], rel=1e-5)


def test_edm_levels_follow_their_formula() -> None:
    levels = edm_levels(5, 80.0, 0.002)
    formula = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    assert levels.tolist() == pytest.approx([*formula, 0.0])


@pytest.mark.parametrize("make", [edm_levels, vp_levels])
@pytest.mark.parametrize("steps", [1, 2, 16, 99, 1500])
@pytest.mark.parametrize(("high", "low"), [(6.0, 0.01), (80.0, 0.02), (2.0, 1.0)])
def test_levels_fall_strictly_to_zero_within_their_bounds(make, steps: int, high: float, low: float) -> None:  # type: ignore[no-untyped-def]
    levels = make(steps, high, low)
    assert levels.dtype == torch.float64
    assert len(levels) == steps + 1
    assert bool((levels[1:] < levels[:-1]).all())
    assert float(levels[-1]) == 0
    assert float(levels[0]) <= high * (1 + 1e-9)
    assert float(levels[-2]) >= low * (1 - 1e-9)


def test_bounds_outside_of_the_ddpm_levels_are_named() -> None:
    with pytest.raises(BadInput, match=r"between 0.001 and 0.005"):
        vp_levels(10, 0.005, 0.001)
