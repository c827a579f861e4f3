"""What the driver can put around any method: other samplers and schedules, faster or larger priors, starts and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels, vp_levels
from medrecon.sample.ancestral import ancestral, renoise
from medrecon.sample.multistep import multistep

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {"ancestral": ancestral, "renoise": renoise, "multistep": multistep}

SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {"edm": edm_levels, "vp": vp_levels}


@dataclass(frozen=True)
class Plugins:
    """Settings that every method with a prior takes; "pairs_only": not those that are an iteration of their own.

    `sampler`, `schedule`: names of another sampler and of other noise levels (None: the recipe's).
    `time_travel`: go back so many levels with fresh noise each time so many are done (0: never), `travels` times.
    `cache`: evaluate the prior only at every so many levels and extrapolate between (1: always).
    `time_shift`: how far the noise level told to the prior may be corrected by the variance seen, as a share (0: not at all).
    `bits`: 8 keeps the prior's weights in 8 bits (32: as they are). `tile`: run the prior on tiles of so many pixels (0: whole).
    `start`: "noise", "adjoint" (A^H y), "least_squares" or "coarse" (the same method on a grid of half the size first); other
    than "noise" they start at the noise level `start_sigma`, in units of the prior's standard deviation.
    `discrepancy`: where chi^2 per datum of the denoised image is below this, the data are explained and pull no more (0: off;
    1 is Morozov's principle); an iteration stops there.
    """

    sampler: str | None = field(default=None, metadata={"pairs_only": True})
    schedule: str | None = None
    time_travel: int = field(default=0, metadata={"pairs_only": True})
    travels: int = field(default=1, metadata={"pairs_only": True})
    cache: int = field(default=1, metadata={"pairs_only": True})
    time_shift: float = 0.0
    bits: int = 32
    tile: int = 0
    start: str = field(default="noise", metadata={"pairs_only": True})
    start_sigma: float = field(default=1.0, metadata={"pairs_only": True})
    discrepancy: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in (8, 32):
            raise BadInput(f"bits = {self.bits}: expected 8 or 32")
        if self.cache < 1 or self.tile < 0 or self.time_travel < 0 or self.travels < 1:
            raise BadInput(
                f"cache = {self.cache}, tile = {self.tile}, time_travel = {self.time_travel}, travels = {self.travels}: "
                "expected cache and travels of at least 1, the others 0 (off) or more"
            )
        if not 0 <= self.time_shift < 1 or not self.start_sigma > 0 or not self.discrepancy >= 0:
            raise BadInput(
                f"time_shift = {self.time_shift}, start_sigma = {self.start_sigma}, discrepancy = {self.discrepancy}: "
                "expected 0 <= time_shift < 1, start_sigma > 0, discrepancy >= 0"
            )

    def levels(self, schedule: Callable[[int, float, float], Tensor], steps: int, high: float, low: float) -> Tensor:
        """The noise levels, by the chosen schedule or the given one, with the ways back in time."""
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise BadInput(f"no schedule {self.schedule!r}: there are {', '.join(SCHEDULES)}{nearest(self.schedule, list(SCHEDULES))}")
        chosen = schedule if self.schedule is None else SCHEDULES[self.schedule]
        return chosen(steps, high, low)

    def lightened(self, prior: Prior) -> Prior:
        """The prior with its weights in 8 bits, where that was asked for."""
        return prior

    def around(self, prior: Prior) -> Prior:
        """The prior with what was asked for around it, made fresh for one run."""
        return prior
