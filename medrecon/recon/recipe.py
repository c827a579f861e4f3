"""Recipe: one method as a pair (consistency, sampler) or one iteration, with its settings, presets and reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.recon.plugins import SAMPLERS, Plugins

Iteration = Callable[..., Iterator[Step]]
"""(prior, likelihood, x, sigmas, draw, **settings) -> steps: sees both prior and data."""

Bias = tuple[float, float, float] | tuple[float]
"""Against an exact posterior: error of the mean in posterior standard deviations and, for methods that draw, the ratio of the
standard deviation in measured and in unmeasured directions."""


@dataclass(frozen=True)
class Recipe:
    """One method.

    Either `consistency` and `sampler`, or `iteration`. A user may set whatever those take by keyword, the driver's `steps`
    and `average` (draws per sample) and the plug-ins (`Plugins`); defaults are those of the signatures, but for `settings`.
    `presets`: settings that differ; `parts`: fields (consistency, sampler, iteration, schedule, spread, kind) that differ, by
    preset. `preparation`: how scans are prepared.

    `needs`: "prior", "noise" (a positive level), "linear" (linear operator, Gaussian noise), "spectrum" (the eigenbasis of
    A^H A), "jacobian" (differentiates the prior), "volume" (3-D images), "series" (an axis of echoes, times or energies).
    `kind`: "classical" (no randomness), "sampler" (draws spread like the posterior), "biased" (random, but the spread is
    not the posterior's), "point" (an estimate). `spread`: factor from the spread of its draws to the posterior's, None where
    it says nothing about uncertainty. `bias`: measured, see `Bias`; None where there is nothing random to compare.
    `evaluations`: of the prior, for each level and draw. `remedy`: what to change when a run diverges.
    """

    name: str
    summary: str
    reference: str
    kind: str
    good_for: str = ""
    evaluations: str = "1"
    consistency: Callable[..., Prior] | None = None
    sampler: Callable[..., Iterator[Step]] | None = None
    iteration: Iteration | None = None
    schedule: Callable[[int, float, float], Tensor] = edm_levels
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)
    spread: float | None = None
    bias: Bias | None = None
    remedy: str = "raise steps, or noise_std if it is too low"

    def default_preset(self, samples: int) -> str | None:
        """The preset for so many samples, where there are presets: "sample" for several, else the first."""
        if not self.presets:
            return None
        return "sample" if samples > 1 and "sample" in self.presets else next(iter(self.presets))

    def with_preset(self, preset: str | None) -> Recipe:
        """The recipe with all its settings and the preset's parts in place."""
        if preset is not None and preset not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise BadInput(f"method {self.name} has no preset {preset!r}: there are {known}{nearest(preset, list(self.presets))}")
        chosen, parts = (self.presets[preset], self.parts.get(preset, {})) if preset is not None else ({}, {})
        ready = replace(self, presets={}, parts={}, **parts)
        known_settings = ready.defaults()
        given = {name: value for name, value in {**self.settings, **chosen}.items() if name in known_settings}
        return replace(ready, settings={**known_settings, **given})

    def with_settings(self, given: Mapping[str, Any]) -> Recipe:
        """The ready recipe with a user's settings; an unknown name or a value of another kind is an error that says what fits.

        Draws with another share of fresh noise than the recipe's own have no known spread.
        """
        ready = self.with_sampler(given.get("sampler"))
        for name, value in given.items():
            if name not in ready.settings:
                known = ", ".join(ready.settings) or "none"
                raise BadInput(f"method {ready.name} has no setting {name!r}: there are {known}{nearest(name, list(ready.settings))}")
            _check_kind(name, value, ready.settings[name])
        calibrated = given.get("eta", ready.settings.get("eta")) == ready.settings.get("eta")
        return replace(ready, settings={**ready.settings, **given}, spread=ready.spread if calibrated else None)

    def with_sampler(self, name: str | None) -> Recipe:
        """The ready recipe with another sampler and its settings; itself for None."""
        if name is None:
            return self
        if "sampler" not in self.settings:
            raise BadInput(f"method {self.name} is an iteration of its own: it takes no sampler")
        if name not in SAMPLERS:
            raise BadInput(f"no sampler {name!r}: there are {', '.join(SAMPLERS)}{nearest(name, list(SAMPLERS))}")
        other = replace(self, sampler=SAMPLERS[name], spread=None)
        known = other.defaults()
        return replace(other, settings={**known, **{key: value for key, value in self.settings.items() if key in known}})

    def defaults(self) -> dict[str, Any]:
        """Every setting with its default: the driver's, the plug-ins' where a prior is used, and those of the parts."""
        plugins: dict[str, Any] = {}
        if "prior" in self.needs:
            plugins = {f.name: f.default for f in fields(Plugins) if self.sampler is not None or not f.metadata.get("pairs_only")}
        return {"steps": 50, "average": 1, **plugins, **{k: v for part in self.functions() for k, v in _keywords(part).items()}}

    def functions(self) -> list[Callable[..., Any]]:
        """The parts that take settings."""
        return [part for part in (self.iteration, self.consistency, self.sampler) if part is not None]

    def settings_for(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The settings that a part takes by keyword."""
        return {name: self.settings[name] for name in _keywords(function) if name in self.settings}

    def told(self) -> dict[str, Any]:
        """The settings without plug-ins that are off."""
        off = {f.name: f.default for f in fields(Plugins)}
        return {name: value for name, value in self.settings.items() if name not in off or value != off[name]}

    def plugins(self) -> Plugins:
        """The plug-ins as set."""
        return Plugins(**{f.name: self.settings[f.name] for f in fields(Plugins) if f.name in self.settings})


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters with defaults that a person can type."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and isinstance(parameter.default, bool | int | float | str | None):
            found[name] = parameter.default
    return found


def _check_kind(name: str, value: object, default: object) -> None:
    """Raises `BadInput` unless `value` can stand where `default` does: a number, whole where it is; None where it is."""
    kind = {bool: bool, int: Integral, str: str}.get(type(default), Real)
    if default is None and isinstance(value, str):
        return  # a name where none was chosen: whoever looks it up says what there is
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not (fits or (kind is Real and isinstance(value, Tensor)) or (default is None and value is None)):
        expected = {bool: "true or false", Integral: "a whole number", str: "a text"}.get(kind, "a number")
        raise BadInput(f"setting {name} = {value!r}: expected {expected}, as in {name}={default}")
