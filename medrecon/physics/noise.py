"""Receiver noise: covariance over coils, whitening, and an estimate from k-space when nobody measured it.

Everything is per real component: E|n|^2 = 2 sigma^2. Axis of coils is -3 unless said, as in (*batch, coil, y, x).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput

DEAD = 1e-8  # variance relative to the strongest coil below which a coil is dead
MAD_TO_STD = 1.4826  # of a Gaussian
ENOUGH = 100  # samples for a standard deviation within about 8 %
ENOUGH_PER_COIL = 20  # samples per coil for correlations
READOUT_SHARE = 0.05  # of the acquired readout, the ends
OUTER_LINES = 0.7  # of the phase encodings' reach: signal at the readout's ends comes from the central lines
RADIUS = 0.9  # of the k-space radius, where the readout is undersampled too
RADIUS_SHARE, RADIUS_COUNT = 0.05, 600  # of the acquired samples; fewer than this many vary by more than 3 %
DISAGREEMENT = 0.1  # between the estimate and the one from its outer half, beyond which signal is suspected
SIMPLY_SAY = "give the noise: a noise scan, or --set noise_std= (per real component, in the file's units)"


def noise_covariance(samples: Tensor, bandwidth_ratio: float = 1.0) -> Tensor:
    """Covariance (coil, coil) of one real component from noise-only samples (coil, n), complex128 on the CPU.

    `bandwidth_ratio` = (dwell_noise / dwell_image) / receiver_noise_bandwidth carries it to the image's bandwidth.
    The mean is removed. Raises `BadInput` for fewer samples than coils + 1 or non-finite ones.
    """
    if samples.ndim != 2 or samples.shape[1] < samples.shape[0] + 1:
        raise BadInput(f"noise scan of shape {tuple(samples.shape)}: expected (coil, n) with more samples than coils; {SIMPLY_SAY}")
    if not bool(torch.isfinite(torch.view_as_real(samples)).all()):
        raise BadInput(f"noise scan: NaN or infinite samples; {SIMPLY_SAY}")
    if not 0 < bandwidth_ratio < float("inf"):
        raise BadInput(f"noise bandwidth ratio {bandwidth_ratio}: expected a positive number (dwell times of noise and image, same units)")
    noise = samples.detach().to("cpu", torch.complex128)
    noise = noise - noise.mean(1, keepdim=True)
    covariance = noise @ noise.mH / (2 * (noise.shape[1] - 1))
    return covariance * bandwidth_ratio


@dataclass(frozen=True)
class Whitener:
    """`matrix` (p, coil) takes the C coils to p coils of uncorrelated noise of `noise_std` each, still in scan units.

    `coils`: the p coils that live; `warnings` names the others.
    """

    matrix: Tensor
    noise_std: float
    coils: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def whitener(covariance: Tensor) -> Whitener:
    """W = s L^-1 with covariance = L L^H and s = sqrt(mean variance): whitened noise has the scan's mean power.

    Dead coils (zero or nearly dependent variance) are left out with a warning that names them.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise BadInput(f"noise covariance of shape {tuple(covariance.shape)}: expected (coil, coil)")
    covariance = covariance.to("cpu", torch.complex128)
    if not bool(torch.isfinite(torch.view_as_real(covariance)).all()):
        raise BadInput(f"noise covariance: NaN or infinite entries; {SIMPLY_SAY}")
    alive = _living(covariance)
    if not alive:
        raise BadInput(f"noise covariance: every coil is zero, there is no noise to whiten by; {SIMPLY_SAY}")
    dead = [coil for coil in range(len(covariance)) if coil not in alive]
    part = covariance[alive][:, alive]
    noise_std = float(part.diagonal().real.mean().sqrt())
    lower = torch.linalg.cholesky(part)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(alive), dtype=lower.dtype), upper=False)
    matrix = torch.zeros(len(alive), len(covariance), dtype=lower.dtype)
    matrix[:, alive] = noise_std * inverse
    warnings = (
        (f"coil(s) {', '.join(map(str, dead))} (counted from 0) carry no noise of their own, dead or duplicate: left out",) if dead else ()
    )
    return Whitener(matrix, noise_std, tuple(alive), warnings)


def mix_coils(matrix: Tensor, data: Tensor, axis: int = -3) -> Tensor:
    """`matrix` (p, coil) applied to the coil axis of `data`: whitening and compression; dtype and device of `data`."""
    if matrix.shape[1] != data.shape[axis]:
        raise BadInput(
            f"coil matrix of shape {tuple(matrix.shape)} on data of {data.shape[axis]} coils (axis {axis} of {tuple(data.shape)})"
        )
    moved = data.movedim(axis, 0)
    mixed = matrix.to(device=data.device, dtype=data.dtype) @ moved.reshape(len(moved), -1)
    return mixed.reshape(len(matrix), *moved.shape[1:]).movedim(0, axis)


