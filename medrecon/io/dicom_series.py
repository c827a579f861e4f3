"""From loose frames to one stack: grouped by what must be equal, sorted by position, every gap found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medrecon.errors import BadInput, NotSupported
from medrecon.io.dicom_frames import Frame
from medrecon.io.facts import UNPLACED
from medrecon.io.patient_frame import Planes, Vector, affine_of
from medrecon.volume import Grid

log = logging.getLogger("medrecon")

DIRECTION_TOLERANCE = 1e-4
SAME_PLACE = 1e-3  # mm


@dataclass(frozen=True)
class Stack:
    """Frames by [time][z], None where a slice is missing and that was allowed; and the grid they fill."""

    frames: list[list[Frame | None]]
    grid: Grid

    @property
    def first(self) -> Frame:
        """The first frame there is; the lowest slice is never missing."""
        return next(frame for frame in self.frames[0] if frame is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """([time,] z, y, x)."""
        return self.grid.shape if len(self.frames) == 1 else (len(self.frames), *self.grid.shape)


def groups_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that may form one volume together, in the order of series numbers."""
    groups: list[list[Frame]] = []
    by_kind: dict[tuple, list[list[Frame]]] = {}
    for frame in frames:
        alike = by_kind.setdefault(frame.kind, [])
        home = next((group for group in alike if _parallel(group[0], frame)), None)
        if home is None:
            home = []
            alike.append(home)
            groups.append(home)
        home.append(frame)
    return sorted(groups, key=lambda group: (int(group[0].attributes.get("SeriesNumber", 0)), str(group[0].kind)))


def _parallel(one: Frame, other: Frame) -> bool:
    if not np.allclose(one.spacing, other.spacing, rtol=1e-4):
        return False
    return bool(np.abs(np.r_[one.row - other.row, one.column - other.column]).max() <= DIRECTION_TOLERANCE)


def chosen(groups: list[list[Frame]], series: str | int | None, where: str) -> list[Frame]:
    """The group that `series` names, by its number in the list from 1 or by its UID; the only one without. Never a guess."""
    text = "" if series is None else str(series).strip()
    if not text:
        found = groups
    elif text.isdigit():
        found = groups[int(text) - 1 : int(text)] if int(text) > 0 else []
    else:
        found = [group for group in groups if group[0].kind[0] == text]
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {number}: {_words(group)}" for number, group in enumerate(groups, 1))
    problem = "holds several image series" if not text else f"series {text!r} is {'none' if not found else 'more than one'} of these"
    raise BadInput(f"{where}: {problem}; choose one with series=NUMBER:\n{listed}")


def _words(group: list[Frame]) -> str:
    frame, look = group[0], group[0].attributes.get
    parts = [f"{len(group)} image{'s' if len(group) > 1 else ''} of {frame.size[0]} x {frame.size[1]}", str(look("Modality", "?"))]
    if look("SeriesDescription") is not None:
        parts.append(repr(str(look("SeriesDescription"))))
    if frame.kind[2]:
        parts.append(f"component {frame.kind[2]}")
    echo = look("EchoTime", look("EffectiveEchoTime"))
    if echo is not None:
        parts.append(f"echo time {float(echo):g} ms")
    if frame.placed:
        normal = np.abs(np.cross(frame.row, frame.column))
        parts.append(("sagittal", "coronal", "axial")[int(normal.argmax())])
    return ", ".join([*parts, f"UID {frame.kind[0]}"])


def stacked(group: list[Frame], allow_gaps: bool) -> Stack:
    """The frames of one group in space. Raises `BadInput` for gaps (unless allowed), uneven steps and doubled slices."""
    if not group[0].placed:
        return _unplaced(group)
    places, by_place = _by_place(group)
    columns = _by_label(by_place)
    first = [column[0] for column in columns]
    indices = _indices(places, first, allow_gaps)
    planes = _planes(first, indices)
    times: list[list[Frame | None]] = [[None] * (indices[-1] + 1) for _ in columns[0]]
    for z, column in zip(indices, columns, strict=True):
        for time, frame in enumerate(column):
            times[time][z] = frame
    shape = (indices[-1] + 1, *group[0].size)
    grid = Grid(shape, affine_of(planes))
    if _says_unplaced(group[0]):
        grid = Grid.unplaced(shape, grid.spacing)
    return Stack(times, grid)


def _says_unplaced(frame: Frame) -> bool:
    """Written by us without a known orientation: its axes are a formality."""
    look = frame.attributes.get
    return look("Manufacturer") == "medrecon" and str(look("SeriesDescription", "")).startswith(UNPLACED)


