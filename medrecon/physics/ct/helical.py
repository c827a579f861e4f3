"""Helical scans by single-slice rebinning: every slice from the rays of one turn that nearly lie in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.analytic import ITERATIVE, fbp
from medrecon.physics.ct.backproject import centres, in_plane
from medrecon.physics.ct.circular import FanBeam2D, HelicalCone
from medrecon.physics.ct.geometry import Array
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.view_weights import across_the_axis, cosine_weights

CIRCLE = "feed = 0: this is a circle, use ConeBeam"

SPARE = math.radians(5.0)
"""By which a short scan is longer than it must be, so that its weights rise smoothly in every bin."""


def rebinned_fbp(
    projections: Tensor, geometry: HelicalCone, pixels: Pixels, *, window: str = "ramp", cutoff: float = 1.0, tails: float = 0.0
) -> Tensor:
    """(*batch, view, row, bin) to (*batch, nz, ny, nx), 1/mm: a fan-beam scan for each slice, then `fbp`.

    Single-slice rebinning (Noo et al. 1999, Phys. Med. Biol. 44, 561): approximate, the better the smaller the pitch and the fewer the
    rows. Slices where the helix has just begun are made of the nearest turn as far as the detector reaches; slices that it never
    sees are 0. Raises `NotSupported` where the pitch leaves gaps, and for a tilted detector.
    """
    _check(projections, geometry, pixels)
    plane, heights = pixels.shape[1:], centres(pixels)[0]
    flat = Pixels(plane, pixels.spacing[1:], pixels.centre[1:])
    image = projections.new_zeros(*projections.shape[:-3], *pixels.shape)
    for k, z in enumerate(heights):
        fan = fan_for_slice(geometry, float(z))
        if fan is not None:
            image[..., k, :, :] = fbp(fan.sinogram(projections), fan.geometry, flat, window=window, cutoff=cutoff, tails=tails)
    return image


@dataclass(frozen=True)
class SliceFan:
    """The fan-beam scan of one slice: which views, and for each ray (view, bin) the detector row that is read and its factor."""

    geometry: FanBeam2D
    views: NDArray[np.int64]
    row: Array
    shorter: Array

    def sinogram(self, projections: Tensor) -> Tensor:
        """(*batch, view of the slice, bin) from (*batch, view, row, bin), interpolated between rows."""
        n_rows = projections.shape[-2]
        before = np.clip(np.floor(self.row), 0, max(n_rows - 2, 0))
        part, factor = (torch.as_tensor(a).to(projections) for a in (self.row - before, self.shorter))
        views = torch.as_tensor(self.views, device=projections.device)[:, None]
        bins = torch.arange(projections.shape[-1], device=projections.device)
        low = torch.as_tensor(before, device=projections.device).long()
        first, second = (projections[..., views, r, bins] for r in (low, (low + 1).clamp(max=n_rows - 1)))
        return factor * (first + part * (second - first))


def fan_for_slice(geometry: HelicalCone, z: float) -> SliceFan | None:
    """The turn about height `z`, mm, as a fan-beam scan; None where the detector does not reach it.

    A ray of fan angle g passes the axis at dso cos g; there it is to be at height z, so it meets the detector, at the distance l in
    the plane, (z - z_source) l / (dso cos g) above the source, and is longer than its shadow by that slope.
    """
    heights, plane = geometry.heights(), in_plane(geometry)
    assert isinstance(plane, FanBeam2D)
    chosen = _views(geometry, z)
    if np.abs(z - heights[chosen]).min() > _half_height(geometry):
        return None
    fan = np.arange(geometry.n_bins) - (geometry.n_bins - 1) / 2
    aside = fan * geometry.bin_spacing + geometry.offset
    length = np.full(geometry.n_bins, geometry.dsd) if geometry.curved else np.hypot(geometry.dsd, aside)
    rise = (z - heights[chosen])[:, None] * length / cosine_weights(plane)
    row = (rise - geometry.row_offset) / geometry.row_spacing + (geometry.n_rows - 1) / 2
    subset = plane.subset(chosen)
    assert isinstance(subset, FanBeam2D)
    return SliceFan(subset, chosen, np.clip(row, 0, geometry.n_rows - 1), length / np.hypot(length, rise))


def views_for(geometry: HelicalCone, heights: Array) -> NDArray[np.int64]:
    """Indices of the views that slices at these heights, mm, are made of, and of one more on either side: the arcs stay in place."""
    if geometry.feed == 0:
        raise BadInput(CIRCLE)
    needed = np.concatenate([_views(geometry, float(z)) for z in heights])
    if not needed.size:
        raise BadInput(f"no view lies within {math.degrees(_arc(geometry)):.0f} degrees about these slices: choose others")
    return np.arange(max(0, needed.min() - 1), min(geometry.n_views, needed.max() + 2))


def _half_height(geometry: HelicalCone) -> float:
    """mm above and below the source that the detector sees at the axis."""
    return geometry.n_rows * geometry.row_spacing * geometry.dso / geometry.dsd / 2 - abs(geometry.row_offset) * geometry.dso / geometry.dsd


def _arc(geometry: HelicalCone) -> float:
    """rad of views for a slice: a turn where the detector is high enough for it, else a short scan."""
    if abs(geometry.feed) / 2 <= _half_height(geometry) * (1 + 1e-9):
        return 2 * math.pi
    return math.pi + 2 * float(np.abs(across_the_axis(in_plane(geometry))).max()) + SPARE


def _views(geometry: HelicalCone, z: float) -> NDArray[np.int64]:
    """Indices of the views in an arc about the one whose source is at height z, moved inwards at the ends of the helix."""
    assert geometry.start is not None
    half = _arc(geometry) / 2
    first, last = float(geometry.angles.min()), float(geometry.angles.max())
    middle = geometry.start + 2 * math.pi * (z - geometry.z) / geometry.feed
    middle = min(max(middle, first + half), last - half) if last - first > 2 * half else (first + last) / 2
    # One end left out: a view a turn later is the same view again.
    since = geometry.angles - (middle - half)
    return np.flatnonzero((since >= -1e-9) & (since < 2 * half - 1e-9))


def _check(projections: Tensor, geometry: HelicalCone, pixels: Pixels) -> None:
    if tuple(projections.shape[-3:]) != geometry.shape:
        raise BadInput(f"projections end in {tuple(projections.shape[-3:])}, the geometry has (view, row, bin) = {geometry.shape}")
    if len(pixels.shape) != 3:
        raise BadInput(f"pixels {pixels.shape}: a helix makes a volume, give (nz, ny, nx)")
    if geometry.feed == 0:
        raise BadInput(CIRCLE)
    if any(geometry.tilt):
        raise NotSupported(f"no rebinning for a tilted detector (tilt = {geometry.tilt}): {ITERATIVE}")
    need, seen = abs(geometry.feed) * _arc(geometry) / (4 * math.pi), _half_height(geometry)
    if need > seen * (1 + 1e-9):
        raise NotSupported(
            f"pitch {geometry.pitch:.3g} is too large: half a turn and the fan move the table {2 * need:.4g} mm, the detector sees "
            f"{2 * seen:.4g} mm at the axis: {ITERATIVE}"
        )
