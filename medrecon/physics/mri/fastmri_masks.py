"""The sampling masks of fastMRI, equal to the original bit for bit: same generator, same order of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from medrecon.errors import BadInput, nearest

CENTRE_FRACTIONS = {4: 0.08, 8: 0.04}

Seed = None | int | Sequence[int] | str
Lines = np.ndarray


def fastmri_mask(
    n_columns: int,
    acceleration: float | Sequence[float] = 4,
    *,
    kind: str = "random",
    center_fraction: float | Sequence[float] | None = None,
    seed: Seed = None,
    offset: int | None = None,
    padding: tuple[int, int] | None = None,
    any_combination: bool = False,
) -> Tensor:
    """Bool (n_columns, 1): which phase encodings are sampled.

    `kind`: random (knee), equispaced_fraction (brain), equispaced, magic, magic_fraction. `center_fraction`: of the
    columns, sampled completely; by default 0.08 at 4x and 0.04 at 8x. Several accelerations and fractions: a pair is
    drawn, or any combination of them. `seed`: a file name (its base name with .h5, as the original does), numbers, or
    None for another mask on every call. `padding`: (left, right), columns outside [left, right) were never acquired.
    """
    return fastmri_lines(n_columns, acceleration, kind, center_fraction, seed, offset, padding, any_combination).mask


@dataclass(frozen=True)
class FastmriLines:
    """A mask, bool (n_columns, 1), and how many low frequencies its centre was meant to hold."""

    mask: Tensor
    n_low: int


def fastmri_lines(
    n_columns: int,
    acceleration: float | Sequence[float],
    kind: str,
    center_fraction: float | Sequence[float] | None,
    seed: Seed,
    offset: int | None,
    padding: tuple[int, int] | None,
    any_combination: bool,
) -> FastmriLines:
    """`fastmri_mask` together with the nominal width of its centre."""
    if kind not in KINDS:
        raise BadInput(f"fastMRI mask {kind!r}: expected {', '.join(KINDS)}{nearest(kind, list(KINDS))}")
    if n_columns < 1:
        raise BadInput(f"fastMRI mask of {n_columns} columns: expected at least 1")
    accelerations, fractions = _configurations(acceleration, center_fraction)
    rng = RandomState()
    if seed is not None:
        rng.seed(_seed(seed))
    fraction, factor = _choice(rng, fractions, accelerations, any_combination)
    low = round(n_columns * fraction)
    outer, low = KINDS[kind](rng, n_columns, factor, low, offset)
    lines = outer | _centre(n_columns, low)
    if padding is not None:
        lines[: padding[0]] = False
        lines[padding[1] :] = False
    return FastmriLines(torch.from_numpy(lines)[:, None], low)


def _configurations(
    acceleration: float | Sequence[float], center_fraction: float | Sequence[float] | None
) -> tuple[list[float], list[float]]:
    accelerations = list(acceleration) if isinstance(acceleration, Sequence) else [acceleration]
    if center_fraction is None:
        unknown = [factor for factor in accelerations if factor not in CENTRE_FRACTIONS]
        if unknown:
            raise BadInput(f"fastMRI mask: no customary centre for acceleration {unknown[0]:g} (4 and 8 have one): give center_fraction")
        fractions = [CENTRE_FRACTIONS[int(factor)] for factor in accelerations]
    else:
        fractions = list(center_fraction) if isinstance(center_fraction, Sequence) else [center_fraction]
    if not accelerations or any(factor < 1 for factor in accelerations) or any(not 0 <= share < 1 for share in fractions) or not fractions:
        raise BadInput(f"fastMRI mask: accelerations {accelerations}, centre fractions {fractions}: expected at least 1, and 0 to below 1")
    return accelerations, fractions


def _seed(seed: int | Sequence[int] | str) -> int | tuple[int, ...]:
    if isinstance(seed, str):
        return tuple(ord(character) for character in PurePath(seed).name)
    return seed if isinstance(seed, int) else tuple(seed)


def _choice(rng: RandomState, fractions: list[float], accelerations: list[float], any_combination: bool) -> tuple[float, float]:
    # draws over a single item consume nothing of the stream, as in the original
    if any_combination:
        return float(rng.choice(fractions)), _number(rng.choice(accelerations))
    if len(fractions) != len(accelerations):
        raise BadInput(
            f"fastMRI mask: {len(fractions)} centre fractions for {len(accelerations)} accelerations: pair them, or any_combination"
        )
    index = int(rng.randint(len(fractions)))
    return fractions[index], accelerations[index]


def _number(value: np.generic) -> float:
    return value.item()


def _centre(n: int, low: int) -> Lines:
    lines = np.zeros(n, dtype=bool)
    start = (n - low + 1) // 2
    lines[start : start + low] = True
    return lines


def _random(rng: RandomState, n: int, factor: float, low: int, _offset: int | None) -> tuple[Lines, int]:
    probability = (n / factor - low) / (n - low)
    return rng.uniform(size=n) < probability, low


def _equispaced(rng: RandomState, n: int, factor: float, low: int, offset: int | None) -> tuple[Lines, int]:
    step = round(factor)
    start = int(rng.randint(0, step)) if offset is None else offset % step
    lines = np.zeros(n, dtype=bool)
    lines[start::step] = True
    return lines, low


def _equispaced_fraction(rng: RandomState, n: int, factor: float, low: int, offset: int | None) -> tuple[Lines, int]:
    """Equispaced, with the spacing widened so that the centre included the nominal acceleration comes out."""
    step = factor * (low - n) / (low * factor - n)
    if step <= 0:
        raise BadInput(
            f"fastMRI mask: a centre of {low} of {n} columns is already more than 1 in {factor:g}: take a smaller center_fraction"
        )
    start = int(rng.randint(0, round(step))) if offset is None else offset % round(step)
    lines = np.zeros(n, dtype=bool)
    lines[np.around(np.arange(start, n - 1, step)).astype(int)] = True
    return lines, low


def _magic(rng: RandomState, n: int, factor: float, low: int, offset: int | None) -> tuple[Lines, int]:
    """Equispaced on either side of the centre, shifted so that one side holds the conjugates that the other lacks."""
    step = round(factor)
    start = int(rng.randint(0, step)) if offset is None else offset % step
    positive, negative = (start + 1, start + 2) if start % 2 == 0 else (start + 2, start - 1)
    half = (n + 1) // 2
    upper, lower = np.zeros(half, dtype=bool), np.zeros(n - half, dtype=bool)
    upper[positive::step] = True
    lower[negative::step] = True
    return np.fft.fftshift(np.concatenate([upper, lower[::-1]])), low


def _magic_fraction(rng: RandomState, n: int, factor: float, low: int, offset: int | None) -> tuple[Lines, int]:
    """`_magic`, with the spacing widened so that the centre included the nominal acceleration comes out."""
    wanted = round(n / factor)
    low = max(min(low, wanted), 1)
    if wanted <= low:  # the original divides by zero here; the centre alone is the answer
        return np.zeros(n, dtype=bool), low
    return _magic(rng, n, round(n / (wanted - low)), low, offset)


KINDS: dict[str, Callable[[RandomState, int, float, int, int | None], tuple[Lines, int]]] = {
    "random": _random,
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
    "magic": _magic,
    "magic_fraction": _magic_fraction,
}
