"""The table of methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from medrecon.consistency.krylov import Decomposed
from medrecon.consistency.proximal import Perturbed, Proximal, noise_level, seen_error
from medrecon.errors import BadInput, nearest
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import vp_levels
from medrecon.recon.recipe import Iteration, Recipe
from medrecon.sample.ancestral import renoise
from medrecon.sample.multistep import multistep
from medrecon.solvers import classical
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw


def _without_prior(solve: Callable[..., Iterator[Step]]) -> Iteration:
    """A classical solver (likelihood, x, **settings) as an `Iteration`, keeping its settings in sight."""

    def iteration(prior: Prior | None, likelihood: Likelihood, x: Tensor, sigmas: Tensor, draw: Draw, **settings: Any) -> Iterator[Step]:
        return solve(likelihood, x, **settings)

    iteration.__signature__ = inspect.signature(solve)  # type: ignore[attr-defined]
    iteration.__name__ = solve.__name__
    return iteration


_MEAN = partial(Proximal, variance=noise_level)

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
            settings={"steps": 30},
        ),
        Recipe(
            name="l1_wavelet",
            summary="Sparse wavelet coefficients (Daubechies 2) by FISTA.",
            reference="Lustig, Donoho, Pauly 2007, doi:10.1002/mrm.21391",
            kind="classical",
            iteration=_without_prior(classical.wavelet_l1),
            needs=("noise",),
            settings={"steps": 100},
        ),
        Recipe(
            name="tv",
            summary="Isotropic total variation by a primal-dual iteration.",
            reference="Block, Uecker, Frahm 2007, doi:10.1002/mrm.21236",
            kind="classical",
            iteration=_without_prior(classical.total_variation),
            needs=("noise",),
            settings={"steps": 200},
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
