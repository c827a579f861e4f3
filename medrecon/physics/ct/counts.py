"""Detector readings, line integrals and HU; the noise of counted quanta, simulated and as weights.

Projections are (*batch, view, bin), or (*batch, view, row, bin) with `view_axis` = -3. dtype and device follow the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.tensors import unit_noise

FLOOR = 1e-6
"""Smallest transmission without known photons: 13.8 mean free paths, where no detector still counts."""

MOST_REPAIRED = 0.2
"""Share of readings without a quantum beyond which there is no image in the data."""

DEAD_FLAT = 0.1
"""Share of bins without a beam in the flat field beyond which flat and dark are not what they are said to be."""

EDGE = 0.05
"""Share of the bins, at each end, that sees air where the object is inside the field of view."""

STEADY = 0.85
"""Readings of air in one view over those in the median view: below this, an object stands in it."""


def transmission(counts: Tensor, flat: Tensor, dark: Tensor | None = None, *, view_axis: int = -2) -> Tensor:
    """(I - D) / (F - D), shape of `counts`; flat and dark frames, along `view_axis`, are averaged in float64.

    Bins whose flat field is no brighter than the dark one carry 0 (nothing was measured: see `bad_bins`). Raises `BadInput`
    for frames of another detector, and where more than a tenth of the bins has no beam.
    """
    bright = _frames(flat, counts, "flat", view_axis)
    black = torch.zeros_like(bright) if dark is None else _frames(dark, counts, "dark", view_axis)
    beam = bright - black
    dead = ~(beam > 0)
    share = float(dead.double().mean())
    if share > DEAD_FLAT:
        raise BadInput(
            f"flat field: {share:.0%} of the bins are no brighter than the dark field (means {float(bright.mean()):.4g} and "
            f"{float(black.mean()):.4g}): flat and dark may be swapped, or taken with another exposure"
        )
    through = (counts.to(torch.float64) - black) / torch.where(dead, torch.ones_like(beam), beam)
    return torch.where(dead, torch.zeros_like(through), through).to(counts.dtype)


def _frames(frames: Tensor, counts: Tensor, name: str, view_axis: int) -> Tensor:
    """The mean frame, float64, one view long."""
    wanted = [n for axis, n in enumerate(counts.shape, start=-counts.ndim) if axis != view_axis]
    got = [n for axis, n in enumerate(frames.shape, start=-frames.ndim) if axis != view_axis]
    fits = frames.ndim <= counts.ndim and all(n in (1, m) for n, m in zip(reversed(got), reversed(wanted), strict=False))
    if frames.ndim < -view_axis or not fits or frames.shape[view_axis] == 0:
        raise BadInput(
            f"{name} field {tuple(frames.shape)} does not fit projections {tuple(counts.shape)}: expected frames of the same detector "
            f"along axis {view_axis}"
        )
    mean = frames.to(counts.device, torch.float64).mean(view_axis, keepdim=True)
    if not bool(torch.isfinite(mean).all()):
        raise BadInput(f"{name} field: NaN or infinite readings")
    return mean


def incident(counts: Tensor, *, edge: float = EDGE, view_axis: int = -2) -> Tensor:
    """Readings without object, shape of `counts`, from the bins at both ends of each view, which see air: a line between their means.

    Raises `BadInput` where an end is darker in some views than in most: then the object leaves the field of view.
    """
    x = counts.to(torch.float64)
    n = x.shape[-1]
    width = max(1, round(edge * n))
    if n < 3 * width:
        raise BadInput(f"air at the ends of {n} bins: expected at least {3 * width} bins; give a flat field or the photons")
    ends = torch.stack([x[..., :width].mean(-1), x[..., n - width :].mean(-1)], -1)
    darkest = float((ends / ends.median(view_axis, keepdim=True).values).min())
    if not bool((ends > 0).all()) or darkest < STEADY:
        raise BadInput(
            f"no flat field, and no air at the ends of the detector (in one view they read {darkest:.0%} of the usual): "
            "the object leaves the field of view; give a flat field or the photons"
        )
    along = (torch.arange(n, dtype=torch.float64, device=x.device) - (width - 1) / 2) / (n - width)
    return torch.lerp(ends[..., :1], ends[..., 1:], along).to(counts.dtype)


@dataclass(frozen=True)
class Logarithm:
    """`line_integrals`, and `unmeasured` (bool, same shape): readings at or below the floor, whose value was put in: weight 0."""

    line_integrals: Tensor
    unmeasured: Tensor

    @property
    def share(self) -> float:
        """Of all readings, how many were not measured."""
        return float(self.unmeasured.double().mean()) if self.unmeasured.numel() else 0.0


def line_integrals(transmission: Tensor, floor: Tensor | float = FLOOR, *, most: float = MOST_REPAIRED, view_axis: int = -2) -> Logarithm:
    """-log(transmission). A single reading at or below the `floor` becomes the mean of its two neighbours, longer runs the floor.

    `floor`: about one quantum, 1 / photons, where these are known. Raises `BadInput` for NaN, for bins or views without a single
    reading above the floor, and where their share is above `most`.
    """
    t = transmission
    if not bool(torch.isfinite(t).all()):
        raise BadInput(f"transmission: {int((~torch.isfinite(t)).sum())} NaN or infinite readings; --set nan=zero leaves them out")
    low = t <= floor
    if not bool(low.any()):
        return Logarithm(-t.log(), low)
    _refuse_missing(low, most, view_axis)
    p = -t.clamp_min(torch.finfo(t.dtype).tiny).maximum(torch.as_tensor(floor, dtype=t.dtype, device=t.device)).log()
    inner = slice(1, -1)
    alone = low[..., inner] & ~low[..., :-2] & ~low[..., 2:]
    p[..., inner] = torch.where(alone, (p[..., :-2] + p[..., 2:]) / 2, p[..., inner])
    return Logarithm(p, low)


def _refuse_missing(low: Tensor, most: float, view_axis: int) -> None:
    n_views, n_bins = low.shape[view_axis], low.shape[-1]
    dark = low.flatten(view_axis + 1).all(-1).reshape(-1, n_views).any(0)
    if bool(dark.any()):
        raise BadInput(f"view(s) {_list(dark)} (from 0) read nothing in any bin: the beam was off; leave them out")
    dead = low.all(view_axis).reshape(-1, n_bins).any(0)
    if bool(dead.any()):
        raise BadInput(f"bin(s) {_list(dead)} (from 0) read nothing in any view: dead; interpolate them (--set repair=true)")
    share = float(low.double().mean())
    if share > most:
        raise BadInput(
            f"{share:.1%} of the readings are zero or negative, more than {most:.0%}: check the dark field, or solve with law=poisson"
        )


def _list(found: Tensor) -> str:
    numbers = found.nonzero().flatten().tolist()
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def weights(counts: Tensor, electronic_std: float = 0.0, *, unmeasured: Tensor | None = None) -> Tensor:
    """1 / variance of -log(counts): I^2 / (I + s^2) for quanta I and electronic noise s; 0 for readings that were not measured.

    Not normalised: the mean weight is the mean precision of a line integral (Thibault et al., Med. Phys. 33:4160 (2006)).
    """
    quanta = counts.clamp_min(0)
    lost = quanta <= 0 if unmeasured is None else unmeasured | (quanta <= 0)
    total = quanta + electronic_std**2
    safe = torch.where(lost, torch.ones_like(total), total)
    return torch.where(lost, torch.zeros_like(total), quanta.square() / safe)


def hounsfield(mu: Tensor, water: float, air: float = 0.0) -> Tensor:
    """HU of attenuation `mu`; `water`, `air`: theirs, in the same unit."""
    return 1000 * (mu - _checked(water, air)) / (water - air)


def attenuation(hu: Tensor, water: float, air: float = 0.0) -> Tensor:
    """Attenuation of HU, in the unit of `water`."""
    return _checked(water, air) + hu * ((water - air) / 1000)


def _checked(water: float, air: float) -> float:
    if not 0 <= air < water:
        raise BadInput(f"water = {water}, air = {air}: expected attenuations with 0 <= air < water (water about 0.0192 1/mm)")
    return water


def low_dose_counts(line_integrals: Tensor, photons: Tensor | float, electronic_std: float, generator: torch.Generator) -> Tensor:
    """Quanta of one scan, Poisson(photons exp(-p)) + N(0, electronic_std^2); with electronic noise they may be negative.

    Drawn in float64 on the generator's device.
    """
    b = torch.as_tensor(photons, dtype=torch.float64, device=generator.device)
    if not bool(((b > 0) & torch.isfinite(b)).all()) or not 0 <= electronic_std < float("inf"):
        raise BadInput(f"photons = {photons}, electronic_std = {electronic_std}: expected positive quanta per ray and a noise of 0 or more")
    expected = b * torch.exp(-line_integrals.detach().to(generator.device, torch.float64))
    counts = torch.poisson(expected, generator)
    if electronic_std:
        counts = counts + electronic_std * unit_noise(counts.shape, counts.dtype, generator)
    return counts.to(line_integrals.device, line_integrals.dtype)


@dataclass(frozen=True)
class LowDose:
    """`counts` as drawn, their `line_integrals`, and `clipped` (bool): readings raised to `least` before the logarithm."""

    counts: Tensor
    line_integrals: Tensor
    clipped: Tensor


def low_dose(
    line_integrals: Tensor, photons: Tensor | float, generator: torch.Generator, *, electronic_std: float = 0.0, least: float = 1.0
) -> LowDose:
    """A scan with `photons` incident quanta per ray; readings below `least` quanta are raised to it.

    LoDoPaB-CT has 4096 photons and `least` 0.1 (Leuschner et al., Sci. Data 8:109 (2021)).
    """
    counts = low_dose_counts(line_integrals, photons, electronic_std, generator)
    b = torch.as_tensor(photons, dtype=counts.dtype, device=counts.device)
    return LowDose(counts, (b / counts.clamp_min(least)).log(), counts < least)


def dose_fraction(
    line_integrals: Tensor, fraction: float, photons: Tensor | float, generator: torch.Generator, *, electronic_std: float = 0.0
) -> Tensor:
    """Measured line integrals with the noise added that a scan at `fraction` of its dose would have more.

    p + sqrt((1 - a) / a e^p / N (1 + (1 + a) / a s^2 e^p / N)) n with N `photons` of the measured scan (Yu et al., J. Comput.
    Assist. Tomogr. 36:270 (2012)). Good while the counts are many; readings of a few quanta need `low_dose`.
    """
    if not 0 < fraction <= 1:
        raise BadInput(f"dose fraction {fraction}: expected more than 0 and at most 1")
    p = line_integrals.to(torch.float64)
    single = p.exp() / torch.as_tensor(photons, dtype=torch.float64, device=p.device)  # variance of p from quanta alone
    more = (1 - fraction) / fraction * single * (1 + (1 + fraction) / fraction * electronic_std**2 * single)
    noise = unit_noise(p.shape, p.dtype, generator).to(p.device)
    return (p + more.sqrt() * noise).to(line_integrals.dtype)
