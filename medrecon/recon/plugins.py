"""What the driver can put around any method: other samplers and schedules, faster or larger priors, starts and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.iterate import Step
from medrecon.prior.cache import Cached
from medrecon.prior.denoiser import Prior
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.quantise import quantised
from medrecon.prior.schedule import cosine_levels, edm_levels, flow_levels, log_levels, quad_levels, ve_levels, vp_levels
from medrecon.prior.tiles import Tiled
from medrecon.prior.time_shift import TimeShifted
from medrecon.sample.adaptive import adaptive
from medrecon.sample.ancestral import ancestral, euler, flow_noise, renoise
from medrecon.sample.fixed_point import parallel
from medrecon.sample.gradient import gradient_estimation
from medrecon.sample.heun import heun
from medrecon.sample.langevin import annealed_langevin, predictor_corrector
from medrecon.sample.multistep import adams_bashforth, multistep
from medrecon.sample.pndm import pndm
from medrecon.sample.travel import travelled

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "euler": euler,
    "ancestral": ancestral,
    "renoise": renoise,
    "flow_noise": flow_noise,
    "heun": heun,
    "multistep": multistep,
    "adams_bashforth": adams_bashforth,
    "pndm": pndm,
    "gradient_estimation": gradient_estimation,
    "adaptive": adaptive,
    "predictor_corrector": predictor_corrector,
    "annealed_langevin": annealed_langevin,
    "parallel": parallel,
}

SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "edm": edm_levels,
    "log": log_levels,
    "ve": ve_levels,
    "vp": vp_levels,
    "quad": quad_levels,
    "cosine": cosine_levels,
    "flow": flow_levels,
}


@dataclass(frozen=True)
class Plugins:
    """Settings that every method with a prior takes; "pairs_only": not those that are an iteration of their own.

    `sampler`, `schedule`: names of another sampler and of other noise levels (None: the recipe's).
    `time_travel`: each time so many levels are done, go back as many with fresh noise (0: never) and do them again until they
    were done `travels` times; about `travels` times as many evaluations.
    `cache`: evaluate the prior only at every so many levels and extrapolate between (1: always).
    `time_shift`: how far the noise level told to the prior may be corrected by the variance seen, as a share (0: not at all).
    `offset_noise`: rho of a prior that was trained with offset noise (0: white noise).
    `bits`: 8 keeps the prior's weights in 8 bits (32: as they are). `tile`: run the prior on tiles of so many pixels (0: whole).
    `start`: "noise", "adjoint" (A^H y), "least_squares" or "coarse" (the same method on a grid of half the size first); other
    than "noise" they start at the noise level `start_sigma`, in units of the prior's standard deviation.
    `discrepancy`: where chi^2 per datum of the denoised image is below this, the data are explained and pull no more (0: off;
    1 is Morozov's principle); an iteration stops there.
    """

    sampler: str | None = field(default=None, metadata={"pairs_only": True})
    schedule: str | None = None
    time_travel: int = field(default=0, metadata={"pairs_only": True})
    travels: int = field(default=2, metadata={"pairs_only": True})
    cache: int = field(default=1, metadata={"pairs_only": True})
    time_shift: float = 0.0
    offset_noise: float = field(default=0.0, metadata={"pairs_only": True})
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
        levels = chosen(steps, high, low)
        return travelled(levels, length=self.time_travel, repeats=self.travels) if self.time_travel else levels

    def lightened(self, prior: Prior) -> Prior:
        """The prior with its weights in 8 bits, where that was asked for."""
        if self.bits == 32:
            return prior
        if not isinstance(prior, NetworkPrior):
            raise NotSupported(f"bits = 8: {type(prior).__name__} has no network whose weights could be kept in 8 bits")
        return quantised(prior)

    def around(self, prior: Prior, *, drawn: bool = False) -> Prior:
        """The prior with what was asked for around it, made fresh for one run. `drawn`: the method draws from the posterior."""
        if self.tile:
            # A cache would extrapolate what moving tiles change.
            prior = Tiled(prior, self.tile, offset=0 if self.cache > 1 else None)
        if self.time_shift:
            prior = TimeShifted(prior, window=self.time_shift)
        # A line through two answers also prolongs the fresh noise in them, which widens the spread of draws by a tenth.
        return Cached(prior, every=self.cache, order=1 if drawn else 2) if self.cache > 1 else prior
