"""Ramp filters against their closed forms; weights that count every line once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.filters import WINDOWS, cosine_tails, filtered, ramp_filter, window_values
from medrecon.physics.ct.view_weights import gap_weights, measured_arc, offset_weights, parker_weights, smooth_arc_weights

TURN = 2 * math.pi
FAN = np.linspace(-0.4, 0.4, 41)


@pytest.mark.parametrize("n_bins", [1, 5, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filtering_is_convolution_with_the_band_limited_kernel(n_bins: int, dtype: torch.dtype) -> None:
    spacing, rows = 0.7, torch.randn(3, n_bins, dtype=dtype)
    lag = (np.arange(n_bins)[:, None] - np.arange(n_bins)).astype(float)
    with np.errstate(divide="ignore"):
        kernel = np.where(lag % 2 == 0, 0.0, -1 / (math.pi * lag * spacing) ** 2) + np.eye(n_bins) / (4 * spacing**2)
    expected = rows.double() @ torch.from_numpy(kernel * spacing)
    found = filtered(rows, ramp_filter(n_bins, spacing))
    assert found.dtype == dtype
    assert (found - expected).abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)


def test_an_equiangular_kernel_is_the_kernel_over_the_square_of_sine_over_angle() -> None:
    n, step = 40, 0.03
    rows = torch.zeros(n, dtype=torch.float64)
    rows[7] = 1
    flat, round_ = (filtered(rows, ramp_filter(n, step, equiangular=e)) for e in (False, True))
    angle = (np.arange(n) - 7) * step
    ratio = np.divide(angle, np.sin(angle), out=np.ones(n), where=angle != 0) ** 2
    np.testing.assert_allclose(round_.numpy(), flat.numpy() * ratio, atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_pass_low_frequencies_and_end_at_the_cutoff(window: str) -> None:
    f = torch.linspace(0, 1, 201, dtype=torch.float64)
    values = window_values(window, f, 0.5)
    assert values[0] == pytest.approx(1.0)
    assert (values.diff() <= 1e-12).all()
    torch.testing.assert_close(values[:101], window_values(window, f[:101] * 2, 1.0))
    if window != "butterworth":
        assert (values[f > 0.5] == 0).all()
    at_cutoff = {"ramp": 1, "shepp-logan": 2 / math.pi, "hamming": 0.08, "butterworth": 0.5}
    assert float(values[100]) == pytest.approx(at_cutoff.get(window, 0), abs=1e-12)
    half = {"parzen": 0.25, "hann": 0.5, "blackman": 0.34, "hamming": 0.54, "cosine": math.sqrt(0.5)}
    if window in half:
        assert float(values[50]) == pytest.approx(half[window])


@pytest.mark.parametrize("window", ["ramp", "shepp-logan", "cosine", "hamming", "hann"])
def test_filters_are_those_of_scikit_image(window: str) -> None:
    from skimage.transform.radon_transform import _get_fourier_filter

    theirs = _get_fourier_filter(2048, window)[:1025, 0]
    # Theirs is twice ours, and samples the windows at the frequencies of the full transform.
    np.testing.assert_allclose(2 * ramp_filter(1024, 1.0, window=window).numpy(), theirs, atol=2e-3)


def test_what_is_not_a_window_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'shepp-logan'"):
        ramp_filter(8, 1.0, window="shep-logan")
    for cutoff in (0.0, 1.5, math.nan):
        with pytest.raises(BadInput, match="Nyquist"):
            ramp_filter(8, 1.0, cutoff=cutoff)


def test_tails_continue_the_ends_and_fall_to_nothing() -> None:
    rows = torch.rand(2, 9, dtype=torch.float64) + 1
    found = cosine_tails(rows, 6)
    assert torch.equal(found[:, 6:15], rows)
    assert (found.diff(dim=-1)[:, :6] > 0).all()
    assert (found.diff(dim=-1)[:, 14:] < 0).all()
    assert (found[:, [0, -1]] < 0.1 * rows[:, [0, -1]]).all()
    with pytest.raises(BadInput, match="pad_to"):
        filtered(rows, ramp_filter(9, 1.0), 8)


@pytest.mark.parametrize("period", [math.pi, TURN])
def test_gap_weights_sum_to_the_period(period: float) -> None:
    rng = np.random.default_rng(3)
    lists = [
        np.arange(7) * period / 7,
        rng.uniform(0, period, 100),
        np.arange(50) * 1.9416,
        np.array([0.3]),
        np.array([0.0, 0.1, 0.1, 2.0]),
    ]
    for angles in lists:
        assert gap_weights(angles, period).sum() == pytest.approx(period, abs=1e-12)
    np.testing.assert_allclose(gap_weights(np.arange(6) * period / 6 + 40, period), period / 6)


def test_equal_angles_share_and_order_does_not_matter() -> None:
    angles = np.arange(8) * math.pi / 8
    weights = gap_weights(np.concatenate([angles, angles[2:3], angles[2:3] + math.pi]), math.pi)
    np.testing.assert_allclose(weights[[2, 8, 9]], math.pi / 24)
    np.testing.assert_allclose(np.delete(weights, [2, 8, 9]), math.pi / 8)
    order = np.random.default_rng(1).permutation(8)
    uneven = angles**2
    np.testing.assert_allclose(gap_weights(uneven[order], math.pi), gap_weights(uneven, math.pi)[order])
    np.testing.assert_allclose(gap_weights(np.linspace(0, math.pi, 9), math.pi).sum(), math.pi)


def test_a_hole_belongs_to_nobody() -> None:
    angles = np.radians(np.arange(0.0, 120.0))
    weights = gap_weights(angles, math.pi)
    np.testing.assert_allclose(weights[1:-1], math.radians(1))
    np.testing.assert_allclose(weights[[0, -1]], math.radians(0.5))
    arc = measured_arc(angles + 2.8, math.pi)
    assert arc is not None
    assert arc[1] == pytest.approx(math.radians(120))
    np.testing.assert_allclose(arc[0], angles + math.radians(0.5))
    assert measured_arc(np.radians(np.arange(0.0, 180.0)), math.pi) is None
    assert measured_arc(np.arange(40) * 1.9416, math.pi) is None


def conjugate(weights: object, beta: np.ndarray, arc: float) -> float:
    """The largest deviation from 1 of the weights of a line's rays."""
    assert callable(weights)
    worst = 0.0
    for b in beta:
        own = weights(np.array([b]), FAN, arc)[0]
        total = own.copy()
        for i, g in enumerate(FAN):
            for turn in (-TURN, 0.0, TURN):
                other = b + math.pi - 2 * g + turn
                if 0 <= other <= arc:
                    total[i] += weights(np.array([other]), np.array([-g]), arc)[0, 0]
        worst = max(worst, float(np.abs(total - 1).max()))
    return worst


