"""Scan and Problem: what was measured, where, in which units; and the inverse problem made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.solvers.likelihood import Likelihood
from medrecon.volume import Grid, Volume


class SliceArray(Protocol):
    """An array that is read by slices of its first axis: a tensor, or data still in a file.

    `array[a:b]` gives the tensor of those slices; `shape` is known without reading.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: slice) -> Tensor: ...


@dataclass(frozen=True)
class SlicePart:
    """Slices start..stop of another array, still unread."""

    whole: SliceArray
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.whole.shape[1:])

    def __getitem__(self, index: slice) -> Tensor:
        start, stop, step = index.indices(self.stop - self.start)
        return self.whole[self.start + start : self.start + stop : step]


class Expert(Protocol):
    """What a scan asks of a prior: how its images map to physical values, and how bright they are at low resolution."""

    @property
    def units(self) -> Any: ...

    def scale(self, calib_lines: int | None) -> float: ...


def itself(image: Tensor) -> Tensor:
    """The image as it is."""
    return image


def bounds(slices: slice, count: int) -> tuple[int, int]:
    """(start, stop) of a non-empty range of `count` slices; raises `BadInput` for others."""
    start, stop, step = slices.indices(count)
    if step != 1 or stop <= start:
        raise BadInput(f"slices {slices} of {count}: expected a non-empty range with step 1")
    return start, stop


@dataclass(frozen=True)
class Problem:
    """One batch of slices (or a volume) to be solved, in the prior's units and with noise of unit variance.

    `likelihood.y` is whitened; image in scan units = `scale` * image in prior units. `slices`: the range of the whole
    scan that this batch fills, along the axis before the image; `arrange` brings such a stack to (z, y, x). `display`:
    solved unknowns (..., *domain) to images, identity unless several images share a pixel (map sets, coils). `grid`:
    the grid of this batch after `crop`, which cuts the solved field of view to the one to be shown. `facts`: what
    calibration found, printed and stored. `gain`: about |A| of the whitened operator, one number for the whole scan. `begin`: a quick
    image in prior units, from which classical iterations start. `whole`: the grid of
    all batches together, where it is not the scan's. `units`, `modality`: of the volume, see `Volume`.
    """

    likelihood: Likelihood
    grid: Grid
    scale: float
    noise_std: float
    slices: range
    facts: Mapping[str, Any] = field(default_factory=dict)
    display: Callable[[Tensor], Tensor] = itself
    crop: Callable[[Tensor], Tensor] = itself
    arrange: Callable[[Tensor], Tensor] = itself
    study: Mapping[str, Any] = field(default_factory=dict)
    gain: float | None = None
    begin: Callable[[], Tensor] | None = None
    whole: Grid | None = None
    units: str = "arbitrary"
    modality: str = "MR"

    def shown(self, image: Tensor) -> Tensor:
        """Solved unknowns in prior units to images in scan units, cropped: (..., slice, *domain) -> (..., z, y, x)."""
        return self.crop(self.display(image)) * self.scale

    def to_volume(self, image: Tensor) -> Volume:
        """The volume of a solution in prior units."""
        return self.volume(self.arrange(self.shown(image)), self.grid, {"calibration": dict(self.facts)})

    def volume(self, image: Tensor, grid: Grid, provenance: Mapping[str, Any]) -> Volume:
        """An image (z, y, x) in scan units as a volume on a grid of this scan."""
        return Volume(image, grid, self.units, self.modality, self.study, provenance)


@dataclass(frozen=True)
class Scan(ABC):
    """Raw data with its geometry and header. Data may still be in the file and are read by slice.

    `simulated`: made from an image, so results on it look better than on measured data.
    """

    grid: Grid
    source: Path | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False

    @property
    @abstractmethod
    def modality(self) -> str:
        """ "mri", "ct" or "ultrasound"."""

    @property
    @abstractmethod
    def n_slices(self) -> int:
        """How many slices (volumes) `select` chooses from."""

    @property
    def n_items(self) -> int:
        """How many images are solved one by one in all."""
        return self.n_slices

    @abstractmethod
    def select(self, slices: slice) -> Scan:
        """The scan with a part of its slices, in their place."""

    @abstractmethod
    def settings(self) -> list[str]:
        """What a user may set of `problems`."""

    def suited(self, prior: Expert) -> dict[str, Any]:
        """Settings of `problems` that bring images into a prior's units."""
        return {}

    @abstractmethod
    def item_bytes(self, domain: tuple[int, ...], copies: int, settings: Mapping[str, Any]) -> int:
        """Memory that one image of shape `domain` takes with its data, prepared with `settings`; `copies`: solved at once."""

    def probe(self, settings: Mapping[str, Any]) -> tuple[Scan, dict[str, Any]]:
        """A scan and settings like these of about one image, to measure what the whole takes."""
        middle = self.n_slices // 2
        return self.select(slice(middle, middle + 1)), dict(settings)

    @abstractmethod
    def problems(self, budget: int | None = None, device: torch.device | str = "cpu", **settings: Any) -> Iterator[Problem]:
        """Streams the batches of slices that fit `budget` bytes; every batch has the scan's one scale and noise."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Shapes, axes, units and facts for people and JSON, without reading all data."""

    def prepare(self, device: torch.device | str = "cpu", **settings: Any) -> Problem:
        """The only item of `problems`, for scans that fit into memory at once."""
        problems = list(self.problems(None, device, **settings))
        if len(problems) != 1:
            raise NotSupported(f"the scan needs {len(problems)} batches: loop over scan.problems(), or select slices first")
        return problems[0]
