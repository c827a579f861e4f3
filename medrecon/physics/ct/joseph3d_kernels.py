"""Compiled loops of Joseph's method in a volume (y, x, z) with a margin of zeros, (1, 2) before and after each axis.

Where rays are is counted in fixed point, 2^-40 of a voxel: integer and fraction come apart without rounding, in both directions the
same. Within a margin of a voxel no bounds need a test; a ray that is outside by more is never visited.
"""

from __future__ import annotations

import math

import numpy as np

from medrecon.physics.ct.workers import compiled

BITS = 40
ONE = float(1 << BITS)
BELOW = (1 << BITS) - 1

EDGE = 1e-6
"""Voxels; keeps rounding inside the margin. A sample that near to the border of the margin weighs as little."""


@compiled
def _span(slope, intercept, size, n):  # type: ignore[no-untyped-def]
    """Which of n steps c have slope c + intercept within (0, size): the first, and one past the last."""
    near, far = EDGE - intercept, size - EDGE - intercept
    if abs(slope) < 1e-12:
        return (0, n) if near < 0 < far else (0, 0)
    a, b = near / slope, far / slope
    if a > b:
        a, b = b, a
    return math.ceil(min(max(a, 0.0), float(n))), math.floor(min(max(b, -1.0), n - 1.0)) + 1


@compiled
def weigh_columns(data, table, spacing, part, stop):  # type: ignore[no-untyped-def]
    """Multiplies rays [part, stop) of data (ray, row) by the length of their steps, mm; table (ray, 7), z `spacing` mm."""
    real = data.dtype.type
    for ray in range(part, stop):
        rise, gain, plane = table[ray, 2] * spacing, table[ray, 4] * spacing, table[ray, 6]
        for r in range(data.shape[1]):
            climb = rise + gain * r
            data[ray, r] *= real(math.sqrt(plane + climb * climb))


@compiled
def project_columns(volume, axis, table, out, part, stop):  # type: ignore[no-untyped-def]
    """Adds to rays [part, stop) of out (ray, row): axis (ray), table (ray, 7), of `lines.Columns`."""
    ny, nx, nz = volume.shape
    n_rows = out.shape[1]
    flat, real = volume.ravel(), volume.dtype.type
    unit = real(1 / ONE)
    line = np.zeros(nz, volume.dtype)
    for ray in range(part, stop):
        slope, start, rise, height = table[ray, 0], table[ray, 1] + 1, table[ray, 2], table[ray, 3] + 1
        rise_gain, height_gain = table[ray, 4], table[ray, 5]
        size, n, step, across = (ny - 2, nx - 3, nz, nx * nz) if axis[ray] == 2 else (nx - 2, ny - 3, nx * nz, nz)
        first, end = _span(slope, start, size, n)
        total = out[ray]
        for c in range(first, end):
            base, gain = rise * c + height, rise_gain * c + height_gain
            r0, r1 = _span(gain, base, nz - 2, n_rows)
            if r1 <= r0:
                continue
            p = np.int64(start * ONE) + c * np.int64(slope * ONE)
            f = real(p & BELOW) * unit
            near = np.uintp((p >> BITS) * across + (c + 1) * step)
            far = near + np.uintp(across)
            low, high = int(base + gain * r0), int(base + gain * (r1 - 1))
            for h in range(np.uintp(max(min(low, high) - 1, 0)), np.uintp(min(max(low, high) + 3, nz))):
                line[h] = flat[near + h] + f * (flat[far + h] - flat[near + h])
            climb = np.int64(gain * ONE)
            q = np.int64(base * ONE) + r0 * climb
            for r in range(np.uintp(r0), np.uintp(r1)):
                z, g = np.uintp(q >> BITS), real(q & BELOW) * unit
                total[r] += line[z] + g * (line[z + np.uintp(1)] - line[z])
                q += climb


@compiled
def spread_columns(data, axis, table, volume, part, stop):  # type: ignore[no-untyped-def]
    """Adds to y [part, stop) of the volume what `project_columns` took from there; data (ray, row)."""
    ny, nx, nz = volume.shape
    n_rows = data.shape[1]
    flat, real = volume.ravel(), volume.dtype.type
    unit = real(1 / ONE)
    # What goes to the voxel at z and to the next one, apart: no sum waits for the one before.
    here, above = np.zeros(nz + 1, volume.dtype), np.zeros(nz + 1, volume.dtype)
    for ray in range(len(data)):
        slope, start, rise, height = table[ray, 0], table[ray, 1] + 1, table[ray, 2], table[ray, 3] + 1
        rise_gain, height_gain = table[ray, 4], table[ray, 5]
        along_x = axis[ray] == 2
        size, n, step, across = (ny - 2, nx - 3, nz, nx * nz) if along_x else (nx - 2, ny - 3, nx * nz, nz)
        first, end = _span(slope, start, size, n)
        if along_x:
            # One step more at both ends: fixed point decides below.
            enters, leaves = _span(slope, start - (part - 1), stop - part + 1, n)
            first, end = max(first, enters - 1), min(end, leaves + 1)
        else:
            first, end = max(first, part - 1), min(end, stop - 1)
        values = data[ray]
        for c in range(first, end):
            p = np.int64(start * ONE) + c * np.int64(slope * ONE)
            i = p >> BITS
            if along_x and (i + 1 < part or i >= stop):
                continue
            base, gain = rise * c + height, rise_gain * c + height_gain
            r0, r1 = _span(gain, base, nz - 2, n_rows)
            if r1 <= r0:
                continue
            low, high = int(base + gain * r0), int(base + gain * (r1 - 1))
            z0, z1 = np.uintp(max(min(low, high) - 1, 0)), np.uintp(min(max(low, high) + 3, nz))
            for h in range(z0, z1):
                here[h] = 0
                above[h + np.uintp(1)] = 0
            above[z0] = 0
            climb = np.int64(gain * ONE)
            q = np.int64(base * ONE) + r0 * climb
            for r in range(np.uintp(r0), np.uintp(r1)):
                z = np.uintp(q >> BITS)
                after = real(q & BELOW) * unit * values[r]
                here[z] += values[r] - after
                above[z + np.uintp(1)] += after
                q += climb
            f = real(p & BELOW) * unit
            near = np.uintp(i * across + (c + 1) * step)
            far = near + np.uintp(across)
            if not along_x or i >= part:
                for h in range(z0, z1):
                    flat[near + h] += (real(1) - f) * (here[h] + above[h])
            if not along_x or i + 1 < stop:
                for h in range(z0, z1):
                    flat[far + h] += f * (here[h] + above[h])


