"""One run of a recipe: noise levels, the prior with its plug-ins, the start, and the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.consistency.explained import Explained
from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.iterate import Step, run
from medrecon.linop.resample import Enlarge
from medrecon.prior.counted import Counted
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.start import offset_draw
from medrecon.recon.plugins import Plugins
from medrecon.solvers.classical import least_squares, zero_filled
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norm
from medrecon.tensors import Draw, complex_dtype, generator_for, real_dtype, seeded_draw, unit_noise

if TYPE_CHECKING:
    from medrecon.recon.recipe import Recipe

START = 20.0
"""The first noise level in units of the prior's standard deviation: it must drown the image."""
FINEST = 0.05
"""The last noise level in the same units is at most this, and at most half of the data's noise seen in the image."""


@dataclass(frozen=True)
class Trajectory:
    """A recipe on its way: `x` (draws, *batch, *image) is zero and gives shape, dtype and device. `gain`: about |A|.

    `begin`: an image that broadcasts to x, to begin from instead of what the plug-in `start` says (classical methods: of zero).
    """

    ready: Recipe
    likelihood: Likelihood
    prior: Prior | None
    x: Tensor
    draw: Draw
    gain: float | None
    coarse_keys: Sequence[object]
    seed: int
    begin: Tensor | None = None

    @cached_property
    def plugins(self) -> Plugins:
        return self.ready.plugins()

    @cached_property
    def counted(self) -> Counted | None:
        """The prior; counts what the plug-ins around it really ask of it."""
        return None if self.prior is None or "prior" not in self.ready.needs else Counted(self.plugins.lightened(self.prior))

    @property
    def evaluations(self) -> float:
        """Evaluations of the prior for each draw of each image."""
        if self.counted is None:
            return 0.0
        # A volume counts as many images as a 2-D prior sees in it.
        return round(self.counted.images / self.x.shape[: self.x.ndim - self.counted.image_axes].numel(), 2)

    @cached_property
    def levels(self) -> Tensor:
        """Noise levels, high to low, then 0; one 0 where there is no prior."""
        if self.counted is None:
            return self.x.new_zeros(1)
        low, high = noise_range(self.likelihood, self.counted, self.gain)
        if self.plugins.start != "noise" or self.begin is not None:
            high = min(high, max(self.plugins.start_sigma * self.counted.data_std, 2 * low))
        return self.plugins.levels(self.ready.schedule, int(self.ready.settings["steps"]), high, low)

    @property
    def limit(self) -> int:
        """The most steps that will be made."""
        return int(self.ready.settings["steps"]) if self.ready.iteration is not None else len(self.levels) - 1

    def steps(self) -> Iterator[Step]:
        ready, prior = self.ready, None if self.counted is None else self.plugins.around(self.counted, drawn=self.ready.spread is not None)
        if ready.iteration is not None:
            x = self.start() if ready.kind == "classical" and self.begin is not None else self.x
            return ready.iteration(prior, self.likelihood, x, self.levels, self.draw, **ready.settings_for(ready.iteration))
        assert ready.consistency is not None
        assert ready.sampler is not None
        assert prior is not None
        both = ready.consistency(prior, self.likelihood, **ready.settings_for(ready.consistency))
        if self.plugins.discrepancy > 0 and isinstance(both, Consistency):
            both = Explained(both, threshold=self.plugins.discrepancy)
        draw = self.draw
        if self.plugins.offset_noise > 0 and isinstance(both, Consistency):
            # Images get the noise that the prior was trained with, data their own.
            both, draw = WhiteData(both, self.draw), offset_draw(self.draw, self.plugins.offset_noise, prior.image_axes)
        begin = self.start() + self.levels[0] * draw(self.x)
        return ready.sampler(both, begin, self.levels, draw, **ready.settings_for(ready.sampler))

    @property
    def until(self) -> Callable[[Step], bool] | None:
        """Stops an iteration whose image explains the data, where that was asked for."""
        threshold = self.plugins.discrepancy
        if self.ready.iteration is None or not threshold > 0:
            return None
        return lambda step: bool((self.likelihood.chi2(step.x) <= threshold).all())

    def start(self) -> Tensor:
        """The image that the first noise is added to, like x."""
        starts: dict[str, Callable[[], Tensor]] = {
            "noise": lambda: self.x,
            "adjoint": lambda: run(zero_filled(self.likelihood, self.x)).x,
            "least_squares": lambda: run(least_squares(self.likelihood, self.x, tolerance=1e-3), limit=10).x,
            "coarse": self._coarse,
        }
        if self.begin is not None:
            return self.begin.to(self.x).expand_as(self.x)
        name = self.plugins.start
        if name not in starts:
            raise BadInput(f"start = {name!r}: there are {', '.join(starts)}{nearest(name, list(starts))}")
        return starts[name]().expand_as(self.x)

    def _coarse(self) -> Tensor:
        """The same method on half as many pixels along each axis of the prior's images, enlarged."""
        assert self.prior is not None
        gaussian = linear(self.likelihood, "start=coarse")
        kept = len(gaussian.domain) - self.prior.image_axes
        small = (*gaussian.domain[:kept], *(-(-n // 2) for n in gaussian.domain[kept:]))
        if min(small[kept:]) < 16:
            raise NotSupported(f"start=coarse: half of {gaussian.domain} is too small for the prior: use start=least_squares")
        enlarge = Enlarge(small, gaussian.domain)
        lead = self.x.shape[: self.x.ndim - len(gaussian.domain)]
        draws = self.x.shape[0]
        draw = seeded_draw(self.seed, [(s, k) for s in range(draws) for k in self.coarse_keys], lead)
        ready = self.ready.with_settings({"start": "noise"})
        coarse = Trajectory(
            ready, Gaussian(gaussian.A @ enlarge, gaussian.y), self.counted, self.x.new_zeros(*lead, *small), draw, self.gain, (), self.seed
        )
        return enlarge(run(coarse.steps(), limit=coarse.limit).x)


class WhiteData(Consistency):
    """The estimate of `step`, whose own noise (of perturbed data, of inner chains) comes from `white`."""

    def __init__(self, step: Consistency, white: Draw) -> None:
        super().__init__(step.prior, step.likelihood)
        self.step, self.white, self.remembers = step, white, step.remembers

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        return self.step.estimate(noisy, sigma, lower, self.white)


def noise_range(likelihood: Likelihood, prior: Prior, gain: float | None = None) -> tuple[float, float]:
    """The last and first noise level: fine enough for the data's noise, coarse enough to drown the image.

    `gain`: about |A|; measured where it is not given, and then the largest of the batch.
    """
    smallest, largest = prior.sigma_range
    size = gain if gain is not None else _gain(likelihood, prior)
    finest = FINEST * prior.data_std
    low = max(smallest, min(finest, 0.5 / size) if size > 0 else finest)
    return low, max(min(largest, START * prior.data_std), 2 * low)


def _gain(likelihood: Likelihood, prior: Prior) -> float:
    """|A|, or that of the operator linearised at a random image of the prior's size."""
    if not isinstance(likelihood, Gaussian):
        y = likelihood.y
        dtype = complex_dtype(y.dtype) if prior.field == "complex" else real_dtype(y.dtype)
        somewhere = prior.data_std * unit_noise(likelihood.domain, dtype, generator_for(0, "gain")).to(y.device)
        try:
            likelihood = likelihood.linearised(somewhere)
        except NotSupported:
            return 0.0  # a black box: the finest level is the prior's own
    return norm(likelihood.A, like=likelihood.back)
