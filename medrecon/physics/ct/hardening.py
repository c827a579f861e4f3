"""Beam hardening: line integrals of a beam of many energies, and the water correction that makes those of water straight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.scan import WATER
from medrecon.physics.ct.spectra import TUBE_120KVP, Spectrum

STEPS = 400
"""Thicknesses of the water wedge that the correction is fitted to."""


def polychromatic(lengths: Mapping[str, Tensor], spectrum: Spectrum = TUBE_120KVP) -> Tensor:
    """-log of the share of the signal that is left behind `lengths` mm of each material (water, bone, iodine), all of one shape.

    p = -log sum_e S(e) exp(-sum_m mu_m(e) L_m). Iodine: mm times g/cm3. One energy at a time, so memory is that of a few sinograms.
    """
    if not lengths:
        raise BadInput("polychromatic: no material; expected lengths of water, bone or iodine, mm")
    mu = {material: spectrum.attenuation(material) for material in lengths}
    logs: Tensor | None = None
    for e, share in enumerate(spectrum.response().log().tolist()):
        if share == -float("inf"):
            continue
        term = share - sum(float(mu[material][e]) * length for material, length in lengths.items())
        logs = term if logs is None else torch.logaddexp(logs, term)
    assert logs is not None  # a spectrum has photons
    return -logs


def water_correction(
    spectrum: Spectrum = TUBE_120KVP, *, degree: int = 4, longest: float = 400.0, water: float = WATER
) -> tuple[float, ...]:
    """Coefficients c_1, c_2, ...: c_1 p + c_2 p^2 + ... is `water` (1/mm) times the length that p goes through in water.

    Least squares of the relative error over a wedge of up to `longest` mm (Herman, Phys. Med. Biol. 24:81 (1979)). Readings beyond it
    are extrapolated.
    """
    if not 1 <= degree <= 8 or not longest > 0 or not water > 0:
        raise BadInput(f"degree = {degree}, longest = {longest} mm, water = {water} 1/mm: expected 1 to 8 and positive numbers")
    length = torch.linspace(longest / STEPS, longest, STEPS, dtype=torch.float64)
    p = polychromatic({"water": length}, spectrum)
    largest = p.max()
    powers = torch.stack([(p / largest) ** n for n in range(1, degree + 1)], 1) / (water * length)[:, None]
    found = torch.linalg.lstsq(powers, torch.ones(STEPS, 1, dtype=torch.float64)).solution.flatten()
    return tuple((found / largest ** torch.arange(1, degree + 1, dtype=torch.float64)).tolist())


def straightened(line_integrals: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c_1 p + c_2 p^2 + ..., the same shape: the coefficients of `water_correction`."""
    if not coefficients:
        raise BadInput("beam hardening: no coefficients; expected c_1, c_2, ...")
    result = torch.zeros_like(line_integrals)
    for c in reversed(coefficients):
        result = (result + c) * line_integrals
    return result
