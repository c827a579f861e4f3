"""Gain errors of bins are taken out and the object is not; bins that do not measure are found and bridged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import shared
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.bad_bins import bad_bins, interpolated
from medrecon.physics.ct.circular import even_angles
from medrecon.physics.ct.rings import without_rings, without_rings_by_wavelets
from tests.oracles.ellipses import ellipse_sinogram


def sinogram(views: int = 180, bins: int = 255) -> Tensor:
    return ellipse_sinogram(even_angles(views), (bins - 1) / 2, bins)


def gain_errors(bins: int = 255, longest: float = 16.0, std: float = 0.02) -> Tensor:
    """Random offsets (bin,) without waves longer than `longest` bins."""
    spectrum = torch.fft.rfft(torch.randn(bins, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    spectrum[torch.fft.rfftfreq(bins) < 1 / longest] = 0
    errors = torch.fft.irfft(spectrum, bins)
    return std * errors / errors.std()


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_gain_errors_of_the_bins_become_ten_times_smaller() -> None:
    p, error = sinogram(), gain_errors()
    assert rms(without_rings(p + error) - without_rings(p)) < rms(error) / 10
    assert rms(without_rings(p + error) - p) < rms(error) / 5  # with what the correction does to the object itself


def test_wavelets_make_gain_errors_four_times_smaller_and_follow_them_over_the_views() -> None:
    p, error = sinogram(), gain_errors()
    clean = without_rings_by_wavelets(p)
    assert rms(without_rings_by_wavelets(p + error) - clean) < rms(error) / 4
    drifting = error * torch.linspace(0.5, 1.5, len(p), dtype=p.dtype)[:, None]
    assert rms(without_rings_by_wavelets(p + drifting) - clean) < rms(without_rings(p + drifting) - without_rings(p))


def test_a_sinogram_without_rings_stays_as_it_is() -> None:
    p = sinogram()
    assert rms(without_rings(p) - p) < 1.5e-3 * rms(p)
    assert rms(without_rings_by_wavelets(p) - p) < 1.2e-2 * rms(p)
    # Noise costs an offset for each bin, about 1.25 of its standard deviation over the square root of the views.
    noise = 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)
    assert rms(without_rings(p + noise) - (p + noise)) < 5e-3 * rms(p)


@pytest.mark.parametrize("without", [without_rings, without_rings_by_wavelets])
def test_slices_and_rows_are_corrected_one_by_one(without) -> None:
    p = torch.stack([sinogram(95, 80), 0.5 * sinogram(95, 80) + gain_errors(80)])
    each = torch.stack([without(q) for q in p])
    torch.testing.assert_close(without(p), each)
    torch.testing.assert_close(without(p.movedim(0, 1), view_axis=-3).movedim(1, 0), each)
    assert without(p.float()).dtype == torch.float32
    torch.testing.assert_close(without(p.float()).double(), each, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("without", [without_rings, without_rings_by_wavelets])
def test_sparse_views_are_refused(without) -> None:
    with pytest.raises(NotSupported, match="at least 90"):
        without(sinogram(89))
    with pytest.raises(BadInput, match="NaN"):
        without(torch.full((90, 20), math.nan))


def broken() -> tuple[Tensor, dict[str, list[int]]]:
    """Noisy transmission (view, bin) with bins of every kind of failure."""
    generator = torch.Generator().manual_seed(0)
    t = torch.poisson(1e4 * torch.exp(-sinogram()), generator) / 1e4
    bins = {"dead": [0, 120, 200, 201, 202], "hot": [50], "stuck": [31], "noisy": [150], "nan": [90]}
    t[:, bins["dead"]] = 0
    t[:, bins["hot"]] = 9
    t[:, bins["stuck"]] = t[5, 31].clone()
    t[:, 150] *= 1 + torch.randn(len(t), generator=generator)
    t[3, bins["nan"]] = math.nan
    return t, bins


def test_every_bad_bin_is_found_and_no_other() -> None:
    t, bins = broken()
    found = bad_bins(t)
    assert found.shape == (1, t.shape[1])
    assert found[0].nonzero().flatten().tolist() == sorted(k for several in bins.values() for k in several)
    rows = torch.stack([t, torch.exp(-sinogram())], 1)
    assert torch.equal(bad_bins(rows, view_axis=-3), torch.stack([found, torch.zeros_like(found)], 1))


@pytest.mark.parametrize("photons", [5.0, 30.0, 1e3, 1e6])
def test_noise_and_gain_errors_alone_make_no_bad_bins(photons: float) -> None:
    expected = photons * torch.exp(-sinogram() + gain_errors(std=0.05))
    assert not bad_bins(torch.poisson(expected, torch.Generator().manual_seed(0))).any()


def test_bad_bins_are_bridged_by_a_straight_line() -> None:
    x = torch.linspace(1, 3, 21).expand(4, 21).clone()
    bad = torch.zeros(1, 21, dtype=torch.bool)
    bad[0, [5, 9, 10, 11]] = True
    torch.testing.assert_close(interpolated(x.masked_fill(bad, math.nan), bad), x)
    bad = torch.zeros(1, 21, dtype=torch.bool)
    bad[0, [0, 1, 20]] = True
    ends = interpolated(x.masked_fill(bad, -7), bad)
    torch.testing.assert_close(ends[:, [0, 1, 20]], x[:, [2, 2, 19]])
    with pytest.raises(BadInput, match="no good bin"):
        interpolated(x, torch.ones(1, 21, dtype=torch.bool))


def test_a_detector_of_bad_bins_is_refused() -> None:
    t = torch.exp(-sinogram())
    t[:, ::8] = 0
    with pytest.raises(BadInput, match="dead, hot or noisy"):
        bad_bins(t)


def test_the_neutron_camera_has_two_bad_columns() -> None:
    """They read a quarter more than their neighbours in bright views and nothing in dark ones."""
    counts = torch.from_numpy(np.load(shared("data", "ct_neutron_sino360.npz"))["sinogram"])
    assert bad_bins(counts)[0].nonzero().flatten().tolist() == [314, 346]
