"""Counts, logarithm, weights, HU and the noise of quanta, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import shared

from medrecon.errors import BadInput
from medrecon.physics.ct.counts import (
    attenuation,
    dose_fraction,
    hounsfield,
    incident,
    line_integrals,
    low_dose,
    low_dose_counts,
    transmission,
    weights,
)
from medrecon.tensors import generator_for


def chords(views: int = 12, bins: int = 41, height: float = 2.0) -> torch.Tensor:
    """Line integrals (view, bin) of a disc within the field of view, float64."""
    s = torch.linspace(-1.4, 1.4, bins, dtype=torch.float64)
    return (height * (1 - s**2).clamp_min(0).sqrt()).expand(views, bins).clone()


def readings(p: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return offset + gain * torch.exp(-p)


@pytest.mark.parametrize("view_axis", [-2, -3])
def test_flat_and_dark_fields_are_undone_exactly(view_axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    row = (3,) if view_axis == -3 else ()
    p = torch.rand(2, 7, *row, 11, generator=generator, dtype=torch.float64) * 5
    gain = 1000 + 100 * torch.rand(2, 1, *row, 11, generator=generator, dtype=torch.float64)
    offset = 50 + torch.rand(2, 1, *row, 11, generator=generator, dtype=torch.float64)
    jitter = torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64).reshape(3, *[1] * (-view_axis - 1))
    found = transmission(readings(p, gain, offset), gain + offset + jitter, offset - 2 * jitter, view_axis=view_axis)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.exp(-p), rtol=1e-12, atol=0)
    torch.testing.assert_close(line_integrals(found, view_axis=view_axis).line_integrals, p, rtol=1e-10, atol=1e-12)


def test_frames_are_averaged_in_double_precision() -> None:
    frames = torch.full((10_000, 4), 1e4 + 0.1)  # a float32 sum of these loses digits
    found = transmission(torch.full((2, 4), 1e4 + 0.1), frames)
    assert float((found - 1).abs().max()) < 2e-7


def test_a_bin_without_beam_carries_no_transmission_and_is_named() -> None:
    flat = torch.full((1, 20), 100.0)
    flat[0, 7] = 0
    through = transmission(torch.full((5, 20), 50.0), flat)
    assert (through[:, 7] == 0).all()
    assert (through[:, 6] == 0.5).all()
    with pytest.raises(BadInput, match=r"bin\(s\) 7 .*dead"):
        line_integrals(through)


def test_swapped_flat_and_dark_are_refused() -> None:
    with pytest.raises(BadInput, match="swapped"):
        transmission(torch.ones(4, 6), torch.ones(2, 6), torch.full((2, 6), 9.0))


@pytest.mark.parametrize("shape", [(2, 7), (0, 6), (6,), (3, 2, 6)])
def test_a_field_of_another_detector_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="does not fit"):
        transmission(torch.ones(4, 6), torch.ones(shape))


def test_one_lost_reading_is_interpolated_and_a_run_is_floored() -> None:
    t = torch.exp(-chords())
    whole = -t.log()
    t[3, 20] = -0.01
    t[5, 10:13] = 0
    found = line_integrals(t, floor=1e-4)
    assert int(found.unmeasured.sum()) == 4
    assert found.share == pytest.approx(4 / t.numel())
    torch.testing.assert_close(found.line_integrals[3, 20], (whole[3, 19] + whole[3, 21]) / 2)
    torch.testing.assert_close(found.line_integrals[5, 10:13], torch.full((3,), -math.log(1e-4), dtype=t.dtype))
    torch.testing.assert_close(found.line_integrals[~found.unmeasured], whole[~found.unmeasured])


def test_a_view_without_beam_and_too_many_zeros_are_refused() -> None:
    t = torch.exp(-chords())
    dark = t.clone()
    dark[4] = 0
    with pytest.raises(BadInput, match=r"view\(s\) 4 "):
        line_integrals(dark)
    speckled = t.clone()
    speckled[::2, ::2] = -1e-3
    with pytest.raises(BadInput, match="zero or negative"):
        line_integrals(speckled)
    with pytest.raises(BadInput, match="NaN"):
        line_integrals(torch.full((2, 2), math.nan))


def test_air_at_the_ends_gives_the_incident_beam_of_each_view() -> None:
    p = chords()
    drift = torch.linspace(900, 1100, len(p), dtype=torch.float64)[:, None]
    tilt = torch.linspace(0.95, 1.05, p.shape[1], dtype=torch.float64)
    counts = drift * tilt * torch.exp(-p)
    torch.testing.assert_close(incident(counts), drift * tilt, rtol=1e-12, atol=0)
    torch.testing.assert_close(incident(counts.unsqueeze(-2), view_axis=-3).squeeze(-2), incident(counts))


def test_an_object_at_the_ends_of_the_detector_leaves_no_air() -> None:
    counts = 1000 * torch.exp(-chords())
    counts[3:5, :3] *= 0.3
    with pytest.raises(BadInput, match="leaves the field of view"):
        incident(counts)


def test_hounsfield_units_go_there_and_back() -> None:
    mu = torch.tensor([0.0, 0.0192, 0.0384], dtype=torch.float64)
    torch.testing.assert_close(hounsfield(mu, 0.0192), torch.tensor([-1000.0, 0.0, 1000.0], dtype=torch.float64))
    torch.testing.assert_close(attenuation(hounsfield(mu, 0.0192, 2e-5), 0.0192, 2e-5), mu, rtol=1e-13, atol=1e-16)
    with pytest.raises(BadInput, match="air < water"):
        hounsfield(mu, 0.0)


@pytest.mark.parametrize(("electronic_std", "p"), [(0.0, 2.0), (10.0, 4.0)])
def test_variance_of_line_integrals_is_that_of_quanta(electronic_std: float, p: float) -> None:
    photons, rays = 1e4, torch.full((20, 2000), p, dtype=torch.float64)
    drawn = low_dose(rays, photons, generator_for(0, "quanta"), electronic_std=electronic_std)
    quanta = photons * math.exp(-p)
    expected = (quanta + electronic_std**2) / quanta**2
    if electronic_std == 0:
        assert expected == pytest.approx(math.exp(p) / photons)
    assert float(drawn.line_integrals.var()) == pytest.approx(expected, rel=0.05)
    assert float(drawn.line_integrals.mean()) == pytest.approx(p + expected / 2, abs=5 * math.sqrt(expected / rays.numel()))
    assert not drawn.clipped.any()
    # The weight is the inverse of that variance.
    assert float(weights(torch.tensor(quanta, dtype=torch.float64), electronic_std)) == pytest.approx(1 / expected)


def test_starved_rays_are_raised_and_told() -> None:
    drawn = low_dose(torch.full((4, 500), 9.0), 4096.0, generator_for(1, "quanta"), least=0.1)
    lost = drawn.counts == 0
    assert torch.equal(drawn.clipped, lost)
    assert 0.4 < float(lost.float().mean()) < 0.8
    torch.testing.assert_close(drawn.line_integrals[lost], torch.full((int(lost.sum()),), math.log(40960)))
    assert (weights(drawn.counts)[lost] == 0).all()


def test_the_same_generator_gives_the_same_quanta_in_both_precisions() -> None:
    p = chords().float()
    one = low_dose_counts(p, 1e4, 3.0, generator_for(5, "quanta"))
    two = low_dose_counts(p.double(), 1e4, 3.0, generator_for(5, "quanta"))
    assert one.dtype == torch.float32
    torch.testing.assert_close(one.double(), two, rtol=1e-6, atol=0)


@pytest.mark.parametrize("electronic_std", [0.0, 10.0])
def test_noise_added_to_a_full_scan_makes_the_noise_of_a_scan_at_lower_dose(electronic_std: float) -> None:
    photons, fraction = 1e5, 0.25
    rays = torch.full((100, 2000), 3.0, dtype=torch.float64)
    full = low_dose(rays, photons, generator_for(0, "full"), electronic_std=electronic_std)
    low = low_dose(rays, fraction * photons, generator_for(0, "low"), electronic_std=electronic_std)
    added = dose_fraction(full.line_integrals, fraction, photons, generator_for(0, "added"), electronic_std=electronic_std)
    assert float(added.var()) == pytest.approx(float(low.line_integrals.var()), rel=0.03)
    assert torch.equal(dose_fraction(rays, 1.0, photons, generator_for(0, "added")), rays)
    with pytest.raises(BadInput, match="dose fraction"):
        dose_fraction(rays, 0.0, photons, generator_for(0, "added"))


def test_neutron_readings_without_flat_field_have_air_at_their_ends() -> None:
    import numpy as np

    counts = torch.from_numpy(np.load(shared("data", "ct_neutron_sino360.npz"))["sinogram"]).double()
    air = incident(counts)
    found = line_integrals((counts / air).float())
    assert abs(float(found.line_integrals[:, :20].mean())) < 2e-3
    assert 0 < found.share < 1e-3
