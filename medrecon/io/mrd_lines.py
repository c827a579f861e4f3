"""Where each MRD line lies in k-space, and k-space put together from the file slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.io import hdf5
from medrecon.io.mrd_header import Encoding
from medrecon.io.sampling import true_rank


@dataclass(frozen=True)
class Lines:
    """Lines of the chosen slices. All arrays have one entry a line, ordered by slice and then by place in the file.

    `record`: number in the file; `slot`: slice from 0; `z`, `y`: position in the matrix; `samples`: (line, 2) first and last + 1
    sample kept, in the order of rising kx; `x`: matrix column of the first one; `reverse`: measured backwards.
    `matrix`: ([z,] y, x). `mirrored`: every encoded axis runs the other way about its centre.
    """

    record: NDArray[np.int64]
    slot: NDArray[np.int64]
    z: NDArray[np.int64]
    y: NDArray[np.int64]
    samples: NDArray[np.int64]
    x: NDArray[np.int64]
    reverse: NDArray[np.bool_]
    counts: NDArray[np.int64]
    n_slots: int
    n_coils: int
    matrix: tuple[int, ...]
    mirrored: bool

    @property
    def fewest_repeats(self) -> int:
        """How often the least measured position was measured."""
        return int(self.counts[self.counts > 0].min())

    @property
    def most_repeats(self) -> int:
        """How often the most measured position was measured."""
        return int(self.counts.max())

    def mask(self) -> Tensor:
        """The one mask of all slices, bool of true rank."""
        sampled = torch.from_numpy(self.counts > 0)
        return true_rank(sampled, len(self.matrix), accidental=0)


def placed_lines(
    heads: NDArray[Any],
    chosen: NDArray[Any],
    encoding: Encoding,
    slices: Sequence[int],
    flags: Mapping[str, int],
    mirrored: bool,
    where: str,
) -> Lines:
    """The lines `chosen` (numbers in the file) of the slice counters `slices`, placed by the header's limits.

    Line n lies at n - center + N//2. A line's sample `center_sample` is k = 0, counted in the order of rising kx (as
    Gadgetron and MRpro take it for reversed lines); discarded samples are dropped. Raises `BadInput` for lines outside the
    matrix and `NotSupported` when slices are sampled differently.
    """
    nx, ny, nz = encoding.encoded.matrix
    slots = {number: slot for slot, number in enumerate(slices)}
    numbers = heads["idx"]["slice"][chosen]
    chosen = np.array([record for record, number in zip(chosen, numbers, strict=True) if int(number) in slots], np.int64)
    head = heads[chosen]
    slot = np.array([slots[int(number)] for number in head["idx"]["slice"]], np.int64)
    order = np.lexsort((chosen, slot))
    chosen, head, slot = chosen[order], head[order], slot[order]
    coils = np.unique(head["active_channels"])
    if len(coils) != 1 or coils[0] < 1:
        raise BadInput(f"{where}: lines have {', '.join(map(str, coils))} coils, expected one number for all")
    y = _steps(head["idx"]["kspace_encode_step_1"], encoding, "kspace_encoding_step_1", ny, chosen, where)
    z = _steps(head["idx"]["kspace_encode_step_2"], encoding, "kspace_encoding_step_2", nz, chosen, where)
    reverse = (head["flags"] & np.uint64(flags["IS_REVERSE"])) != 0
    samples, x = _columns(head, reverse, nx, chosen, where)
    matrix = (nz, ny, nx) if nz > 1 else (ny, nx)
    counts = _counts(slot, z, y, x, samples, len(slots), (nz, ny, nx), where)
    lines = Lines(chosen, slot, z, y, samples, x, reverse, counts, len(slots), int(coils[0]), matrix, mirrored)
    if mirrored:
        counts = _mirrored(torch.from_numpy(counts), 3).numpy()
    return Lines(**{**vars(lines), "counts": counts.reshape(matrix)})


@dataclass(frozen=True)
class LineSlices:
    """k-space (slice, coil, ([z,] y, x)) complex64, put together from its lines when it is read; repeats are averaged."""

    path: Path
    group: str
    lines: Lines
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, group: str, lines: Lines) -> LineSlices:
        """All slices of `lines`."""
        return cls(path, group, lines, (lines.n_slots, lines.n_coils, *lines.matrix))

    def __getitem__(self, index: slice) -> Tensor:
        slots = range(*index.indices(self.lines.n_slots))
        blocks = [self._slice(slot) for slot in slots]
        return torch.stack(blocks) if blocks else torch.zeros((0, *self.shape[1:]), dtype=torch.complex64)

    def _slice(self, slot: int) -> Tensor:
        lines = self.lines
        matrix = lines.matrix if len(lines.matrix) == 3 else (1, *lines.matrix)
        kspace = np.zeros((lines.n_coils, *matrix), np.complex64)
        repeats = np.zeros(matrix, np.float32)
        members = np.flatnonzero(lines.slot == slot)
        with hdf5.opened(self.path) as file:
            data = file[self.group]["data"].fields("data")
            for first, last in _runs(lines.record[members]):
                records = data[int(lines.record[members[first]]) : int(lines.record[members[last - 1]]) + 1]
                for member, record in zip(members[first:last], records, strict=True):
                    line = self._line(member, record)
                    place = (lines.z[member], lines.y[member], slice(lines.x[member], lines.x[member] + line.shape[1]))
                    kspace[(slice(None), *place)] += line
                    repeats[place] += 1
        kspace /= np.maximum(repeats, 1)
        whole = torch.from_numpy(kspace)
        whole = _mirrored(whole, 3) if lines.mirrored else whole
        return whole.reshape(self.shape[1:])

    def _line(self, member: int, record: Any) -> NDArray[np.complex64]:
        """(coil, sample) in the order of rising kx without discarded samples."""
        values = np.asarray(record, np.float32)
        coils = self.lines.n_coils
        first, last = (int(n) for n in self.lines.samples[member])
        if values.size % (2 * coils) or values.size // (2 * coils) < last:
            raise BadInput(f"{self.path}: acquisition {self.lines.record[member]} holds {values.size // 2} samples: cut short or damaged")
        line = values.view(np.complex64).reshape(coils, -1)
        line = line[:, ::-1] if self.lines.reverse[member] else line
        kept: NDArray[np.complex64] = line[:, first:last]
        return kept


def _steps(counter: NDArray[Any], encoding: Encoding, name: str, n: int, records: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Matrix positions of an encoding counter."""
    limit = encoding.limits.get(name)
    position = counter.astype(np.int64) - (limit.center if limit else n // 2) + n // 2
    wrong = np.flatnonzero((position < 0) | (position >= n))
    if wrong.size:
        raise BadInput(
            f"{where}: acquisition {records[wrong[0]]} has {name} {counter[wrong[0]]}, which lies outside the matrix of {n} "
            f"(centre {limit.center if limit else n // 2}): the header does not fit the data"
        )
    return position


def _columns(
    head: NDArray[Any], reverse: NDArray[np.bool_], nx: int, records: NDArray[Any], where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, last + 1) sample kept of each line in rising kx, and the matrix column of the first."""
    n, pre, post, centre = (head[name].astype(np.int64) for name in ("number_of_samples", "discard_pre", "discard_post", "center_sample"))
    first = np.where(reverse, post, pre)
    last = n - np.where(reverse, pre, post)
    x = first - centre + nx // 2
    wrong = np.flatnonzero((first >= last) | (x < 0) | (x + last - first > nx))
    if wrong.size:
        i = wrong[0]
        raise BadInput(
            f"{where}: acquisition {records[i]} has {n[i]} samples with its centre at {centre[i]} (discarded: {pre[i]} before, {post[i]} "
            f"after), which does not fit a readout of {nx}: the header does not fit the data"
        )
    return np.stack([first, last], 1), x


def _counts(
    slot: NDArray[Any],
    z: NDArray[Any],
    y: NDArray[Any],
    x: NDArray[Any],
    samples: NDArray[Any],
    n_slots: int,
    matrix: tuple[int, int, int],
    where: str,
) -> NDArray[np.int64]:
    """How often each position was measured, (z, y, x), the same in every slice."""
    reference: NDArray[np.int64] | None = None
    for index in range(n_slots):
        counts = np.zeros(matrix, np.int64)
        for member in np.flatnonzero(slot == index):
            counts[z[member], y[member], x[member] : x[member] + samples[member, 1] - samples[member, 0]] += 1
        if reference is None:
            reference = counts
        elif not np.array_equal(reference > 0, counts > 0):
            missing = int(((reference > 0) != (counts > 0)).any(-1).sum())
            raise NotSupported(
                f"{where}: slices 0 and {index} differ in {missing} sampled lines (an interrupted scan?): "
                "medrecon takes one mask for all slices"
            )
        else:
            reference = np.minimum(reference, counts)
    if reference is None or not reference.any():
        raise BadInput(f"{where}: no line was sampled")
    return reference


def _mirrored(array: Tensor, axes: int) -> Tensor:
    """Index n to (2 (N//2) - n) mod N on the last `axes` axes: the image is mirrored about its centre, phases keep their sign."""
    for axis in range(-axes, 0):
        n = array.shape[axis]
        index = (2 * (n // 2) - torch.arange(n)) % n
        array = array.index_select(axis, index)
    return array


def _runs(records: NDArray[Any]) -> list[tuple[int, int]]:
    """(first, last + 1) of stretches of consecutive records, so that the file is read in blocks."""
    runs = []
    for _, group in groupby(enumerate(records), key=lambda pair: int(pair[1]) - pair[0]):
        members = [position for position, _ in group]
        runs.append((members[0], members[-1] + 1))
    return runs
