"""Sampling masks of our own: equispaced, variable density, Poisson disc, CAIPIRINHA; and the facts of any mask.

Random ones use only uniform numbers of PCG64 in a fixed order: the same mask on every platform and NumPy version.
Masks are bool with their true rank, (ny, 1) for lines. fastMRI's own masks are in `fastmri_masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.mri.calibration import calibration_size

Density = Callable[[np.ndarray], np.ndarray]
"""Distance from the k-space centre (0 to 1 along an axis) to relative sampling density."""


@dataclass(frozen=True)
class MaskFacts:
    """`acceleration`: positions over samples, the true one. `acs`: the completely sampled centre along each undersampled axis."""

    acceleration: float
    acs: tuple[int, ...]


def mask_facts(mask: Tensor, padding: tuple[int, int] | None = None) -> MaskFacts:
    """Facts of a bool mask ([nz,] ny, nx), or (ny, 1) with `padding` (left, right): only lines in [left, right) count."""
    inside = mask if padding is None else mask[padding[0] : padding[1]]
    count = int(inside.sum())
    if count == 0:
        raise BadInput(f"mask of shape {tuple(mask.shape)} samples nothing: no image can be made of it")
    size = calibration_size(mask, max(mask.shape))
    return MaskFacts(inside.numel() / count, tuple(n for n, whole in zip(size, mask.shape, strict=True) if whole > 1))


def equispaced(n: int, acceleration: int, *, acs: int = 24, offset: int = 0) -> Tensor:
    """Bool (n, 1): every `acceleration`-th line, counted so that the central one is hit at offset 0, and `acs` in the centre."""
    _check((n,), acceleration, (acs,))
    lines = (torch.arange(n) - n // 2 - offset) % acceleration == 0
    return (lines | torch.from_numpy(_centre((n,), (acs,))))[:, None]


def polynomial(power: float = 3.0) -> Density:
    """(1 - |k|)^power."""
    return lambda k: (1 - k).clip(0) ** power


def gaussian(width: float = 0.3) -> Density:
    """exp(-k^2 / 2 width^2)."""
    return lambda k: np.exp(-0.5 * (k / width) ** 2)


def variable_density(
    shape: int | tuple[int, int], acceleration: float, *, acs: int = 24, density: Density | None = None, seed: int | str | Sequence[int] = 0
) -> Tensor:
    """Bool (n, 1) for lines or (ny, nx): independent draws from `density` (default `polynomial()`), and the centre.

    The density is scaled until the expected number of samples is the wanted one; the true number scatters around it.
    """
    sides = (shape,) if isinstance(shape, int) else tuple(shape)
    centre = _centre(sides, (acs,) * len(sides))
    wanted = _wanted(sides, acceleration, (acs,) * len(sides))
    relative = (density or polynomial())(_radius(sides)).clip(1e-9)
    low, high = 0.0, 1 / relative.min()
    for _ in range(100):
        scale = (low + high) / 2
        expected = np.where(centre, 1.0, (scale * relative).clip(max=1)).sum()
        low, high = (scale, high) if expected < wanted else (low, scale)
    chosen = _uniform(seed, sides) < (high * relative)
    return _bool(chosen | centre)


def poisson_disc(
    shape: tuple[int, int],
    acceleration: float,
    *,
    calib: int | tuple[int, int] = 24,
    seed: int | str | Sequence[int] = 0,
    slope: float = 2.0,
    elliptic: bool = True,
) -> Tensor:
    """Bool (ny, nx): samples no closer than r0 (1 + slope |k|), and a completely sampled centre of `calib`.

    Points are visited in a random order and taken if none before lies too near; r0 is the largest that gives enough,
    and a surplus is dropped at random, so the acceleration is exact to one sample. `elliptic`: no corners.
    """
    nx = shape[1]
    calibration = (calib, calib) if isinstance(calib, int) else calib
    wanted = _wanted(shape, acceleration, calibration)
    centre = _centre(shape, calibration)
    radius = _radius(shape)
    free = ~centre & (radius <= 1) if elliptic else ~centre
    if wanted > int(centre.sum() + free.sum()):
        raise BadInput(f"poisson_disc: acceleration {acceleration:g} wants {wanted} samples, the ellipse has fewer: use elliptic=False")
    priority = _uniform(seed, shape)
    order = [(int(index) // nx, int(index) % nx) for index in np.argsort(priority, axis=None, kind="stable")]
    low, high = 0.0, float(max(shape))
    chosen = free
    for _ in range(14):
        distance = (low + high) / 2
        trial = _throw(order, free, distance * (1 + slope * radius))
        if int((trial | centre).sum()) >= wanted:
            low, chosen = distance, trial
        else:
            high = distance
        if int((chosen | centre).sum()) <= 1.005 * wanted:
            break
    surplus = int((chosen | centre).sum()) - wanted
    kept = [position for position in order if chosen[position]]
    result = chosen | centre
    for position in kept[len(kept) - surplus :] if surplus > 0 else []:
        result[position] = False
    return _bool(result)


def caipi(shape: tuple[int, int], acceleration: tuple[int, int], *, shift: int = 1, acs: tuple[int, int] = (0, 0)) -> Tensor:
    """Bool (nz, ny, 1): every Rz-th partition, every Ry-th line, lines moved by `shift` from one partition to the next."""
    (nz, ny), (rz, ry) = shape, acceleration
    _check(shape, min(rz, ry), acs)
    z = (torch.arange(nz) - nz // 2)[:, None]
    y = torch.arange(ny) - ny // 2
    lattice = (z % rz == 0) & ((y - shift * torch.div(z, rz, rounding_mode="floor")) % ry == 0)
    return (lattice | torch.from_numpy(_centre(shape, acs)))[..., None]


def _throw(order: list[tuple[int, int]], free: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Bool, shape of `free`: positions taken in this order, each blocking those nearer than its `distance`."""
    ny, nx = free.shape
    open_, taken = free.copy(), np.zeros_like(free)
    reach = np.ceil(distance).astype(int) - 1
    far = int(min(reach.max(), max(ny, nx)))
    offset = np.arange(-far, far + 1)
    square = offset[:, None] ** 2 + offset**2
    for y, x in order:
        if open_[y, x]:
            taken[y, x] = True
            r = min(int(reach[y, x]), far)
            top, bottom, left, right = max(0, y - r), min(ny, y + r + 1), max(0, x - r), min(nx, x + r + 1)
            near = square[top - y + far : bottom - y + far, left - x + far : right - x + far] < distance[y, x] ** 2
            open_[top:bottom, left:right] &= ~near
            open_[y, x] = False
    return taken