@pytest.mark.parametrize("arc", [math.pi + 0.8, math.pi + 1.0, 5.0, TURN])
def test_parker_weights_count_every_line_once(arc: float) -> None:
    assert conjugate(parker_weights, np.linspace(1e-9, arc - 1e-9, 57), arc) < 1e-12


def test_parker_weights_of_a_flipped_fan_do_not() -> None:
    arc = math.pi + 1.0
    assert conjugate(lambda since, fan, a: parker_weights(since, -fan, a), np.linspace(0.01, arc - 0.01, 57), arc) > 0.5


@pytest.mark.parametrize("arc", [2.0, math.pi, math.pi + 0.8, 5.0])
def test_smooth_weights_count_every_line_that_was_measured_once(arc: float) -> None:
    assert conjugate(smooth_arc_weights, np.linspace(0.01, arc - 0.01, 57), arc) < 1e-12


@pytest.mark.parametrize("across", [np.linspace(-2, 10, 61), np.linspace(10, -2, 61), np.linspace(-9.9, 10, 200), np.linspace(-7, 10, 171)])
def test_offset_weights_count_every_line_once(across: np.ndarray) -> None:
    weights = offset_weights(across)
    overlap = min(abs(across[0]), abs(across[-1]))
    both = np.abs(across) <= overlap
    order = np.argsort(across)
    opposite = np.interp(-across, across[order], weights[order])
    # Between bins the weights are interpolated, so their sum is as near as the curve is to its chords.
    np.testing.assert_allclose((weights + opposite)[both], 1, atol=0.02)
    np.testing.assert_allclose(weights[~both], 1)
    exact = offset_weights(np.linspace(-3, 9, 13))
    np.testing.assert_allclose(exact[:7] + exact[:7][::-1], 1, atol=1e-12)


def test_a_detector_that_misses_the_axis_is_refused() -> None:
    with pytest.raises(NotSupported, match="axis"):
        offset_weights(np.linspace(1, 10, 20))