@dataclass(frozen=True)
class EdgeSamples:
    """Samples from the border of k-space, where noise dominates: `samples` (coil, n) complex.

    `outer` (n,): those of the outer half of the border. `source`: where they are from, for people.
    """

    samples: Tensor
    outer: Tensor
    source: str


def edge_samples(kspace: Tensor, mask: Tensor | None = None, *, image_axes: int = 2) -> EdgeSamples:
    """Acquired samples near the border of k-space (*batch, coil, [z,] y, x); exact zeros of all coils are not samples.

    Readout completely sampled (whole lines were acquired): the outer 5 % of the acquired readout, on the outer lines
    where these are enough (on a brain the central lines raise the estimate by 19 %, the outer ones by 5 %). Otherwise
    the outermost samples, all beyond 90 % of the acquired k-space radius. One call per slice or batch of slices with
    the same sampling; `estimate` joins them.
    """
    coils_last = kspace.movedim(-image_axes - 1, -1)
    acquired = (coils_last != 0).any(-1)
    sampled = acquired.reshape(-1, *acquired.shape[-image_axes:]).any(0)
    if mask is not None:
        sampled = sampled & mask.to(sampled.device).expand_as(sampled)
    columns = sampled.reshape(-1, sampled.shape[-1]).any(0)
    lines = sampled.any(-1)
    if torch.equal(sampled, lines[..., None] & columns):
        border, outer, source = _readout_ends(lines, columns, max(ENOUGH, ENOUGH_PER_COIL * coils_last.shape[-1]))
    else:
        border, outer, source = _rim(sampled)
    chosen = acquired & border
    return EdgeSamples(coils_last[chosen].mT.contiguous(), outer.expand_as(chosen)[chosen], source)


@dataclass(frozen=True)
class NoiseEstimate:
    """`covariance` (coil, coil) per real component, complex128; where it came from, from how many samples; warnings."""

    covariance: Tensor
    source: str
    n_samples: int
    warnings: tuple[str, ...] = ()


def estimate(edges: Iterable[EdgeSamples], *, most: int = 1 << 18) -> NoiseEstimate:
    """Robust covariance of all border samples of a volume, read slice by slice.

    Variances by the median absolute deviation of real and imaginary parts; correlations from the same samples,
    outliers clipped. At most `most` samples are kept (evenly thinned). Raises `BadInput` when there are too few.
    """
    parts = list(_thinned(edges, most))
    samples = torch.cat([part.samples for part in parts], 1) if parts else torch.zeros(1, 0, dtype=torch.complex64)
    n_samples = samples.shape[1]
    source = parts[0].source if parts else "border of k-space"
    if n_samples < ENOUGH:
        raise BadInput(f"noise estimate: only {n_samples} acquired samples in the {source}, expected at least {ENOUGH}: {SIMPLY_SAY}")
    std = robust_std(samples)
    if not bool((std > 0).any()):
        raise BadInput(f"noise estimate: the {source} hold no noise (all values are equal); {SIMPLY_SAY}")
    correlated = n_samples >= ENOUGH_PER_COIL * len(std)
    correlation = _correlation(samples, std) if correlated else torch.eye(len(std), dtype=torch.complex128)
    warnings = [] if correlated else [f"noise: {n_samples} samples are too few for correlations of {len(std)} coils: taken as independent"]
    outer = samples[:, torch.cat([part.outer for part in parts])]
    if outer.shape[1] >= ENOUGH // 2:
        change = _mean_std(samples) / _mean_std(outer) - 1
        chance = 2 / (2 * outer.numel()) ** 0.5  # 2.4 standard deviations of the change when nothing is wrong
        if abs(change) > DISAGREEMENT + chance:
            warnings.append(
                f"noise: estimates from the {source} and from its outer half differ by {change:+.0%}: "
                f"signal or filtering reaches the border, the noise is uncertain; {SIMPLY_SAY}"
            )
    covariance = std[:, None] * correlation * std
    return NoiseEstimate(covariance, f"estimated from {n_samples} {_of(source)}", n_samples, tuple(warnings))


def robust_std(samples: Tensor) -> Tensor:
    """Standard deviation (coil,) per real component of (coil, n) by the median absolute deviation; float64, CPU.

    Exact zeros are left out; a coil of zeros alone gives 0.
    """
    result = torch.zeros(len(samples), dtype=torch.float64)
    for coil, row in enumerate(samples.detach().to("cpu", torch.complex128)):
        parts = torch.view_as_real(row[row != 0])
        if parts.numel():
            result[coil] = MAD_TO_STD * (parts - parts.median(0).values).abs().flatten().median()
    return result