def _check(shape: Sequence[int], acceleration: float, acs: Sequence[int]) -> None:
    if any(n < 1 for n in shape) or acceleration < 1 or any(not 0 <= m <= n for m, n in zip(acs, shape, strict=True)):
        raise BadInput(
            f"mask of {tuple(shape)} with acceleration {acceleration:g} and centre {tuple(acs)}: expected >= 1, and a centre inside"
        )


def _wanted(shape: Sequence[int], acceleration: float, acs: Sequence[int]) -> int:
    """How many samples the acceleration allows; an error where the centre alone has more."""
    _check(shape, acceleration, acs)
    wanted, centre = round(float(np.prod(shape)) / acceleration), int(np.prod(acs))
    if centre > wanted:
        raise BadInput(
            f"mask of {tuple(shape)} at acceleration {acceleration:g} has {wanted} samples, the calibration centre {tuple(acs)} alone "
            f"{centre}: make the centre smaller or accelerate less"
        )
    return wanted


def _centre(shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The block whose index m//2 lies on n//2."""
    inside = np.zeros(tuple(shape), dtype=bool)
    inside[tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(shape, size, strict=True))] = True
    return inside


def _radius(shape: Sequence[int]) -> np.ndarray:
    """Distance from the centre in half widths."""
    axes = [(np.arange(n) - n // 2) / max(1, n / 2) for n in shape]
    square = np.zeros(())
    for axis in axes:
        square = square[..., None] + axis**2
    return np.sqrt(square)


def _uniform(seed: int | str | Sequence[int], shape: Sequence[int]) -> np.ndarray:
    numbers = [ord(character) for character in seed] if isinstance(seed, str) else seed
    return np.random.Generator(np.random.PCG64(numbers)).random(tuple(shape))


def _bool(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask[:, None] if mask.ndim == 1 else mask)
