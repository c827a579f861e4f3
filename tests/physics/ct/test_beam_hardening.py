"""Attenuation tables, the polychromatic sum and the water correction."""

from __future__ import annotations

import math

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.physics.ct.hardening import polychromatic, straightened, water_correction
from medrecon.physics.ct.scan import WATER
from medrecon.physics.ct.spectra import TUBE_120KVP, Spectrum


@pytest.mark.parametrize(
    ("material", "density", "published"),  # mass attenuation at 30, 40, 60, 80, 100 keV, cm2/g: Hubbell and Seltzer, NISTIR 5632
    [
        ("water", 1.0, (0.3756, 0.2683, 0.2059, 0.1837, 0.1707)),
        ("iodine", 1.0, (8.561, 22.10, 7.579, 3.510, 1.942)),
    ],
)
def test_attenuation_is_the_published_one(material: str, density: float, published: tuple[float, ...]) -> None:
    at = Spectrum(energies=(30.0, 40.0, 60.0, 80.0, 100.0), photons=(1.0,) * 5).attenuation(material)
    torch.testing.assert_close(10 * at / density, torch.tensor(published, dtype=torch.float64), rtol=2e-3, atol=0)


def test_between_the_tabulated_energies_attenuation_is_a_power_law() -> None:
    at = Spectrum(energies=(60.0, math.sqrt(60 * 65), 65.0), photons=(1.0,) * 3).attenuation("bone")
    torch.testing.assert_close(at[1], (at[0] * at[2]).sqrt())


def test_one_energy_obeys_the_law_of_beer_and_lambert() -> None:
    single = Spectrum(energies=(70.0,), photons=(3.0,))
    water, bone = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 300
    expected = float(single.attenuation("water")) * water + float(single.attenuation("bone")) * bone
    torch.testing.assert_close(polychromatic({"water": water, "bone": bone}, single), expected)


def test_many_energies_are_summed_by_their_signal() -> None:
    two = Spectrum(energies=(40.0, 80.0), photons=(2.0, 1.0))
    torch.testing.assert_close(two.response(), torch.tensor([0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(
        Spectrum(two.energies, two.photons, integrating=False).response(), torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    )
    length = torch.tensor([0.0, 100.0, 5000.0], dtype=torch.float64)  # exp(-80) underflows in single precision
    mu = two.attenuation("water")
    expected = -torch.log((0.5 * torch.exp(-mu * length[:, None])).sum(1))
    torch.testing.assert_close(polychromatic({"water": length}, two), expected)
    torch.testing.assert_close(polychromatic({"water": length.float()}, two), expected.float())


def test_hardening_lowers_the_attenuation_of_thick_water() -> None:
    length = torch.tensor([1.0, 400.0], dtype=torch.float64)
    thin, thick = polychromatic({"water": length}) / length
    assert 0.0200 < float(thin) < 0.0215
    assert 0.0187 < float(thick) < 0.0197


@pytest.mark.parametrize("longest", [300.0, 400.0, 500.0])
def test_corrected_line_integrals_of_water_are_straight(longest: float) -> None:
    length = torch.linspace(0.5, longest, 777, dtype=torch.float64)
    p = polychromatic({"water": length})
    q = straightened(p, water_correction(longest=longest))
    assert float((q / (WATER * length) - 1).abs().max()) < 0.005 / 4  # 0.5 % is asked for, 0.1 % is reached
    assert float((p / (WATER * length) - 1).abs().max()) > 0.05
    torch.testing.assert_close(straightened(p.float(), water_correction(longest=longest)).double(), q, rtol=1e-5, atol=1e-6)


def test_the_polynomial_is_evaluated_without_a_constant() -> None:
    p = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(straightened(p, (0.5, 0.25)), torch.tensor([0.0, 0.75, 2.0]))


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda: TUBE_120KVP.attenuation("watre"), "did you mean 'water'"),
        (lambda: Spectrum(energies=(140.0,), photons=(1.0,)).attenuation("water"), "keV"),
        (lambda: Spectrum(energies=(60.0, 70.0), photons=(1.0,)), "one for each"),
        (lambda: polychromatic({}), "no material"),
        (lambda: water_correction(degree=0), "degree"),
        (lambda: straightened(torch.ones(2), ()), "no coefficients"),
    ],
)
def test_what_is_not_known_is_refused(act, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        act()
