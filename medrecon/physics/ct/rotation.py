"""Where the axis of rotation projects to, from the projections alone.

Views half a turn apart are mirror images about the axis. Over a turn they are compared. Over half a turn the views and their mirror
images must make a sinogram, whose Fourier transform vanishes outside a double wedge (all moment conditions of Helgason and Ludwig
at once); where the object leaves the field of view, the first view is compared with the last instead. Over less, or with few
views, the first moment must be a sinusoid. Every ray of a fan that turns once comes again from the other side, in another view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.truncation import truncated
from medrecon.tensors import ratio

OVERLAP = math.pi / 3
"""rad seen from both sides, from which on opposite views say more than the wedge."""

FEW_VIEWS = 16
"""Fewer have no Fourier transform over the angle to speak of."""

WIDEST_GAP = 3.0
"""Between neighbouring views, in median steps, over which they may be interpolated."""

LEAST_ARC = math.pi / 3
"""rad below which a sinusoid and its mean cannot be told apart."""

BESIDE_THE_WEDGE = 2
"""Angular frequencies next to the wedge that its finite edge reaches."""

FINER = 8
"""Points of the wedge's mismatch curve a half bin."""

LEAST_OVERLAP = 0.25
"""Share of the bins that both of two opposite views must cover."""

LEAST_ENERGY = 1e-3
"""Of the largest energy in an overlap, below which only air agrees with air."""

SOME_VIEWS = 0.02
"""Share of cut views from which the wedge does not hold."""

HALF_BIN = 0.5
"""Views that are compared with mirrored ones tell 2 c in whole bins."""

MOST_BINS = 256
"""Of a fan's detector, beyond which means of neighbouring ones are looked at first."""

OPPOSITE_RAYS = "opposite rays"

MOST_SINOGRAMS = 16
"""Slices or rows looked at, evenly spaced."""


@dataclass(frozen=True)
class Centre:
    """`bin`: where the axis projects to, bin 0 has its centre at 0 and (K - 1) / 2 is the middle. `quality`: 1 - mismatch there over the
    median mismatch elsewhere (moments: 1 / (1 + misfit in bins)); below 0.5 look at the image. `method`: what was compared."""

    bin: float
    quality: float
    method: str


def axis_of(sinogram: Tensor, geometry: Geometry) -> Centre:
    """The axis of line integrals (*batch, view, [row,] bin) of parallel rays, of a fan, or of a cone by the row in the source's plane.

    Raises `BadInput` for other geometries, and see `find_centre` and `find_fan_centre`.
    """
    if any(getattr(geometry, "tilt", ())):
        raise BadInput("centre of rotation: not found for a tilted detector: give the bin of the axis")
    if isinstance(geometry, ParallelBeam2D):
        return find_centre(sinogram, geometry.angles)
    if isinstance(geometry, ParallelBeam3D):
        return find_centre(sinogram, geometry.angles, view_axis=-3)
    if isinstance(geometry, FanBeam2D):
        return find_fan_centre(sinogram, geometry)
    if isinstance(geometry, ConeBeam) and not isinstance(geometry, HelicalCone):
        level = round((geometry.n_rows - 1) / 2 - geometry.row_offset / geometry.row_spacing)
        if not 0 <= level < geometry.n_rows:
            raise BadInput("centre of rotation: no row of the detector lies in the plane of the source: give the bin of the axis")
        return find_fan_centre(sinogram[..., level, :], geometry)
    raise BadInput(f"centre of rotation: found for parallel rays, fans and circular cones, not for {type(geometry).__name__}: give the bin")


