"""The table of methods: each a pair (consistency, sampler) or one iteration, with its settings, presets and reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from medrecon.consistency.krylov import Decomposed
from medrecon.consistency.proximal import Perturbed, Proximal, noise_level, seen_error
from medrecon.errors import BadInput, nearest
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels, vp_levels
from medrecon.sample.ancestral import renoise
from medrecon.sample.multistep import multistep
from medrecon.solvers import classical
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw

DRIVER = ("steps", "average")
"""Settings of the driver itself: noise levels or iterations, and how many draws make one sample."""

Iteration = Callable[..., Iterator[Step]]
"""(prior, likelihood, x, sigmas, draw, **settings) -> steps: sees both prior and data."""


def _without_prior(solve: Callable[..., Iterator[Step]]) -> Iteration:
    """A classical solver (likelihood, x, **settings) as an `Iteration`, keeping its settings in sight."""

    def iteration(prior: Prior | None, likelihood: Likelihood, x: Tensor, sigmas: Tensor, draw: Draw, **settings: Any) -> Iterator[Step]:
        return solve(likelihood, x, **settings)

    iteration.__signature__ = inspect.signature(solve)  # type: ignore[attr-defined]
    iteration.__name__ = solve.__name__
    return iteration


@dataclass(frozen=True)
class Recipe:
    """One method.

    Either `consistency` and `sampler`, or `iteration`. `settings`: every setting a user may give, with its default;
    `steps` and `average` are the driver's, the others go to the function that has them. `presets`: settings that
    differ; `parts`: fields (consistency, sampler, schedule, spread) that differ, by preset. A preset has only those
    settings that one of its parts takes. `preparation`: how scans are
    prepared. `needs`: "prior", "noise". `kind`: "classical" (no randomness), "sampler" (calibrated spread), "point".
    `spread`: factor from the spread of its draws to the posterior's, None where it says nothing about uncertainty.
    """

    name: str
    summary: str
    reference: str
    kind: str
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

    def default_preset(self, samples: int) -> str | None:
        """The preset for so many samples, where there are presets: "sample" for several, else the first."""
        if not self.presets:
            return None
        return "sample" if samples > 1 and "sample" in self.presets else next(iter(self.presets))

    def with_preset(self, preset: str | None) -> Recipe:
        """The recipe with the preset's settings and parts in place."""
        if preset is None:
            return self
        if preset not in self.presets:
            known = ", ".join(self.presets) or "none"
            raise BadInput(f"method {self.name} has no preset {preset!r}: there are {known}{nearest(preset, list(self.presets))}")
        ready = replace(self, presets={}, parts={}, **self.parts.get(preset, {}))
        taken = ready.taken()
        settings = {name: value for name, value in {**self.settings, **self.presets[preset]}.items() if name in taken}
        return replace(ready, settings=settings)

    def with_settings(self, given: Mapping[str, Any]) -> Recipe:
        """The recipe with a user's settings; an unknown name or a value of another kind is an error that says what fits.

        Draws with another share of fresh noise than the recipe's own have no known spread.
        """
        for name, value in given.items():
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise BadInput(f"method {self.name} has no setting {name!r}: there are {known}{nearest(name, list(self.settings))}")
            _check_kind(name, value, self.settings[name])
        calibrated = given.get("eta", self.settings.get("eta")) == self.settings.get("eta")
        return replace(self, settings={**self.settings, **given}, spread=self.spread if calibrated else None)

    def taken(self) -> frozenset[str]:
        """The names of the settings that have an effect: the driver's and those that a part takes by keyword."""
        parts = (self.iteration,) if self.iteration is not None else (self.consistency, self.sampler)
        return frozenset({*DRIVER, *(name for part in parts if part is not None for name in _keywords(part))})

    def settings_for(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The settings that a part takes by keyword."""
        return {name: self.settings[name] for name in _keywords(function) if name in self.settings}


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]


def _check_kind(name: str, value: object, default: object) -> None:
    """Raises `BadInput` unless `value` can stand where `default` does: a number, whole where it is; None where it is."""
    kind = {bool: bool, int: Integral, str: str}.get(type(default), Real)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not (fits or (kind is Real and isinstance(value, Tensor)) or (default is None and value is None)):
        expected = {bool: "true or false", Integral: "a whole number", str: "a text"}.get(kind, "a number")
        raise BadInput(f"setting {name} = {value!r}: expected {expected}, as in {name}={default}")


_MEAN = partial(Proximal, variance=noise_level)
_DDS = {"cg_steps": 10, "cg_tolerance": 1e-3}

METHODS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="dds",
            summary="Decomposed diffusion sampling: denoise, then conjugate gradients on the data, level by level.",
            reference="Chung et al. 2024, arXiv:2303.05754; Zhang et al. 2024, arXiv:2407.01521; Zhu et al. 2023, arXiv:2305.08995",
            kind="sampler",
            consistency=_MEAN,
            sampler=renoise,
            needs=("prior", "noise"),
            settings={"steps": 50, "average": 4, "eta": 1.0, "gamma": 1.0, **_DDS},
            presets={
                "mmse": {"steps": 50, "average": 4},
                "sample": {"steps": 100, "average": 1},
                "paper": {"steps": 99, "average": 1, "eta": 0.85, "cg_steps": 5},
                "fast": {"steps": 16, "average": 1},
                "ode": {"steps": 30, "average": 1},
            },
            parts={
                "mmse": {"spread": 2**0.5},
                "sample": {"consistency": partial(Perturbed, variance=seen_error), "spread": 1.0},
                "paper": {"consistency": Decomposed, "schedule": vp_levels, "kind": "point"},
                "fast": {"kind": "point"},
                "ode": {"sampler": multistep, "kind": "point"},
            },
        ),
        Recipe(
            name="sense",
            summary="Regularised least squares by conjugate gradients.",
            reference="Pruessmann et al. 2001, doi:10.1002/mrm.1241",
            kind="classical",
            iteration=_without_prior(classical.least_squares),
            settings={"steps": 30, "weight": 0.0, "damping": 0.0, "tolerance": 1e-6},
        ),
        Recipe(
            name="l1_wavelet",
            summary="Sparse wavelet coefficients (Daubechies 2) by FISTA.",
            reference="Lustig, Donoho, Pauly 2007, doi:10.1002/mrm.21391",
            kind="classical",
            iteration=_without_prior(classical.wavelet_l1),
            needs=("noise",),
            settings={"steps": 100, "weight": None, "strength": 1.0, "wavelet": "db2", "levels": 4, "tolerance": 1e-4},
        ),
        Recipe(
            name="tv",
            summary="Isotropic total variation by a primal-dual iteration.",
            reference="Block, Uecker, Frahm 2007, doi:10.1002/mrm.21236",
            kind="classical",
            iteration=_without_prior(classical.total_variation),
            needs=("noise",),
            settings={"steps": 200, "weight": None, "strength": 1.0, "tolerance": 1e-4},
        ),
        Recipe(
            name="zero_filled",
            summary="The adjoint of the encoding applied to the data, coils combined by their maps.",
            reference="",
            kind="classical",
            iteration=_without_prior(classical.zero_filled),
            settings={"steps": 1},
        ),
        Recipe(
            name="rss",
            summary="Root of the sum of squares of the coil images, as fastMRI's targets are made; needs no maps.",
            reference="Roemer et al. 1990, doi:10.1002/mrm.1910160203",
            kind="classical",
            iteration=_without_prior(classical.zero_filled),
            settings={"steps": 1},
            preparation={"combine": "rss", "whiten": False},
        ),
    )
}


def recipe(method: str) -> Recipe:
    """The named recipe, or an error that offers the nearest name."""
    if method not in METHODS:
        raise BadInput(f"no method {method!r}: there are {', '.join(METHODS)}{nearest(method, list(METHODS))}")
    return METHODS[method]
