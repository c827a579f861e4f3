"""Analytic reconstruction, 1/mm: filtered backprojection of parallel beams and fans, Feldkamp's algorithm for cones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.backproject import Turning, backprojected, in_plane
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.filters import filtered, ramp_filter
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.recognise import recognised
from medrecon.physics.ct.view_weights import (
    across_the_axis,
    cosine_weights,
    gap_weights,
    measured_arc,
    offset_weights,
    parker_weights,
    smooth_arc_weights,
)

TURN = 2 * math.pi

BUDGET = 1 << 27
"""Bytes of padded rows that are filtered at a time."""

ITERATIVE = "use an iterative method with CTOperator, which takes any geometry"


def analytic(
    projections: Tensor, geometry: Geometry, pixels: Pixels, *, window: str = "ramp", cutoff: float = 1.0, tails: float = 0.0
) -> Tensor:
    """The image (*batch, *pixels), 1/mm, by the analytic method of the geometry: `fbp`, `fdk` or `helical.rebinned_fbp`.

    Vectors are taken where they are those of a turning scanner. Raises `NotSupported` for others.
    """
    geometry = _turning(geometry)
    if isinstance(geometry, HelicalCone):
        from medrecon.physics.ct.helical import rebinned_fbp

        return rebinned_fbp(projections, geometry, pixels, window=window, cutoff=cutoff, tails=tails)
    return _reconstructed(projections, geometry, pixels, window, cutoff, tails)


def fbp(sinogram: Tensor, geometry: Geometry, pixels: Pixels, *, window: str = "ramp", cutoff: float = 1.0, tails: float = 0.0) -> Tensor:
    """Filtered backprojection: (*batch, view, bin) to (*batch, ny, nx), 1/mm (Kak and Slaney 1988, chapter 3).

    Parallel rays and fans with flat or curved detector; any list of angles: a full turn, a short scan (Parker's weights), a limited arc
    (what is missing stays missing), a detector that reaches farther on one side. Parallel rays with detector rows are taken row by row.
    `window`: see `filters.WINDOWS`; `cutoff` in units of the Nyquist frequency. `tails`: part of the detector's width by which rows
    that end in the object are continued.
    """
    geometry = _turning(geometry)
    if not isinstance(geometry, ParallelBeam2D | FanBeam2D | ParallelBeam3D):
        raise NotSupported(f"fbp is for parallel rays and fans, the geometry is {type(geometry).__name__}: use fdk, or analytic for any")
    return _reconstructed(sinogram, geometry, pixels, window, cutoff, tails)


def fdk(
    projections: Tensor, geometry: Geometry, pixels: Pixels, *, window: str = "ramp", cutoff: float = 1.0, tails: float = 0.0
) -> Tensor:
    """Feldkamp, Davis and Kress (1984, J. Opt. Soc. Am. A 1, 612): (*batch, view, row, bin) to (*batch, nz, ny, nx), 1/mm.

    Exact in the plane of the source alone. Arcs, offset detectors and settings as in `fbp`; a curved detector is a cylinder. Voxels
    that some views do not see are too low.
    """
    geometry = _turning(geometry)
    if isinstance(geometry, HelicalCone):
        raise NotSupported("fdk is for a circle, this is a helix: use medrecon.physics.ct.helical.rebinned_fbp (analytic chooses it)")
    if not isinstance(geometry, ConeBeam):
        raise NotSupported(f"fdk is for cone beams, the geometry is {type(geometry).__name__}: use fbp, or analytic for any")
    return _reconstructed(projections, geometry, pixels, window, cutoff, tails)


def _turning(geometry: Geometry) -> Turning:
    """The geometry as one that an analytic method knows."""
    found = recognised(geometry) if isinstance(geometry, VectorGeometry) else geometry
    if found is None:
        raise NotSupported(f"these vectors are not those of a circle or a helix about the z axis, so no analytic method fits: {ITERATIVE}")
    if not isinstance(found, ParallelBeam2D | FanBeam2D | ParallelBeam3D | ConeBeam):
        raise NotSupported(f"no analytic method for {type(found).__name__}: {ITERATIVE}")
    if isinstance(found, ParallelBeam3D | ConeBeam) and any(found.tilt):
        raise NotSupported(f"no analytic method for a tilted detector (tilt = {found.tilt}): {ITERATIVE}")
    return found


def _reconstructed(projections: Tensor, geometry: Turning, pixels: Pixels, window: str, cutoff: float, tails: float) -> Tensor:
    if projections.is_complex():
        parts = (_reconstructed(part, geometry, pixels, window, cutoff, tails) for part in (projections.real, projections.imag))
        return torch.complex(*parts)
    _check(projections, geometry, pixels, tails)
    batch = projections.shape[: -len(geometry.shape)]
    if 0 in batch:
        return projections.new_zeros(*batch, *pixels.shape)
    dtype = projections.dtype
    # Half precision has too few digits for sums over views.
    data = projections if dtype in (torch.float32, torch.float64) else projections.float()
    rows, wider = filtered_projections(data.reshape(-1, *geometry.shape), geometry, window, cutoff, tails)
    image = backprojected(rows, wider, pixels).reshape(*batch, *pixels.shape)
    return image.to(dtype) if dtype.is_floating_point else image


def filtered_projections(projections: Tensor, geometry: Turning, window: str, cutoff: float, tails: float = 0.0) -> tuple[Tensor, Turning]:
    """(batch, view, [row,] bin), weighted and filtered so that the sum over `backprojected` views is the image, 1/mm; and their geometry.

    Of a lopsided detector over a full turn it has more bins: the filter's response on the side that was not measured belongs to the image.
    """
    spacing, equiangular = geometry.bin_spacing, geometry.curved
    if isinstance(geometry, FanBeam2D | ConeBeam):
        spacing *= (1 if equiangular else geometry.dso) / geometry.dsd
    tail, missing = round(tails * geometry.n_bins), _missing_bins(geometry)
    n_bins = geometry.n_bins + sum(missing)
    response = ramp_filter(n_bins, spacing, window=window, cutoff=cutoff, equiangular=equiangular, pad_to=2 * (n_bins + tail))
    weights = torch.as_tensor(_ray_weights(geometry), dtype=projections.dtype, device=projections.device)
    if geometry.rows is not None:
        weights = weights[:, None]
    cosines = torch.as_tensor(_cosines(geometry), dtype=projections.dtype, device=projections.device)
    per_view = 4 * projections.element_size() * math.prod(projections.shape[2:-1]) * projections.shape[0] * len(response)
    step = max(1, BUDGET // per_view)
    chunks = []
    for start in range(0, geometry.n_views, step):
        views = slice(start, start + step)
        weighted = F.pad(projections[:, views] * (weights[views] * cosines), missing)
        chunks.append(filtered(weighted, response, tail))
    offset = geometry.offset + (missing[1] - missing[0]) / 2 * geometry.bin_spacing
    return torch.cat(chunks, 1), replace(geometry, n_bins=n_bins, offset=offset)


def _missing_bins(geometry: Turning) -> tuple[int, int]:
    """Before the first and after the last bin, so that a full turn of a lopsided detector becomes symmetric about the axis."""
    across = across_the_axis(in_plane(geometry))
    if measured_arc(geometry.angles, TURN) is not None or across[0] * across[-1] >= 0:
        return 0, 0
    order = 1 if across[-1] > across[0] else -1
    extra = round(len(across) - 1 - 2 * float(np.interp(0, order * across, np.arange(len(across)))))
    return max(extra, 0), max(-extra, 0)


def _cosines(geometry: Turning) -> Array:
    """([row,] bin) factors of the rays, with the scale of the distance that `backprojected` divides by."""
    if isinstance(geometry, ParallelBeam2D | ParallelBeam3D):
        return np.ones(geometry.n_bins)
    # Flat: (dso / depth)^2 times the cosine; curved: dso cosine over the squared distance.
    return cosine_weights(geometry) * (1 if geometry.curved else geometry.dso)


def _ray_weights(geometry: Turning) -> Array:
    """(view, bin): the angle that a view stands for, rad, times the share of each ray in its line."""
    plane = in_plane(geometry)
    across, angles = across_the_axis(plane), plane.angles
    arc = measured_arc(angles, TURN)
    lopsided = abs(across[0] + across[-1]) > 1e-6 * np.abs(across).max()
    if arc is None and (lopsided or not plane.parallel):
        shares = offset_weights(across) if lopsided else np.full(plane.n_bins, 0.5)
        return gap_weights(angles, TURN)[:, None] * shares
    if plane.parallel or arc is None:
        return np.repeat(gap_weights(angles, plane.required_arc)[:, None], plane.n_bins, 1)
    since, length = arc
    complete = length >= math.pi + 2 * np.abs(across).max() - 1e-9
    shares = (parker_weights if complete else smooth_arc_weights)(since, across, length)
    return gap_weights(angles, TURN)[:, None] * shares


def _check(projections: Tensor, geometry: Turning, pixels: Pixels, tails: float) -> None:
    axes = len(geometry.shape)
    if tuple(projections.shape[-axes:]) != geometry.shape:
        raise BadInput(
            f"projections end in {tuple(projections.shape[-axes:])}, the geometry has {geometry.shape}: give one row of data for each"
        )
    if len(pixels.shape) != geometry.dimensions:
        raise BadInput(f"pixels {pixels.shape} for a geometry of {geometry.dimensions} dimensions: give {geometry.dimensions} sizes")
    if not 0 <= tails <= 1:
        raise BadInput(f"tails = {tails}: expected a part of the detector's width, 0 to 1")
    if isinstance(geometry, FanBeam2D | ConeBeam) and pixels.radius >= geometry.dso:
        raise BadInput(
            f"the image reaches {pixels.radius:.4g} mm from the axis, the source turns at {geometry.dso:.4g} mm: choose fewer pixels"
        )