def _living(covariance: Tensor) -> list[int]:
    """Coils to keep: those whose noise is not zero and not a copy of earlier coils' (pivots of a Cholesky sweep)."""
    scale = covariance.diagonal().real.max()
    rest, alive = covariance.clone(), []
    for coil in range(len(rest)):
        pivot = rest[coil, coil].real.clone()
        if scale > 0 and pivot > DEAD * scale:
            alive.append(coil)
            column = rest[:, coil].clone()
            rest -= column[:, None] * column.conj() / pivot
    return alive


def _readout_ends(lines: Tensor, columns: Tensor, enough: int) -> tuple[Tensor, Tensor, str]:
    """Bool ([z,] y, x): the outermost 5 % of the acquired readout positions; the outermost 2.5 %; where that is."""
    n = len(columns)
    distance = (torch.arange(n, device=columns.device) - (n - 1) / 2).abs()
    distance = torch.where(columns, distance, torch.full_like(distance, -1))
    rank = distance.argsort(descending=True, stable=True).argsort()
    count = int(columns.sum())
    ends = columns & (rank < max(2, round(READOUT_SHARE * count)))
    outer_lines = lines & (_radius(lines) > OUTER_LINES)
    plenty = int(outer_lines.sum()) * int(ends.sum()) >= enough
    border = (outer_lines if plenty else lines)[..., None] & ends
    outer = border & (rank < max(1, round(READOUT_SHARE / 2 * count)))
    return border, outer, f"outer {READOUT_SHARE:.0%} of the readout" + (" on the outer lines" if plenty else "")


def _rim(sampled: Tensor) -> tuple[Tensor, Tensor, str]:
    """Bool ([z,] y, x): the samples farthest from the centre; the farther half of them; where that is."""
    radius = torch.where(sampled, _radius(sampled), torch.zeros(()).to(sampled.device))
    ordered = radius[sampled].sort(descending=True).values
    count = min(len(ordered), max(RADIUS_COUNT, round(RADIUS_SHARE * len(ordered))))
    least = max(RADIUS, float(ordered[count - 1])) if count else RADIUS
    border = radius >= least
    middle = ordered[int(border.sum()) // 2] if count else ordered.sum()
    return border, border & (radius > middle), f"samples beyond {least:.0%} of the k-space radius"


def _radius(sampled: Tensor) -> Tensor:
    """Distance from the centre relative to the acquired half width of each axis, shape of `sampled`."""
    square = torch.zeros(sampled.shape, device=sampled.device)
    for axis, n in enumerate(sampled.shape):
        position = (torch.arange(n, device=sampled.device) - n // 2).float()
        others = [other for other in range(sampled.ndim) if other != axis]
        used = sampled.any(dim=tuple(others)) if others else sampled
        reach = position[used].abs().max() if bool(used.any()) else torch.ones(())
        view = [n if other == axis else 1 for other in range(sampled.ndim)]
        square = square + (position / reach.clamp_min(1)).square().reshape(view)
    return square.sqrt()


def _thinned(edges: Iterable[EdgeSamples], most: int) -> Iterable[EdgeSamples]:
    """The samples on the CPU; every second one is dropped each time that they grow beyond `most`."""
    kept: list[EdgeSamples] = []
    step = 1
    for edge in edges:
        kept.append(EdgeSamples(edge.samples[:, ::step].cpu(), edge.outer[::step].cpu(), edge.source))
        if sum(part.samples.shape[1] for part in kept) > most:
            kept = [EdgeSamples(part.samples[:, ::2].clone(), part.outer[::2].clone(), part.source) for part in kept]
            step *= 2
    return kept


def _correlation(samples: Tensor, std: Tensor) -> Tensor:
    """Correlation matrix (coil, coil) after clipping magnitudes at 3 sqrt(2) standard deviations; dead coils stand alone."""
    unit = samples.to("cpu", torch.complex128) / torch.where(std > 0, std, torch.ones_like(std))[:, None]
    magnitude = unit.abs().clamp_min(1e-30)
    unit = unit * (3 * 2**0.5 / magnitude).clamp_max(1)
    product = unit @ unit.mH / unit.shape[1]
    power = product.diagonal().real.sqrt()
    power = torch.where(power > 0, power, torch.ones_like(power))
    correlation = product / (power[:, None] * power)
    correlation.fill_diagonal_(1)
    return correlation


def _mean_std(samples: Tensor) -> float:
    return float(robust_std(samples).square().mean().sqrt())


def _of(source: str) -> str:
    return source if source.startswith("samples") else f"samples of the {source}"
