"""The pixel-driven backprojector of `backproject`, compiled for the CPU: every thread owns rows of the image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medrecon.physics.ct.backproject import FLAT, PARALLEL, SLACK, Shadow
from medrecon.physics.ct.geometry import Array
from medrecon.physics.ct.workers import compiled, pieces, shared_out

BLOCK = 8
"""Rows of the image that share a view's samples while they are in the cache."""

PIECES = 64
"""Parts of the image that are shared out to threads."""


@compiled
def _columns(kind, across, depth, scale, middle, n_bins, x, y, before, part, weight, over):  # type: ignore[no-untyped-def]
    """Of a row of pixels: the bin before each, the part of the way to the next, the weight, 1 / distance."""
    a, b = across[1] * y + across[2], depth[1] * y + depth[2]
    if kind == PARALLEL:
        for j in range(len(x)):
            over[j] = 1.0
            part[j] = across[0] * x[j] + a
    elif kind == FLAT:
        for j in range(len(x)):
            over[j] = 1 / (depth[0] * x[j] + b)
            part[j] = (across[0] * x[j] + a) * over[j]
    else:
        for j in range(len(x)):
            sideways, ahead = across[0] * x[j] + a, depth[0] * x[j] + b
            over[j] = 1 / math.sqrt(sideways * sideways + ahead * ahead)
            # Twice the arc tangent of half the angle, by the rational function of Cephes to 1e-16: unlike atan2 it runs in lanes.
            side, front = abs(sideways), ahead + 1 / over[j]
            far = side > 0.66 * front
            t = (side - front if far else side) / (side + front if far else front)
            q = t * t
            top = (
                ((-0.8750608600031904 * q - 16.157537187333652) * q - 75.00855792314705) * q - 122.88666844901361
            ) * q - 64.85021904942025
            base = ((((q + 24.858464901423062) * q + 165.02700983169885) * q + 432.88106049129027) * q + 485.3903996359137) * q
            half = t + t * q * top / (base + 194.5506571482614) + (0.25 * math.pi if far else 0.0)
            part[j] = math.copysign(2 * half, sideways) * scale + middle
    last = max(n_bins - 2, 0)
    for j in range(len(x)):
        column = part[j]
        seen = column >= -SLACK and column <= n_bins - 1 + SLACK
        k = min(np.int32(max(column, 0.0)), last) if seen else 0
        before[j] = k
        part[j] = column - k if seen else 0.0
        weight[j] = over[j] * over[j] if seen else 0.0


@compiled
def _plane(rows, kind, across, depth, scale, middle, x, y, image, first, end):  # type: ignore[no-untyped-def]
    n_batch, n_views, wide = rows.shape
    nx = len(x)
    before = np.empty(nx, np.int32)
    part, weight, over = np.empty(nx), np.empty(nx), np.empty(nx)
    p, w = np.empty(nx, rows.dtype), np.empty(nx, rows.dtype)
    for block in range(first, end, BLOCK):
        for v in range(n_views):
            for i in range(block, min(block + BLOCK, end)):
                _columns(kind, across[v], depth[v], scale, middle, wide - 1, x, y[i], before, part, weight, over)
                for j in range(nx):
                    p[j] = part[j]
                    w[j] = weight[j]
                for item in range(n_batch):
                    row, line = rows[item, v], image[item, i]
                    for j in range(nx):
                        k = before[j]
                        line[j] += w[j] * (row[k] + p[j] * (row[k + 1] - row[k]))


@compiled
def _volume(  # type: ignore[no-untyped-def]
    rows, kind, across, depth, scale, middle, dsd, row_spacing, source_z, first_row, x, y, z, image, first, end
):
    n_batch, n_views, tall, wide = rows.shape
    n_rows = tall - 1
    nx = len(x)
    before, above = np.empty(nx, np.int32), np.empty(nx, np.int32)
    part, weight, over = np.empty(nx), np.empty(nx), np.empty(nx)
    p, w, d = np.empty(nx, rows.dtype), np.empty(nx, rows.dtype), np.empty(nx, rows.dtype)
    for i in range(first, end):
        for v in range(n_views):
            _columns(kind, across[v], depth[v], scale, middle, wide - 1, x, y[i], before, part, weight, over)
            for j in range(nx):
                p[j] = part[j]
            for k in range(len(z)):
                rise = (z[k] - source_z[v]) * dsd / row_spacing
                start = (source_z[v] - first_row[v]) / row_spacing
                for j in range(nx):
                    row = start + rise * over[j]
                    seen = row >= -0.5 and row <= n_rows - 0.5
                    inside = min(max(row, 0.0), n_rows - 1.0) if seen else 0.0
                    r = min(np.int32(inside), max(n_rows - 2, 0))
                    above[j] = r
                    d[j] = inside - r
                    w[j] = weight[j] if seen else 0.0
                for item in range(n_batch):
                    view, line = rows[item, v], image[item, k, i]
                    for j in range(nx):
                        c, r = before[j], above[j]
                        upper = view[r, c] + p[j] * (view[r, c + 1] - view[r, c])
                        lower = view[r + 1, c] + p[j] * (view[r + 1, c + 1] - view[r + 1, c])
                        line[j] += w[j] * (upper + d[j] * (lower - upper))


def backprojected_cpu(rows: Tensor, where: Shadow, places: tuple[Array, ...]) -> Tensor:
    """(batch, *image) of (batch, view, [row,] bin), float32 or float64; see `backproject.backprojected`."""
    # A bin (and a row) of zeros after the last, so that the next one is always there to read.
    margin = (0, 1) if rows.ndim == 3 else (0, 1, 0, 1)
    padded = torch.nn.functional.pad(rows.detach(), margin).contiguous().numpy()
    image = torch.zeros(rows.shape[0], *(len(a) for a in places), dtype=rows.dtype)
    *z, y, x = places
    numbers = (padded, where.kind, where.across, where.depth, where.scale, where.middle)
    steps = rows.shape[1] * image.numel()
    if z:
        more = (where.dsd, where.row_spacing, where.source_z, where.first_row, x, y, z[0], image.numpy())
        shared_out(_volume, [(*numbers, *more, *part) for part in pieces(len(y), PIECES)], steps)
    else:
        shared_out(_plane, [(*numbers, x, y, image.numpy(), *part) for part in pieces(len(y), PIECES)], steps)
    return image
