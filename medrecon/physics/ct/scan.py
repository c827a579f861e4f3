"""CTScan: projections with their geometry, as they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.circular import HelicalCone
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.scan import Expert, Problem, Scan, SliceArray, SlicePart, bounds

WATER = 0.0192
"""1/mm: attenuation of water at an effective 70 keV (120 kVp)."""

STORED = ("line integrals", "counts", "transmission", "emission")
"""What projections may hold: -log transmission; detected quanta or detector units; I / I0; counts of an emission scan."""


@dataclass(frozen=True, kw_only=True)
class CTScan(Scan):
    """Projections of one object.

    `projections` (slice, view, bin) with a geometry of two dimensions, (1, view, row, bin) with one of three; still in the file
    or not. `stored`: what they hold, see STORED. `flat`, `dark` (slice, frame, bin) or (1, frame, row, bin): detector readings
    without object and without beam. `photons`: incident quanta, broadcasts over one item of the projections; None where
    nobody knows. `water`: attenuation of water, 1/mm, for HU. `sized`: whether lengths are known; False: a bin is 1 and the
    image has no HU. `height`: mm along the axis at which the middle of a volume lies; None: the middle of the source's way.
    """

    projections: SliceArray
    geometry: Geometry
    stored: str = "line integrals"
    flat: SliceArray | None = None
    dark: SliceArray | None = None
    photons: Tensor | None = None
    water: float = WATER
    sized: bool = True
    height: float | None = None

    def __post_init__(self) -> None:
        expected, got = self.geometry.shape, tuple(self.projections.shape[1:])
        if expected != got:
            names = ("views", "bins") if len(expected) == 2 else ("views", "rows", "bins")
            told = ", ".join(f"{b} {n}" for n, b in zip(names, got, strict=False))
            raise BadInput(
                f"projections {tuple(self.projections.shape)} ({told}) do not fit the geometry, which has {expected[0]} angles and a "
                f"detector of {' x '.join(map(str, expected[1:]))}: give one angle for each view"
            )
        if self.stored not in STORED:
            raise BadInput(f"stored = {self.stored!r}: expected {', '.join(STORED)}")

    @property
    def modality(self) -> str:
        return "ct"

    @property
    def image_axes(self) -> int:
        """2: slices one by one; 3: a volume."""
        return self.geometry.dimensions

    @property
    def n_slices(self) -> int:
        """Slices of the image."""
        return self.grid.shape[0]

    @property
    def n_items(self) -> int:
        """What is solved one by one: slices, or the one volume."""
        return int(self.projections.shape[0])

    def select(self, slices: slice) -> CTScan:
        """The scan with a part of its slices, in their place; of a helix with the views that `fbp` makes them of.

        Those views see what lies above and below the part too, so other methods than `fbp` are wrong near its ends. Raises `BadInput`
        for volumes of other cones.
        """
        start, stop = bounds(slices, self.n_slices)
        if (start, stop) == (0, self.n_slices):
            return self
        if isinstance(self.geometry, HelicalCone):
            return self._part_of_the_helix(start, stop)
        if self.image_axes == 3:
            raise BadInput("a cone-beam scan is solved as one volume: choose slices of its image (--set) instead of its data")
        _, ny, nx = self.grid.shape

        def part(array: SliceArray | None) -> SliceArray | None:
            return SlicePart(array, start, stop) if array is not None and array.shape[0] > 1 else array

        return replace(
            self,
            projections=SlicePart(self.projections, start, stop),
            flat=part(self.flat),
            dark=part(self.dark),
            grid=self.grid.crop((start, 0, 0), (stop - start, ny, nx)),
        )

    def _part_of_the_helix(self, start: int, stop: int) -> CTScan:
        from medrecon.physics.ct.backproject import centres
        from medrecon.physics.ct.frame import pixels_of
        from medrecon.physics.ct.helical import views_for
        from medrecon.physics.ct.subset import subsampled

        assert isinstance(self.geometry, HelicalCone)
        _, ny, nx = self.grid.shape
        heights = centres(pixels_of(self.grid, self))[0][start:stop]
        warning = f"slices {start} to {stop - 1} of a helix: methods other than fbp are wrong near the ends of the part"
        part = subsampled(self, views_for(self.geometry, heights))
        return replace(
            part,
            grid=self.grid.crop((start, 0, 0), (stop - start, ny, nx)),
            height=float(heights[0] + heights[-1]) / 2,
            header={**part.header, "warnings": [*part.header.get("warnings", ()), warning]},
        )

    def settings(self) -> list[str]:
        from medrecon.physics.ct.prepare import Preparation

        return Preparation.named()

    def suited(self, prior: Expert) -> dict[str, Any]:
        return {"units": prior.units}

    def item_bytes(self, domain: tuple[int, ...], copies: int, settings: Mapping[str, Any]) -> int:
        from medrecon.physics.ct.prepare import item_bytes

        return item_bytes(domain, self.geometry.shape, copies)

    def probe(self, settings: Mapping[str, Any]) -> tuple[Scan, dict[str, Any]]:
        """One slice; a volume is measured whole."""
        return (self, dict(settings)) if self.image_axes == 3 else super().probe(settings)

    def problems(self, budget: int | None = None, device: torch.device | str = "cpu", **settings: Any) -> Iterator[Problem]:
        """See `medrecon.physics.ct.prepare.Preparation` for the settings."""
        from medrecon.physics.ct.prepare import prepared

        return prepared(self, budget, torch.device(device), **settings)

    def describe(self) -> dict[str, Any]:
        from medrecon.physics.ct.frame import description

        return description(self)