def find_centre(sinogram: Tensor, angles: ArrayLike, *, view_axis: int = -2) -> Centre:
    """The axis of parallel line integrals (*batch, view, bin), or (*batch, view, row, bin) with `view_axis` = -3; one for the batch.

    `angles` (view,), rad, in any order. Air must read 0. Sub-bin: the mismatch of the wedge (Vo et al., Opt. Express 22:19078 (2014),
    squared, which makes it one correlation) or of opposite views is interpolated by a parabola. Raises `BadInput` for fewer than
    3 views, arcs below 60 degrees, NaN and empty data.
    """
    p, theta = _in_order(sinogram.movedim(view_axis, -2), angles)
    gaps = theta.diff()
    step = float(gaps.median())
    apart = torch.cat([torch.ones(1, dtype=torch.bool), gaps > 1e-3 * step])  # a view measured twice says nothing new
    theta, p = theta[apart], p[:, apart]
    arc = float(theta[-1] - theta[0]) + step
    if len(theta) < FEW_VIEWS or float(theta.diff().max()) > WIDEST_GAP * step or arc < math.pi - step / 2:
        return _by_moments(p, theta)
    if arc - math.pi >= OVERLAP:
        return _by_opposite_views(*_opposite(p, theta, step))
    if float(truncated(p).double().mean()) > SOME_VIEWS:
        return _by_opposite_views(*_first_and_last(p, theta))
    return _by_wedge(p, theta, step)