def _unplaced(group: list[Frame]) -> Stack:
    """Frames without position: those of one file in their order (a cine), each a plane of unknown orientation."""
    files = {frame.file for frame in group}
    if len(files) > 1:
        names = ", ".join(sorted(file.name for file in files)[:3])
        raise NotSupported(
            f"{len(files)} images say no position in the patient ({names}, ...), so their order is unknown: read them one by one"
        )
    frame = group[0]
    return Stack([[one] for one in group], Grid.unplaced((1, *frame.size), (frame.thickness, *frame.spacing)))


def _by_place(group: list[Frame]) -> tuple[Vector, list[list[Frame]]]:
    """Distances along the normal in rising order (mm) and the frames at each. Names and instance numbers do not matter."""
    normal = np.cross(group[0].row, group[0].column)
    distance = np.array([frame.position @ normal for frame in group])
    order = np.argsort(distance, kind="stable")
    places: list[float] = []
    by_place: list[list[Frame]] = []
    for k in order:
        if not places or distance[k] - places[-1] > SAME_PLACE:
            places.append(float(distance[k]))
            by_place.append([])
        by_place[-1].append(group[k])
    return np.array(places), by_place


def _by_label(by_place: list[list[Frame]]) -> list[list[Frame]]:
    """The frames at each place in the order of the label that tells them apart; all places must have the same labels."""
    if all(len(frames) == 1 for frames in by_place):
        return by_place
    for name in by_place[0][0].labels:
        columns = []
        for frames in by_place:
            values = [frame.labels.get(name) for frame in frames]
            if None in values or len(set(values)) < len(values):
                break
            columns.append(sorted(frames, key=lambda frame: frame.labels[name]))  # type: ignore[arg-type,return-value]
        else:
            if len({tuple(frame.labels[name] for frame in column) for column in columns}) == 1:
                return columns
    one, other = next(frames for frames in by_place if len(frames) > 1)[:2]
    place = one.file.name if one.file != other.file else f"{one.file.name} frames {one.index + 1} and"
    raise BadInput(
        f"{place} and {other.file.name if one.file != other.file else other.index + 1} lie at the same place and nothing tells them apart "
        "consistently (time, b-value, acquisition): remove the copies, or separate the acquisitions"
    )


def _indices(places: Vector, frames: list[Frame], allow_gaps: bool) -> list[int]:
    """The slice number of each place: 0, 1, 2, ... unless slices are missing and that is allowed."""
    if len(places) == 1:
        return [0]
    steps = np.diff(places)
    step = float(np.sort(steps)[(len(steps) - 1) // 2])
    tolerance = max(1e-3 * step, 0.01)
    jumps = np.maximum(1, np.rint(steps / step)).astype(int)
    uneven = np.flatnonzero(np.abs(steps - jumps * step) > tolerance * jumps)
    if uneven.size:
        k = int(uneven[0])
        raise BadInput(
            f"slices are unevenly spaced: {steps[k]:.4g} mm between {frames[k].file.name} and {frames[k + 1].file.name}, "
            f"{step:.4g} mm elsewhere; medrecon needs equal steps: read a part of them, or resample with another tool"
        )
    indices = [0, *np.cumsum(jumps).tolist()]
    for k in np.flatnonzero(jumps > 1).tolist():
        first, last = indices[k] + 2, indices[k + 1]
        which = f"slice {first} of {indices[-1] + 1} is" if first == last else f"slices {first} to {last} of {indices[-1] + 1} are"
        problem = (
            f"{which} missing between {frames[k].file.name} (z={places[k]:.1f}) and {frames[k + 1].file.name} (z={places[k + 1]:.1f}); "
            f"spacing is {step:.4g} mm"
        )
        if not allow_gaps:
            raise BadInput(f"{problem}. Give the file{'' if first == last else 's'}, or allow gaps (allow_gaps=True)")
        log.warning("%s: filled with the lowest value of the volume", problem)
    return indices


def _planes(frames: list[Frame], indices: list[int]) -> Planes:
    """The planes with the exact step from the first to the last position, which a tilted gantry turns from the normal."""
    frame = frames[0]
    row, column = frame.row, frame.column
    positions = np.array([one.position for one in frames])
    if len(frames) == 1:
        return Planes(row, column, frame.spacing, np.cross(row, column) * frame.thickness, positions)
    step = (positions[-1] - positions[0]) / indices[-1]
    aside = np.linalg.norm(positions - positions[0] - np.outer(indices, step), axis=1)
    length = float(np.linalg.norm(step))
    if aside.max() > max(1e-3 * length, 0.01) * 2:
        k = int(aside.argmax())
        raise BadInput(f"{frames[k].file.name} lies {aside[k]:.3g} mm beside the line of the other slices: no single volume")
    return Planes(row, column, frame.spacing, step, positions)
