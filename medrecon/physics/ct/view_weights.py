"""How much each view and each ray counts in analytic reconstruction, so that every line counts once; float64 on the host.

Angles as in `geometry`: the ray of view b at fan angle g > 0 towards the columns' direction is measured again, from the other side, by view
b + pi - 2 g at -g. Texts that write b + pi + 2 g count g the other way.
"""

from __future__ import annotations

import math

import numpy as np

from medrecon.errors import NotSupported
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.physics.ct.rays import rays

HOLE = 4.0
"""A gap between views so many times the 90th percentile of all gaps is one where nothing was measured."""

SAME = 1e-7
"""rad; angles nearer than this are one angle."""

TRANSITION = math.radians(10.0)
"""Over which the weights of `smooth_arc_weights` rise."""


def gap_weights(angles: Array, period: float) -> Array:
    """(view,) rad: half the gap to the angle before and half the gap to the one after, modulo `period`; equal angles share.

    They sum to the period if the angles go round. A hole (limited angle) counts for neither of its sides.
    """
    unique, index, counts = _distinct(angles, period)
    if len(unique) == 1:
        return np.full(len(angles), period / len(angles))
    gaps = _gaps(unique, period)
    closed = np.where(_holes(gaps), 0.0, gaps)
    weights: Array = (closed + np.roll(closed, 1)) / 2
    return weights[index] / counts[index]


def measured_arc(angles: Array, period: float = 2 * math.pi) -> tuple[Array, float] | None:
    """(angles since the beginning of the arc, its length) rad; None where the angles go round without a hole.

    Every view stands in the middle of its step, so that both ends are half a step from a view.
    """
    unique, index, _ = _distinct(angles, period)
    gaps = _gaps(unique, period)
    if not _holes(gaps).any():
        return None
    last = int(np.argmax(gaps))
    since = (unique - unique[(last + 1) % len(unique)]) % period
    step = float(np.median(np.delete(gaps, last))) if len(gaps) > 1 else 0.0
    return since[index] + step / 2, float(since.max()) + step


def _distinct(angles: Array, period: float) -> tuple[Array, np.ndarray, np.ndarray]:
    """Sorted angles in [0, period) without repetition, where each view's is, how many views share it."""
    wrapped = np.asarray(angles, np.float64) % period
    wrapped = np.where(wrapped > period - SAME, 0.0, wrapped)
    order = np.argsort(wrapped, kind="stable")
    new = np.concatenate([[True], np.diff(wrapped[order]) > SAME])
    index = np.empty(len(wrapped), np.int64)
    index[order] = np.cumsum(new) - 1
    return wrapped[order][new], index, np.bincount(index)


def _gaps(unique: Array, period: float) -> Array:
    """From every angle to the next, round."""
    return np.diff(np.append(unique, unique[0] + period))


def _holes(gaps: Array) -> np.ndarray:
    return gaps > HOLE * np.quantile(gaps, 0.9, method="lower") * (1 + 1e-9)


def parker_weights(since: Array, fan: Array, arc: float) -> Array:
    """(view, bin) for a short scan: with a ray's conjugate they sum to 1. `since` (view,) the beginning, `fan` angles (bin,), rad.

    `arc` from pi + 2 max |fan| to 2 pi (Parker 1982, Med. Phys. 9, 254).
    """
    spare = (arc - math.pi) / 2
    beta, gamma = since[:, None], fan[None]
    rising = np.sin(math.pi / 4 * beta / np.maximum(spare + gamma, 1e-12)) ** 2
    falling = np.sin(math.pi / 4 * (arc - beta) / np.maximum(spare - gamma, 1e-12)) ** 2
    found: Array = np.where(beta < 2 * (spare + gamma), rising, np.where(beta > math.pi + 2 * gamma, falling, 1.0))
    return np.where((beta < 0) | (beta > arc), 0.0, found)


def smooth_arc_weights(since: Array, fan: Array, arc: float) -> Array:
    """(view, bin) for any arc up to 2 pi: a ray whose conjugate was not measured counts whole, others share (Noo et al. 2002,
    Phys. Med. Biol. 47, 2525, eq. 34). With an arc below pi + 2 max |fan| some lines are missing and stay so."""
    width = min(TRANSITION, arc / 4)

    def inside(beta: Array) -> Array:
        from_end = np.minimum(beta, arc - beta)
        return np.where(from_end <= 0, 0.0, np.sin(math.pi / 2 * np.clip(from_end / width, 0, 1)) ** 2)

    own = np.broadcast_to(inside(since[:, None]), (len(since), len(fan)))
    opposite = since[:, None] + math.pi - 2 * fan[None]
    total = own + inside(opposite) + inside(opposite - 2 * math.pi)
    found: Array = np.divide(own, total, out=np.zeros_like(total), where=total > 0)
    return found


def offset_weights(across: Array) -> Array:
    """(bin,) for a full turn with a detector that reaches farther on one side: with the conjugate ray they sum to 1.

    `across`: signed distance of the rays from the axis, or their fan angle, rising or falling. Rays beyond the short side's reach count
    whole; within it they rise along half a sine (Wang 2002, Med. Phys. 29, 1634) over the whole overlap for a half fan, and over
    its end alone for a small offset, where equal shares of a half have less noise.
    """
    ends = float(across[0]), float(across[-1])
    sign = 1.0 if abs(max(ends)) >= abs(min(ends)) else -1.0
    reach, overlap = max(abs(e) for e in ends), -min(sign * e for e in ends)
    if overlap <= 0:
        raise NotSupported("the detector does not see the axis of rotation, so lines near it are missing: no analytic reconstruction")
    width = min(overlap, 4 * (reach - overlap))
    if width <= SAME * reach:
        return np.full(len(across), 0.5)
    beyond = np.clip((np.abs(across) - (overlap - width)) / width, 0, 1)
    found: Array = 0.5 * (1 + np.sign(sign * across) * np.sin(math.pi / 2 * beyond))
    return found


def across_the_axis(geometry: Geometry) -> Array:
    """(bin,): fan angle of the first view's rays, rad, 0 through the axis; for parallel rays their distance from the axis, mm."""
    points, directions = _first_view(geometry)
    distance = points[:, 0] * directions[:, 1] - points[:, 1] * directions[:, 0]
    if geometry.parallel:
        # Parallel rays are told by the direction of their source's side, fans by the direction they run in.
        return -distance
    return np.arctan2(distance, -(points[:, :2] * directions[:, :2]).sum(-1))


def cosine_weights(geometry: Geometry) -> Array:
    """([row,] bin): -(source . direction of the ray), mm, across the axis: dso times the cosines of fan and cone angle."""
    points, directions = rays(geometry, slice(0, 1))
    return -(points[0, ..., :2] * directions[0, ..., :2]).sum(-1)


def _first_view(geometry: Geometry) -> tuple[Array, Array]:
    """In-plane points and unit directions (bin, 2)."""
    points, directions = (a[0] for a in rays(geometry, slice(0, 1)))
    if directions.ndim == 3:
        points, directions = points[0], directions[0]
    flat = directions[:, :2]
    return points[:, :2], flat / np.linalg.norm(flat, axis=1, keepdims=True)