def find_fan_centre(sinogram: Tensor, geometry: FanBeam2D | ConeBeam) -> Centre:
    """The axis of line integrals (*batch, view, bin) of a fan that turns once; one for the batch. `offset` of the geometry plays no part.

    The ray of view beta through bin k comes again in view beta + pi - 2 gamma through bin 2 c - k, gamma its angle from the ray through the
    axis c (Kak and Slaney 1988, section 3.4.1). Turned by their angles, with a Fourier series over the views, the mirrored views are
    compared with the views for all c of half bins; between them a parabola. Raises `BadInput` for less than a turn, uneven or fewer
    than 16 views, and for a source that is not level with the axis.
    """
    p, theta = _in_order(sinogram, geometry.angles)
    if float(theta[-1] - theta[0]) > 2 * math.pi - 1e-6:
        theta, p = theta[:-1], p[:, :-1]
    gaps, step = torch.cat([theta, theta[:1] + 2 * math.pi]).diff(), 2 * math.pi / len(theta)
    if len(theta) < FEW_VIEWS or float((gaps - step).abs().max()) > step / 2:
        raise BadInput("centre of rotation of a fan: found from a whole turn of evenly spaced views: give the bin of the axis")
    if geometry.axis_shift:
        raise BadInput("centre of rotation of a fan: axis_shift says where the source is: give the bin of the axis")
    series = torch.fft.rfft(p, dim=1)
    # Of wide detectors first the mean of neighbouring bins, which costs a share that is their number cubed.
    wide, n_bins = -(-p.shape[-1] // MOST_BINS), p.shape[-1]
    few, everywhere = n_bins // wide, range(2 * (n_bins // wide) - 1)
    coarse = series[..., : few * wide].unflatten(-1, (few, wide)).mean(-1)
    first = _best(_fan_mismatch(coarse, geometry, wide, everywhere), OPPOSITE_RAYS, HALF_BIN)
    if wide == 1:
        return first
    about = round(2 * (first.bin * wide + (wide - 1) / 2))
    near = range(max(0, about - 2 * wide - 1), min(2 * n_bins - 1, about + 2 * wide + 2))
    fine = _best(_fan_mismatch(series, geometry, 1, near), OPPOSITE_RAYS, HALF_BIN, near.start * HALF_BIN)
    return replace(fine, quality=first.quality)


def _fan_mismatch(series: Tensor, geometry: FanBeam2D | ConeBeam, wide: int, wanted: range) -> Tensor:
    """Of the axis at the `wanted` half bins, 2 where too few bins are seen twice; `series` (item, m, bin), bins the mean of `wide` of the
    geometry's from the first."""
    m = torch.arange(series.shape[1], dtype=torch.float64)[:, None]
    n_bins = series.shape[-1]
    energy = torch.nn.functional.pad(series.abs().square().sum((0, 1)).cumsum(0), (1, 0))
    cross, common = (torch.zeros(len(wanted), dtype=torch.float64) for _ in range(2))
    covered = range(math.ceil(LEAST_OVERLAP * n_bins) - 1, 2 * n_bins - math.ceil(LEAST_OVERLAP * n_bins))
    for i, twice in enumerate(wanted):
        if twice not in covered:
            continue
        k = torch.arange(max(0, twice - n_bins + 1), min(twice, n_bins - 1) + 1)
        aside = (k - twice / 2) * (wide * geometry.bin_spacing / geometry.dsd)
        gamma = aside if geometry.curved else aside.atan()
        turned = series[..., twice - k] * torch.polar(torch.ones(()).double(), m * (math.pi - 2 * gamma))
        cross[i] = (series[..., k].conj() * turned).real.sum()
        common[i] = 2 * (energy[k[-1] + 1] - energy[k[0]])
    curve = 1 - 2 * cross / common.clamp_min(LEAST_ENERGY * common.max())
    return torch.where(common > 0, curve, 2.0)


def _in_order(sinogram: Tensor, angles: ArrayLike) -> tuple[Tensor, Tensor]:
    """Some of the sinograms (item, view, bin) and their angles, sorted, in double precision on the CPU; refused where they show no axis."""
    theta = torch.as_tensor(angles, dtype=torch.float64).flatten().cpu()
    p = sinogram.detach().reshape(-1, *sinogram.shape[-2:])
    p = p[:: -(-len(p) // MOST_SINOGRAMS)].to("cpu", torch.float64)
    _refuse(p, theta)
    order = theta.argsort()
    return p[:, order], theta[order]


def _refuse(p: Tensor, theta: Tensor) -> None:
    if p.shape[-2] != len(theta):
        raise BadInput(f"sinogram of {p.shape[-2]} views and {len(theta)} angles: give one angle for each view")
    if not bool(torch.isfinite(p).all()) or not bool(torch.isfinite(theta).all()):
        raise BadInput("centre of rotation: NaN or infinite projections or angles; leave those views out")
    if not bool((p.amax((-1, -2)) > p.amin((-1, -2))).any()):
        raise BadInput("centre of rotation: the projections are empty")
    reach = float(theta.max() - theta.min()) if len(theta) else 0.0
    if len(theta) < 3 or reach < LEAST_ARC:
        raise BadInput(f"centre of rotation: {len(theta)} views over {reach:.2f} rad do not show it: give the bin of the axis")


def _opposite(p: Tensor, theta: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Views, and what is seen half a turn later (item, pair, bin)."""
    turn = float(theta[-1] - theta[0]) > 2 * math.pi - 1.5 * step
    partner = theta + math.pi
    if turn:
        partner = torch.where(partner > theta[-1] + step, partner - 2 * math.pi, partner)
        theta, whole = torch.cat([theta, theta[:1] + 2 * math.pi]), torch.cat([p, p[:, :1]], 1)
    else:
        whole = p
    seen = (partner >= theta[0]) & (partner <= theta[-1])
    return p[:, seen], _at(whole, theta, partner[seen])


def _first_and_last(p: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last view, and what is seen half a turn later and before: a step beyond the scan, extended in a straight line."""
    ends = torch.stack([theta[0] + math.pi, theta[-1] - math.pi])
    return p[:, [0, -1]], _at(p, theta, ends, beyond=True)


def _by_opposite_views(here: Tensor, there: Tensor) -> Centre:
    """The c at which here(k) and there(2 c - k) differ least, in the mean square over their common bins relative to what is there."""
    n_bins = here.shape[-1]
    cross = torch.fft.irfft((_spectra(here) * _spectra(there)).sum((0, 1)), _length(n_bins))[: 2 * n_bins - 1]
    lag = torch.arange(2 * n_bins - 1)  # 2 c
    first, last = (lag - n_bins + 1).clamp(min=0), lag.clamp(max=n_bins - 1)
    energy = torch.nn.functional.pad((here.square() + there.square()).sum((0, 1)).cumsum(0), (1, 0))
    common = energy[last + 1] - energy[first]
    curve = 1 - 2 * cross / common.clamp_min(LEAST_ENERGY * common.max())
    return _best(curve.masked_fill(last - first + 1 < LEAST_OVERLAP * n_bins, 2.0), "opposite views", HALF_BIN)


def _by_wedge(p: Tensor, theta: Tensor, step: float) -> Centre:
    """The c that leaves the least energy outside the double wedge of the views over half a turn and their mirror images.

    With the transforms A of the views and B of their mirror images about bin 0, that energy is
    sum |A + B exp(-2 pi i u 2 c / n)|^2: a correlation, known for all c at once.
    """
    half, n_bins = round(math.pi / step), p.shape[-1]
    spectra = _spectra(_at(p, theta, theta[0] + torch.arange(half, dtype=torch.float64) * math.pi / half))
    empty = torch.zeros_like(spectra)
    views = torch.fft.fft(torch.cat([spectra, empty], 1), dim=1)
    mirrored = torch.fft.fft(torch.cat([empty, spectra.conj()], 1), dim=1)
    u = torch.arange(spectra.shape[-1], dtype=torch.float64)
    m = torch.fft.fftfreq(2 * half, dtype=torch.float64).abs() * 2 * half
    reach = n_bins / 2  # bins from the axis to the edge of the field of view
    outside = (m[:, None] > 2 * math.pi * reach * u / _length(n_bins) + BESIDE_THE_WEDGE) & (u > 0)
    views, mirrored = views * outside, mirrored * outside
    cross = (views * mirrored.conj()).sum((0, 1))
    n = FINER * _length(n_bins)
    shifted = 2 * n * torch.fft.irfft(cross, n)[: 2 * FINER * (n_bins - 1) + 1]
    return _best((_power(views) + _power(mirrored) + shifted).clamp_min(0), "wedge", HALF_BIN / FINER)


def _by_moments(p: Tensor, theta: Tensor) -> Centre:
    """The mean of the sinusoid on which the centres of mass of the views lie."""
    k = torch.arange(p.shape[-1], dtype=torch.float64)
    mass = p.sum(-1)
    if not bool((mass > 0).all()):
        raise BadInput("centre of rotation: a view without an object; leave it out")
    position = (p * k).sum(-1) / mass
    design = torch.stack([torch.ones_like(theta), theta.cos(), theta.sin()], 1)
    found = torch.linalg.lstsq(design, position.mT).solution
    misfit = float((design @ found - position.mT).square().mean().sqrt())
    share = mass.mean(-1)
    return Centre(float((found[0] * share).sum() / share.sum()), 1 / (1 + misfit), "moments")


def _at(p: Tensor, theta: Tensor, wanted: Tensor, *, beyond: bool = False) -> Tensor:
    """Views (item, wanted, bin) interpolated linearly between those at sorted angles; past the ends the nearest, or (`beyond`) the line."""
    after = torch.searchsorted(theta, wanted).clamp(1, len(theta) - 1)
    fraction = (wanted - theta[after - 1]) / (theta[after] - theta[after - 1])
    return torch.lerp(p[:, after - 1], p[:, after], (fraction if beyond else fraction.clamp(0, 1))[:, None])


def _length(n_bins: int) -> int:
    """Of the transform along bins: shifts by a whole detector do not wrap."""
    return 2 * n_bins


def _spectra(p: Tensor) -> Tensor:
    return torch.fft.rfft(p, _length(p.shape[-1]), dim=-1)


def _power(spectra: Tensor) -> float:
    """Sum of squares over the whole spectrum of which the non-negative half is given."""
    square = spectra.abs().square().sum((0, 1))
    return float(square[0] + 2 * square[1:].sum())


def _best(curve: Tensor, method: str, step: float, start: float = 0.0) -> Centre:
    """The minimum of a mismatch at c = start, start + step, ..."""
    lowest = min(max(int(curve.argmin()), 1), len(curve) - 2)
    before, at, after = curve[lowest - 1 : lowest + 2]
    shift = float(ratio(before - after, 2 * (before - 2 * at + after)).clamp(-1, 1))
    quality = 1 - float(ratio(at, curve.median()))
    return Centre(start + (lowest + shift) * step, quality, method)
