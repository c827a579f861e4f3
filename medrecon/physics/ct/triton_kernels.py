"""Triton's side of Joseph's method: what one program of the GPU does; see `kernels_gpu`.

Without Triton the functions stay plain Python, and nothing calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

INSTALLED = triton is not None


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def project2d(image, axis, table, out, batch_stride, n_rays, NY, NX, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    ray, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    real = ray < n_rays
    along_x = tl.load(axis + ray, mask=real, other=0) == 1
    slope = tl.load(table + ray, mask=real, other=0.0)
    intercept = tl.load(table + n_rays + ray, mask=real, other=0.0)
    n, width = tl.where(along_x, NX, NY), tl.where(along_x, NY, NX)
    step, across = tl.where(along_x, 1, NX), tl.where(along_x, NX, 1)
    image += item * NY * NX
    total = tl.zeros([BLOCK], out.dtype.element_ty)
    for c in range(0, tl.maximum(NX, NY)):
        p = slope * c + intercept
        low = tl.floor(p)
        i, f = low.to(tl.int32), p - low
        inside = real & (c < n)
        at = image + c * step + i * across
        near = tl.load(at, mask=inside & (i >= 0) & (i < width), other=0.0)
        far = tl.load(at + across, mask=inside & (i >= -1) & (i < width - 1), other=0.0)
        total += (1 - f) * near + f * far
    tl.store(out + item * batch_stride + ray, total * tl.load(table + 2 * n_rays + ray, mask=real, other=0.0), mask=real)


@_jit
def _angle(y, x):  # type: ignore[no-untyped-def]
    """arctan2(y, x), to 1e-5 rad (Abramowitz and Stegun, 4.4.47): it finds candidates, weights do not depend on it."""
    steep = tl.abs(y) > tl.abs(x)
    t = tl.where(steep, tl.abs(x), tl.abs(y)) / tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), 1e-30)
    s = t * t
    a = t * (0.9998660 + s * (-0.3302995 + s * (0.1801410 + s * (-0.0851330 + s * 0.0208351))))
    a = tl.where(steep, 1.5707963267948966 - a, a)
    a = tl.where(x < 0, 3.141592653589793 - a, a)
    return tl.where(y < 0, -a, a)


@_jit
def _bin2d(maps, i, j, CURVED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where pixel (i, j) falls on the detector, and whether it is in front of the source."""
    a = tl.load(maps) * i + tl.load(maps + 1) * j + tl.load(maps + 2)
    w = tl.load(maps + 3) * i + tl.load(maps + 4) * j + tl.load(maps + 5)
    if CURVED:
        return _angle(a, w) * tl.load(maps + 6) + tl.load(maps + 7), w > 0
    return a / tl.where(w == 0, 1.0, w), w > 0


@_jit
def spread2d(  # type: ignore[no-untyped-def]
    data, axis, table, maps, out, batch_stride, n_views, K, NY, NX, CURVED: tl.constexpr, BLOCK: tl.constexpr
):
    pixel, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    i, j = pixel // NX, pixel % NX
    real, n_rays = pixel < NY * NX, n_views * K
    data += item * batch_stride
    total = tl.zeros([BLOCK], out.dtype.element_ty)
    for v in range(0, n_views):
        for lead in tl.static_range(2):
            # Rays that march along y (0) pass between the neighbours in x, and the other way round.
            a, front = _bin2d(maps + v * 8, i - lead, j - (1 - lead), CURVED)
            b, front2 = _bin2d(maps + v * 8, i + lead, j + (1 - lead), CURVED)
            known = front & front2
            # One bin more at both ends: here float32 may be wrong, rays too far away weigh nothing.
            first = tl.where(known, tl.maximum(tl.minimum(tl.floor(tl.minimum(a, b)), K), 0), 0).to(tl.int32)
            last = tl.where(known, tl.minimum(tl.maximum(tl.floor(tl.maximum(a, b)) + 1, -1), K - 1), K - 1).to(tl.int32)
            for t in range(0, tl.max(tl.where(real, last - first + 1, 0), 0)):
                k = first + t
                ray, seen = v * K + k, real & (k <= last)
                seen &= tl.load(axis + ray, mask=seen, other=-1) == lead
                p = tl.load(table + ray, mask=seen, other=0.0) * (j if lead == 1 else i) + tl.load(
                    table + n_rays + ray, mask=seen, other=0.0
                )
                weight = tl.maximum(1 - tl.abs(p - (i if lead == 1 else j)), 0.0)
                value = tl.load(data + ray, mask=seen, other=0.0) * tl.load(table + 2 * n_rays + ray, mask=seen, other=0.0)
                total += weight * value
    at = out + item * NY * NX + pixel
    tl.store(at, tl.load(at, mask=real, other=0.0) + total, mask=real)


