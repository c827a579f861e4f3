"""What an X-ray tube emits and what water, bone and iodine let through, at a few energies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput, nearest

ENERGIES = (25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0)
"""keV, the middles of bins 5 keV wide."""

PHOTONS_120KVP = (
    *(0.00925, 0.0326, 0.0596, 0.0787, 0.0878, 0.0891, 0.0856, 0.158, 0.0912, 0.0638),
    *(0.0485, 0.0433, 0.0379, 0.0325, 0.0271, 0.0217, 0.0164, 0.011, 0.00562, 0.000769),
)
"""Share of the photons in each bin: tungsten target at 120 kV, 10 degrees, 7 mm of aluminium, half-value layer 6.9 mm of aluminium.

Computed with SpekPy 2.5.4 (Poludniowski et al., Med. Phys. 48:3630 (2021)).
"""

ATTENUATION = {
    "water": (
        *(0.05082, 0.03756, 0.03075, 0.02683, 0.02436, 0.02269, 0.02149, 0.02059, 0.01987, 0.01929),
        *(0.01879, 0.01837, 0.01799, 0.01766, 0.01735, 0.01707, 0.01681, 0.01657, 0.01635, 0.01614),
    ),
    "bone": (
        *(0.3828, 0.2368, 0.1618, 0.1193, 0.09347, 0.07674, 0.06539, 0.05739, 0.05155, 0.04715),
        *(0.04376, 0.04108, 0.03892, 0.03715, 0.03566, 0.03441, 0.03333, 0.03239, 0.03156, 0.03082),
    ),
    "iodine": (
        *(1.393, 0.8562, 3.12, 2.21, 1.626, 1.232, 0.9563, 0.7577, 0.6116, 0.5016),
        *(0.4171, 0.351, 0.2986, 0.2565, 0.2223, 0.1942, 0.1709, 0.1515, 0.1351, 0.1211),
    ),
}
"""1/mm at ENERGIES: liquid water, cortical bone (ICRP, 1.85 g/cm3), and iodine of 1 g/cm3 (a solution has its share of it).

Total attenuation with coherent scattering, computed with xraylib 4.3.0 (Schoonjans et al., Spectrochim. Acta B 66:776 (2011)).
"""


@dataclass(frozen=True)
class Spectrum:
    """`energies` keV and the `photons` at each, in any unit. `integrating`: whether the detector adds energies (else it counts)."""

    energies: tuple[float, ...] = ENERGIES
    photons: tuple[float, ...] = PHOTONS_120KVP
    integrating: bool = True

    def __post_init__(self) -> None:
        energies, photons = len(self.energies), len(self.photons)
        if energies != photons or not photons or min(self.photons) < 0 or not sum(self.photons) > 0:
            raise BadInput(f"spectrum of {energies} energies and {photons} photon numbers: expected one for each, not negative, not all 0")

    def response(self) -> Tensor:
        """Share (energy,) of the signal of an open beam, float64."""
        photons = torch.tensor(self.photons, dtype=torch.float64)
        signal = photons * torch.tensor(self.energies, dtype=torch.float64) if self.integrating else photons
        return signal / signal.sum()

    def attenuation(self, material: str) -> Tensor:
        """1/mm (energy,), float64: log-log interpolated between the tabulated energies."""
        if material not in ATTENUATION:
            raise BadInput(f"material {material!r}: there are {', '.join(ATTENUATION)}{nearest(material, list(ATTENUATION))}")
        energies = torch.tensor(self.energies, dtype=torch.float64)
        if not bool(((energies >= ENERGIES[0]) & (energies <= ENERGIES[-1])).all()):
            raise BadInput(f"energies {min(self.energies)} to {max(self.energies)} keV: the table has {ENERGIES[0]} to {ENERGIES[-1]} keV")
        known, values = (torch.tensor(t, dtype=torch.float64).log() for t in (ENERGIES, ATTENUATION[material]))
        x = energies.log()
        after = torch.searchsorted(known, x).clamp(1, len(known) - 1)
        fraction = (x - known[after - 1]) / (known[after] - known[after - 1])
        return torch.lerp(values[after - 1], values[after], fraction).exp()


TUBE_120KVP = Spectrum()
"""A clinical scanner's tube in front of an energy-integrating detector."""
