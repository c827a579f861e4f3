"""Rays of a geometry, and where a point falls on the detector; float64 on the host, whatever the data are."""

from __future__ import annotations

import numpy as np

from medrecon.physics.ct.geometry import Array, Geometry


def rays(geometry: Geometry, views: slice = slice(None)) -> tuple[Array, Array]:
    """A point and the unit direction of the ray through every bin's centre: (view, [row,] bin, 2 or 3), mm.

    The point is the source where there is one, else the bin's centre.
    """
    size = geometry.dimensions
    vectors = geometry.vectors()[views]
    first, centre, u, *rest = (vectors[:, i * size : (i + 1) * size] for i in range(vectors.shape[1] // size))
    columns = _steps(geometry.n_bins)
    if geometry.curved:
        across, focus = _on_the_arc(first, centre, u, columns), geometry.focus()
        source = first if focus is None else focus[views]
    else:
        across, source = centre[:, None] + columns[:, None] * u[:, None], first
    bins: Array = across
    if rest:
        bins = across[:, None] + _steps(geometry.rows or 1)[:, None, None] * rest[0][:, None, None]
    spread = (slice(None), *[None] * (bins.ndim - 2))
    if geometry.parallel:
        return bins, np.broadcast_to((first / np.linalg.norm(first, axis=1, keepdims=True))[spread], bins.shape)
    direction = bins - source[spread]
    unit: Array = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    return np.broadcast_to(source[spread], bins.shape), unit


def _on_the_arc(source: Array, centre: Array, u: Array, columns: Array) -> Array:
    """Centres of the bins of a curved detector, (view, bin, axis): a circle about the source in the plane of ray and u."""
    ray = centre - source
    distance, pitch = np.linalg.norm(ray, axis=1)[:, None], np.linalg.norm(u, axis=1)[:, None]
    angle = columns * pitch / distance
    towards, along = (ray / distance)[:, None], (u / pitch)[:, None]
    found: Array = source[:, None] + distance[:, None] * (np.cos(angle)[..., None] * towards + np.sin(angle)[..., None] * along)
    return found


def _steps(n: int) -> Array:
    return np.arange(n, dtype=np.float64) - (n - 1) / 2


def projections(geometry: Geometry) -> tuple[Array, Array]:
    """Where a point X falls: column = numerator / denominator, both affine in X; (view, 3) each in two dimensions.

    column = (N_x x + N_y y + N_1) / (D_x x + D_y y + D_1). On a curved detector column is arctan2(numerator, denominator) x
    (distance / |u|) + (K - 1) / 2 instead. In two dimensions only.
    """
    vectors, middle = geometry.vectors(), (geometry.n_bins - 1) / 2
    first, centre, u = vectors[:, :2], vectors[:, 2:4], vectors[:, 4:6]
    if geometry.parallel:
        across = np.stack([-first[:, 1], first[:, 0]], 1)
        across = across / (across * u).sum(1, keepdims=True)
        numerator = _affine(across, centre)
        numerator[:, 2] += middle
        return numerator, np.tile([0.0, 0.0, 1.0], (len(vectors), 1))
    ray = centre - first
    if geometry.curved:
        along, towards = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (u, ray))
        return _affine(along, first), _affine(towards, first)
    denominator = _affine(np.stack([-u[:, 1], u[:, 0]], 1), first)
    return _affine(np.stack([ray[:, 1], -ray[:, 0]], 1), first) + middle * denominator, denominator


def _affine(normal: Array, through: Array) -> Array:
    """normal . (X - through) as coefficients of (x, y, 1)."""
    return np.concatenate([normal, -(normal * through).sum(1, keepdims=True)], 1)