@_jit
def project3d(image, axis, table, out, batch_stride, n_rays, NZ, NY, NX, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    ray, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    real = ray < n_rays
    lead = tl.load(axis + ray, mask=real, other=0)
    slope = tl.load(table + ray, mask=real, other=0.0)
    intercept = tl.load(table + n_rays + ray, mask=real, other=0.0)
    slope2 = tl.load(table + 2 * n_rays + ray, mask=real, other=0.0)
    intercept2 = tl.load(table + 3 * n_rays + ray, mask=real, other=0.0)
    n = tl.where(lead == 2, NX, tl.where(lead == 1, NY, NZ))
    width, across = tl.where(lead == 0, NY, NZ), tl.where(lead == 0, NX, NY * NX)
    width2, across2 = tl.where(lead == 2, NY, NX), tl.where(lead == 2, NX, 1)
    step = tl.where(lead == 2, 1, tl.where(lead == 1, NX, NY * NX))
    image += item * NZ * NY * NX
    total = tl.zeros([BLOCK], out.dtype.element_ty)
    for c in range(0, tl.maximum(NX, tl.maximum(NY, NZ))):
        p, q = slope * c + intercept, slope2 * c + intercept2
        low, low2 = tl.floor(p), tl.floor(q)
        i, j, f, g = low.to(tl.int32), low2.to(tl.int32), p - low, q - low2
        inside = real & (c < n)
        here, next_ = inside & (i >= 0) & (i < width), inside & (i >= -1) & (i < width - 1)
        here2, next2 = (j >= 0) & (j < width2), (j >= -1) & (j < width2 - 1)
        at = image + c * step + i * across + j * across2
        near = (1 - g) * tl.load(at, mask=here & here2, other=0.0) + g * tl.load(at + across2, mask=here & next2, other=0.0)
        at += across
        far = (1 - g) * tl.load(at, mask=next_ & here2, other=0.0) + g * tl.load(at + across2, mask=next_ & next2, other=0.0)
        total += (1 - f) * near + f * far
    tl.store(out + item * batch_stride + ray, total * tl.load(table + 4 * n_rays + ray, mask=real, other=0.0), mask=real)


@_jit
def _bin3d(maps, k, i, j, CURVED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Column and row where voxel (k, i, j) falls on the detector, and whether it is in front of the source."""
    a = tl.load(maps) * k + tl.load(maps + 1) * i + tl.load(maps + 2) * j + tl.load(maps + 3)
    b = tl.load(maps + 4) * k + tl.load(maps + 5) * i + tl.load(maps + 6) * j + tl.load(maps + 7)
    w = tl.load(maps + 8) * k + tl.load(maps + 9) * i + tl.load(maps + 10) * j + tl.load(maps + 11)
    front = w > 0
    if CURVED:
        reach = tl.sqrt(a * a + w * w)
        column = _angle(a, w) * tl.load(maps + 12)
    else:
        reach = w
        column = a / tl.where(w == 0, 1.0, w)
    return column + tl.load(maps + 13), b / tl.where(reach == 0, 1.0, reach) + tl.load(maps + 14), front


@_jit
def spread3d(  # type: ignore[no-untyped-def]
    data, axis, table, maps, out, batch_stride, n_views, R, K, NZ, NY, NX, AXES: tl.constexpr, CURVED: tl.constexpr, BLOCK: tl.constexpr
):
    voxel, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    k, i, j = voxel // (NY * NX), (voxel // NX) % NY, voxel % NX
    real, n_rays = voxel < NZ * NY * NX, n_views * R * K
    data += item * batch_stride
    total = tl.zeros([BLOCK], out.dtype.element_ty)
    for v in range(0, n_views):
        for lead in tl.static_range(3):
            if (AXES >> lead) & 1:
                # Rays that march along `lead` pass between the neighbours in both other axes.
                dk: tl.constexpr = 0 if lead == 0 else 1
                di: tl.constexpr = 0 if lead == 1 else 1
                dj: tl.constexpr = 0 if lead == 2 else 1
                turn: tl.constexpr = 1 if lead == 0 else -1
                c0, r0, front0 = _bin3d(maps + v * 15, k - dk, i - di, j - dj, CURVED)
                c1, r1, front1 = _bin3d(maps + v * 15, k + dk, i + di, j + dj, CURVED)
                c2, r2, front2 = _bin3d(maps + v * 15, k - dk, i - turn * di, j + dj, CURVED)
                c3, r3, front3 = _bin3d(maps + v * 15, k + dk, i + turn * di, j - dj, CURVED)
                known = front0 & front1 & front2 & front3
                # One bin more at both ends: here float32 may be wrong, rays too far away weigh nothing.
                low, high = tl.minimum(tl.minimum(c0, c1), tl.minimum(c2, c3)), tl.maximum(tl.maximum(c0, c1), tl.maximum(c2, c3))
                first = tl.where(known, tl.maximum(tl.minimum(tl.floor(low), K), 0), 0).to(tl.int32)
                last = tl.where(known, tl.minimum(tl.maximum(tl.floor(high) + 1, -1), K - 1), K - 1).to(tl.int32)
                low, high = tl.minimum(tl.minimum(r0, r1), tl.minimum(r2, r3)), tl.maximum(tl.maximum(r0, r1), tl.maximum(r2, r3))
                bottom = tl.where(known, tl.maximum(tl.minimum(tl.floor(low), R), 0), 0).to(tl.int32)
                top = tl.where(known, tl.minimum(tl.maximum(tl.floor(high) + 1, -1), R - 1), R - 1).to(tl.int32)
                for s in range(0, tl.max(tl.where(real, top - bottom + 1, 0), 0)):
                    for t in range(0, tl.max(tl.where(real, last - first + 1, 0), 0)):
                        seen = real & (bottom + s <= top) & (first + t <= last)
                        ray = (v * R + bottom + s) * K + first + t
                        seen &= tl.load(axis + ray, mask=seen, other=-1) == lead
                        c = k if lead == 0 else (i if lead == 1 else j)
                        p = tl.load(table + ray, mask=seen, other=0.0) * c + tl.load(table + n_rays + ray, mask=seen, other=0.0)
                        q = tl.load(table + 2 * n_rays + ray, mask=seen, other=0.0) * c
                        q += tl.load(table + 3 * n_rays + ray, mask=seen, other=0.0)
                        weight = tl.maximum(1 - tl.abs(p - (i if lead == 0 else k)), 0.0)
                        weight *= tl.maximum(1 - tl.abs(q - (i if lead == 2 else j)), 0.0)
                        value = tl.load(data + ray, mask=seen, other=0.0) * tl.load(table + 4 * n_rays + ray, mask=seen, other=0.0)
                        total += weight * value
    at = out + item * NZ * NY * NX + voxel
    tl.store(at, tl.load(at, mask=real, other=0.0) + total, mask=real)