@compiled
def _across(axis, line, shape):  # type: ignore[no-untyped-def]
    """Of a ray that marches along `axis`: steps and stride, then size, stride, slope, start of both other axes; y, if any, last."""
    ny, nx, nz = shape
    first, second = (line[0], line[1] + 1), (line[2], line[3] + 1)
    if axis == 0:
        return (nz - 3, 1), (nx - 2, nz, second[0], second[1]), (ny - 2, nx * nz, first[0], first[1])
    if axis == 1:
        return (ny - 3, nx * nz), (nz - 2, 1, first[0], first[1]), (nx - 2, nz, second[0], second[1])
    return (nx - 3, nz), (nz - 2, 1, first[0], first[1]), (ny - 2, nx * nz, second[0], second[1])


@compiled
def project_lines(volume, axis, table, out, part, stop):  # type: ignore[no-untyped-def]
    """Into rays [part, stop) of out (ray): axis (ray), table (ray, 5), of `lines.lines`."""
    flat, real = volume.ravel(), volume.dtype.type
    unit = real(1 / ONE)
    for ray in range(part, stop):
        (n, step), (size, stride, slope, start), (size2, stride2, slope2, start2) = _across(axis[ray], table[ray], volume.shape)
        first, end = _span(slope, start, size, n)
        first2, end2 = _span(slope2, start2, size2, n)
        total = real(0)
        first, end = max(first, first2), min(end, end2)
        dp, dq = np.int64(slope * ONE), np.int64(slope2 * ONE)
        p, q = np.int64(start * ONE) + first * dp, np.int64(start2 * ONE) + first * dq
        for c in range(first, end):
            f, g = real(p & BELOW) * unit, real(q & BELOW) * unit
            near = np.uintp((p >> BITS) * stride + (q >> BITS) * stride2 + (c + 1) * step)
            far = near + np.uintp(stride2)
            next_ = np.uintp(stride)
            below = flat[near] + f * (flat[near + next_] - flat[near])
            beyond = flat[far] + f * (flat[far + next_] - flat[far])
            total += below + g * (beyond - below)
            p += dp
            q += dq
        out[ray] = total * real(table[ray, 4])


@compiled
def spread_lines(data, axis, table, volume, part, stop):  # type: ignore[no-untyped-def]
    """Adds to y [part, stop) of the volume what `project_lines` took from there; data (ray)."""
    flat, real = volume.ravel(), volume.dtype.type
    unit = real(1 / ONE)
    for ray in range(len(data)):
        lead = axis[ray]
        (n, step), (size, stride, slope, start), (size2, stride2, slope2, start2) = _across(lead, table[ray], volume.shape)
        first, end = _span(slope2, start2, size2, n)
        if lead == 1:
            first, end = max(first, part - 1), min(end, stop - 1)
        else:
            enters, leaves = _span(slope2, start2 - (part - 1), stop - part + 1, n)
            first, end = max(first, enters - 1), min(end, leaves + 1)
        if end <= first:
            continue
        first2, end2 = _span(slope, start, size, n)
        first, end = max(first, first2), min(end, end2)
        value = data[ray] * real(table[ray, 4])
        dp, dq = np.int64(slope * ONE), np.int64(slope2 * ONE)
        for c in range(first, end):
            p, q = np.int64(start * ONE) + c * dp, np.int64(start2 * ONE) + c * dq
            i = q >> BITS
            f, g = real(p & BELOW) * unit, real(q & BELOW) * unit
            near = np.uintp((p >> BITS) * stride + i * stride2 + (c + 1) * step)
            next_ = np.uintp(stride)
            if lead == 1 or part <= i < stop:
                below = value - g * value
                flat[near] += below - f * below
                flat[near + next_] += f * below
            if lead == 1 or part <= i + 1 < stop:
                far = near + np.uintp(stride2)
                beyond = g * value
                flat[far] += beyond - f * beyond
                flat[far + next_] += f * beyond
