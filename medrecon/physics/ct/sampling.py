"""Which views to keep: indices for `Geometry.subset` and for the view axis of projections. Views in the order they were measured."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from medrecon.errors import BadInput
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.geometry import Array, Geometry
from medrecon.tensors import generator_for

Indices = NDArray[np.int64]

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
"""rad, 111.246 degrees: half a turn by the golden ratio (Winkelmann et al. 2007, IEEE Trans. Med. Imaging 26, 68)."""


def sparse(geometry: Geometry, n: int) -> Indices:
    """`n` views, as evenly as they can be among those measured, from the first on."""
    return np.arange(_count(geometry, n), dtype=np.int64) * geometry.n_views // n


def limited(geometry: Geometry, arc: float, start: float = 0.0) -> Indices:
    """The views whose angle is at least `start` and less than `arc` beyond it, rad, modulo a turn (half a turn for parallel rays)."""
    angles, period = _angles(geometry)
    if not 0 < arc <= period * (1 + 1e-9):
        raise BadInput(f"arc = {arc:.4g} rad: expected more than 0 and at most {period:.4g} (rad, not degrees)")
    since = (angles - start + 1e-9) % period
    found = np.flatnonzero(since < arc - 1e-9).astype(np.int64)
    if not found.size:
        raise BadInput(f"no view lies within {arc:.4g} rad from {start:.4g}: choose a longer arc")
    return found


def random(geometry: Geometry, n: int, seed: int = 0) -> Indices:
    """`n` different views, each set as likely as any other; the same for the same seed everywhere."""
    generator = generator_for(seed, "views", geometry.n_views)
    order = torch.randperm(geometry.n_views, generator=generator)
    return np.sort(order[: _count(geometry, n)].numpy())


def golden(geometry: Geometry, n: int) -> Indices:
    """`n` different views in golden-angle order: each the nearest one that is still free, so any first few are nearly even."""
    angles, period = _angles(geometry)
    free = np.ones(len(angles), bool)
    chosen = np.empty(_count(geometry, n), np.int64)
    step = GOLDEN * period / math.pi
    for i in range(n):
        apart = np.abs((angles - angles[0] - i * step + period / 2) % period - period / 2)
        chosen[i] = np.argmin(np.where(free, apart, np.inf))
        free[chosen[i]] = False
    return chosen


def interlaced(geometry: Geometry, frames: int) -> list[Indices]:
    """For each of `frames` every `frames`-th view, starting one later each: together all views, each once."""
    _count(geometry, frames)
    return [np.arange(first, geometry.n_views, frames, dtype=np.int64) for first in range(frames)]


def _angles(geometry: Geometry) -> tuple[Array, float]:
    """View angles, rad, and after how much they are the same rays again."""
    if isinstance(geometry, HelicalCone) or not isinstance(geometry, ParallelBeam2D | FanBeam2D | ParallelBeam3D | ConeBeam):
        raise BadInput(f"{type(geometry).__name__} has no angles of one circle: choose its views by index")
    return geometry.angles, math.pi if geometry.parallel else 2 * math.pi


def _count(geometry: Geometry, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= geometry.n_views:
        raise BadInput(f"{n!r} views: expected a whole number from 1 to the {geometry.n_views} that were measured")
    return int(n)
