"""Where an MRD scan lies in the patient: positions and directions (LPS, mm) to the grid of the cropped image (RAS+)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput
from medrecon.io.mrd_header import Encoding
from medrecon.volume import LPS_TO_RAS, Grid

DIRECTION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Placement:
    """`grid` of the cropped image, `crop` (y, x) or None, `slices`: counters of the slices in the order of their positions."""

    grid: Grid
    crop: tuple[int, int] | None
    slices: tuple[int, ...]
    warnings: tuple[str, ...]


def placement(heads: NDArray[Any], lines: NDArray[Any], encoding: Encoding, is_3d: bool, where: str) -> Placement:
    """The place of the image whose lines are `lines`.

    Slices are sorted along the slice direction, not by counter. Without usable directions or positions the orientation is
    "unknown" and a warning says why. Raises `BadInput` for slices that are not evenly spaced.
    """
    nx, ny, nz = encoding.encoded.matrix
    dx, dy, dz = encoding.encoded.pixel
    thickness = dz if is_3d else encoding.recon.fov[2]
    counter = heads["idx"]["slice"][lines]
    numbers = sorted({int(n) for n in counter})
    positions = np.array([heads["position"][lines[counter == number]].astype(np.float64).mean(0) for number in numbers])
    directions = [heads[name][lines[0]].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")]
    crop = (_shown(encoding, 1), _shown(encoding, 0))
    shape = (nz if is_3d else len(numbers), *crop)
    cropped = None if crop == (ny, nx) else crop
    problem = _problem(directions, positions, heads, lines)
    if problem:
        grid = Grid.unplaced(shape, (thickness, dy, dx))
        return Placement(grid, cropped, tuple(numbers), (f"orientation unknown: {problem}",))
    order = np.argsort(positions @ directions[2], kind="stable")
    numbers, positions = [numbers[i] for i in order], positions[order]
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * dx, directions[1] * dy
    lps[:3, 2] = _slice_step(positions, numbers, where) if len(numbers) > 1 else directions[2] * thickness
    # index N//2 of an encoded axis is the centre of its field of view; a 2-D slice's position is its own plane
    lps[:3, 3] = positions[0] - lps[:3, :3] @ [nx // 2, ny // 2, nz // 2 if is_3d else 0]
    encoded = Grid((shape[0], ny, nx), LPS_TO_RAS @ lps)
    start = (0, (ny - crop[0]) // 2, (nx - crop[1]) // 2)  # as fastmri_crop cuts
    return Placement(encoded.crop(start, shape), cropped, tuple(numbers), ())


def _shown(encoding: Encoding, axis: int) -> int:
    """Pixels of the encoded resolution in the field of view to be shown: oversampling is cut, nothing is interpolated."""
    encoded, recon = encoding.encoded, encoding.recon
    return max(1, min(encoded.matrix[axis], round(encoded.matrix[axis] * recon.fov[axis] / encoded.fov[axis])))


def _problem(directions: list[NDArray[Any]], positions: NDArray[Any], heads: NDArray[Any], lines: NDArray[Any]) -> str:
    """Why the geometry cannot be used; empty when it can."""
    axes = np.stack(directions)
    if not (np.isfinite(axes).all() and np.isfinite(positions).all()):
        return "positions or directions are not finite"
    if np.abs(axes @ axes.T - np.eye(3)).max() > DIRECTION_TOLERANCE:
        return "read, phase and slice directions are not orthogonal unit vectors"
    for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), directions, strict=True):
        if np.abs(heads[name][lines] - direction).max() > DIRECTION_TOLERANCE:
            return f"{name} changes during the scan"
    if len(positions) > 1 and np.abs(positions - positions[0]).max() < 1e-6:
        return f"all {len(positions)} slices have the same position"
    return ""


def _slice_step(positions: NDArray[Any], numbers: list[int], where: str) -> NDArray[Any]:
    """Vector from one slice to the next, mm; slices must be evenly spaced to 1e-3 or 0.01 mm."""
    step: NDArray[Any] = (positions[-1] - positions[0]) / (len(positions) - 1)
    length = float(np.linalg.norm(step))
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    off = np.linalg.norm(np.diff(positions, axis=0) - step, axis=1)
    worst = int(off.argmax())
    if off[worst] > max(1e-3 * length, 0.01):
        raise BadInput(
            f"{where}: slices {numbers[worst]} and {numbers[worst + 1]} are {gaps[worst]:.3f} mm apart, the mean is {length:.3f} mm: "
            "a slice is missing or the scan holds several stacks"
        )
    return step
