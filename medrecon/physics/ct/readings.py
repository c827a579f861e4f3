"""From what a file holds to line integrals with their weights, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct import counts
from medrecon.physics.ct.hardening import straightened
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.noise import MAD_TO_STD

LEAST_WEIGHT = 1e-6
"""Of a reading that was not measured, so that its interpolated line integral stays known to direct methods."""

DIFFERENCE = (1.0, -4.0, 6.0, -4.0, 1.0)
"""Along bins: removes what is a cubic over five bins, and keeps white noise at its level when divided by sqrt(70)."""


@dataclass(frozen=True)
class Read:
    """`line_integrals` (item, view, [row,] bin), float32; `weights` of the same shape, 1 for a ray without object; `quanta` and
    `photons` (broadcasts over an item) where readings are quanta, else None. `facts` and `warnings` for the reader of the image."""

    line_integrals: Tensor
    weights: Tensor | None = None
    quanta: Tensor | None = None
    photons: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Readings:
    """Reads items start..stop of a scan and corrects them; settings as in `medrecon.physics.ct.prepare.Preparation`."""

    scan: CTScan
    photons: float | None = None
    electronic_std: float = 0.0
    repair: bool = True
    rings: bool = False
    nan: str = "error"
    hardening: tuple[float, ...] = ()

    def __call__(self, start: int, stop: int) -> Read:
        raw, lost = self._finite(self.scan.projections[start:stop])
        if self.scan.stored == "emission":
            if bool((raw < 0).any()):
                raise BadInput(f"{int((raw < 0).sum())} negative counts: an emission scan counts quanta; subtract no background from it")
            return Read(raw, quanta=raw)
        facts: dict[str, Any] = {}
        photons = self._photons()
        if self.scan.stored == "line integrals":
            p, through = raw, (-raw).exp()
        else:
            through = self._through(raw, start, stop, photons, facts)
            if self.repair:
                through, facts["dead_bins"] = self._repaired(through)
            floor = counts.FLOOR if photons is None else 1 / photons
            logarithm = counts.line_integrals(through.masked_fill(lost, 1.0), floor, view_axis=self._view_axis)
            p, lost = logarithm.line_integrals, lost | logarithm.unmeasured
            facts["unmeasured"] = round(float(lost.double().mean()), 6)
        p = self._corrected(p.masked_fill(lost, 0) if self.scan.stored == "line integrals" else p)
        quanta = None if photons is None else through * photons
        weights = through if quanta is None or photons is None else counts.weights(quanta, self.electronic_std) / photons
        weights = weights.masked_fill(lost, 0).clamp(LEAST_WEIGHT)
        warnings = []
        if facts.get("unmeasured", 0) > 0.001:
            warnings.append(f"{facts['unmeasured']:.1%} of the readings were zero or negative and count as not measured")
        return Read(p, weights, None if quanta is None else quanta.clamp(min=0), photons, facts, warnings)

    @property
    def _view_axis(self) -> int:
        return -2 if self.scan.image_axes == 2 else -3

    def _finite(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Readings in float32, and which of them are none."""
        raw = raw.to(torch.float32)
        lost = ~torch.isfinite(raw)
        if bool(lost.any()):
            if self.nan == "error":
                raise BadInput(f"{int(lost.sum())} projections are NaN or infinite: repair the file, or --nan zero to leave them out")
            raw = raw.masked_fill(lost, 0.0)
        return raw, lost

    def _photons(self) -> Tensor | None:
        if self.photons is not None:
            return torch.tensor(self.photons)
        return None if self.scan.photons is None else self.scan.photons.to(torch.float32)

    def _through(self, raw: Tensor, start: int, stop: int, photons: Tensor | None, facts: dict[str, Any]) -> Tensor:
        """Transmission: readings over readings without object."""
        if self.scan.stored == "transmission":
            return raw
        flat, dark = (None if a is None else a[start:stop] if a.shape[0] > 1 else a[0:1] for a in (self.scan.flat, self.scan.dark))
        if flat is not None:
            facts["incident"] = "flat field"
            return counts.transmission(raw, flat, dark, view_axis=self._view_axis)
        if photons is not None:
            facts["incident"] = "photons"
            return raw / photons
        raw = raw if dark is None else raw - dark.to(torch.float32).mean(self._view_axis, keepdim=True)
        facts["incident"] = "air beside the object"
        return raw / counts.incident(raw, view_axis=self._view_axis)

    def _repaired(self, through: Tensor) -> tuple[Tensor, int]:
        """With dead and hot bins interpolated, and how many there were."""
        from medrecon.physics.ct.bad_bins import bad_bins, interpolated

        found = bad_bins(through, view_axis=self._view_axis)
        count = int(found.sum())
        return (interpolated(through, found) if count else through), count

    def _corrected(self, p: Tensor) -> Tensor:
        """Beam hardening, then rings."""
        if self.hardening:
            p = straightened(p, self.hardening)
        if self.rings:
            from medrecon.physics.ct.rings import without_rings

            p = without_rings(p, view_axis=self._view_axis)
        return p


def ray_noise(line_integrals: Tensor, weights: Tensor | None = None) -> float:
    """Noise standard deviation of a line integral of weight 1, from differences of neighbouring bins; 0 where there are none.

    Fourth differences and a median: edges of the object and its slow variations tell little. Neighbouring bins must be
    independent; interpolated ones make it too small.
    """
    n = line_integrals.shape[-1]
    if n < 2 * len(DIFFERENCE):
        raise BadInput(f"noise of {n} bins cannot be estimated: give --set noise_std=")
    kernel = torch.tensor(DIFFERENCE, dtype=line_integrals.dtype)
    parts = line_integrals.unfold(-1, len(DIFFERENCE), 1)
    rough = (parts * kernel).sum(-1) / kernel.square().sum().sqrt()
    if weights is not None:
        rough = rough * weights[..., 2 : n - 2].sqrt()
        rough = rough[weights[..., 2 : n - 2] > 10 * LEAST_WEIGHT]
    return float(MAD_TO_STD * (rough - rough.median()).abs().median())
