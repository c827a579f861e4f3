"""Noise levels: the published numbers, order, ends."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput
from medrecon.prior.schedule import (
    cosine_levels,
    cosine_sigma,
    cosine_time,
    edm_levels,
    flow_levels,
    flow_sigma,
    flow_time,
    log_levels,
    quad_levels,
    ve_levels,
    vp_levels,
)

EVERY = [edm_levels, vp_levels, log_levels, ve_levels, cosine_levels, quad_levels, flow_levels, partial(flow_levels, shift=4.0)]


def test_ddpm_levels_are_the_published_ones() -> None:
    levels = vp_levels(1000, 1000.0, 1e-3).flip(0)
    assert [float(levels[k + 1]) for k in (0, 499, 999)] == pytest.approx([0.0100005, 3.42414, 157.407], rel=1e-5)


def test_edm_levels_follow_their_formula() -> None:
    levels = edm_levels(5, 80.0, 0.002)
    formula = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    assert levels.tolist() == pytest.approx([*formula, 0.0])


@pytest.mark.parametrize("make", EVERY)
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


def test_bounds_outside_of_the_variance_exploding_levels_are_named() -> None:
    with pytest.raises(BadInput, match=r"between 0.001 and 0.005"):
        ve_levels(10, 0.005, 0.001)
    assert ve_levels(4, 1e4, 1e-4).tolist() == pytest.approx(log_levels(4, 378.0, 0.01).tolist())


@pytest.mark.parametrize(("to_sigma", "to_time"), [(cosine_sigma, cosine_time), (flow_sigma, flow_time)])
def test_times_and_levels_are_inverse(to_sigma, to_time) -> None:  # type: ignore[no-untyped-def]
    sigma = torch.logspace(-3, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(to_sigma(to_time(sigma)), sigma, rtol=1e-6, atol=0)
    time = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(to_time(to_sigma(time)), time, rtol=1e-9, atol=0)
    assert bool((to_sigma(time).diff() > 0).all())


def test_cosine_times_give_the_published_signal() -> None:
    """a_t = f(t) / f(0), f = cos^2((t + 0.008) / 1.008 pi / 2), and sigma^2 = (1 - a) / a."""
    f = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 0.25, 0.5, 0.9)]
    found = cosine_sigma(torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64))
    assert (1 / (1 + found**2)).tolist() == pytest.approx([v / f[0] for v in f[1:]], rel=1e-12)


def test_flow_times_are_even_after_their_shift() -> None:
    time = flow_time(flow_levels(9, 99.0, 0.01)[:-1])
    assert time.diff().tolist() == pytest.approx([float(time[1] - time[0])] * 8)
    k = 4.0
    unshifted = flow_time(flow_levels(9, 99.0, 0.01, shift=k)[:-1] / k)
    shifted = k * unshifted / (1 + (k - 1) * unshifted)
    assert flow_time(flow_levels(9, 99.0, 0.01, shift=k)[:-1]).tolist() == pytest.approx(shifted.tolist())


def test_quadratic_levels_are_dense_at_low_noise() -> None:
    """Released: the indices sqrt(linspace(0, 1000^2, n)) count from the highest noise down."""
    every = vp_levels(1000, 1000.0, 1e-3)
    released = [min(999, int(v)) for v in np.sqrt(np.linspace(0, 1000**2, 20))]
    # Their whole indices against our interpolated times: equal to one time step.
    at = [int((every[:-1] - level).abs().argmin()) for level in quad_levels(20, 1000.0, 1e-3)[:-1]]
    assert max(abs(a - b) for a, b in zip(at, released, strict=True)) <= 1
