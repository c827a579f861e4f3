"""One inverse problem, one recipe: samples, mean, spread and a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from medrecon.errors import BadInput, Diverged, NotSupported
from medrecon.iterate import Step, run
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Prior
from medrecon.recon.recipe import Recipe
from medrecon.recon.recipes import recipe
from medrecon.recon.trajectory import Trajectory
from medrecon.solvers.likelihood import Gaussian, Likelihood, weighted
from medrecon.solvers.noise_level import estimated_noise_std
from medrecon.solvers.nonlinear import Nonlinear
from medrecon.tensors import complex_dtype, like_batch, real_dtype, seeded_draw

Progress = Callable[[int, int, str], None]

FAR = 4.0
"""chi^2 per datum above which the image does not explain the data."""

RUNAWAY = 10.0
"""So many times the chi^2 of an empty image is no image any more."""


@dataclass(frozen=True)
class Solution:
    """`samples` (n, *batch, *image), in the units of the solved problem. `spread`: see `Recipe`."""

    samples: Tensor
    log: dict[str, Any] = field(default_factory=dict)
    spread: float | None = 1.0

    @property
    def mean(self) -> Tensor:
        """Mean over the samples, complex where they are."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor | None:
        """Posterior standard deviation per pixel, sqrt(var Re + var Im) for complex images.

        None for one sample, and for methods whose draws say nothing about uncertainty.
        """
        if len(self.samples) < 2 or self.spread is None:
            return None
        return deviation(self.samples) * self.spread

    def __repr__(self) -> str:
        return f"Solution({self.samples.shape[0]} x {tuple(self.samples.shape[1:])}, {self.log.get('method', '')})"


def deviation(samples: Tensor) -> Tensor:
    """Standard deviation over the first axis, sqrt(var Re + var Im) for complex samples."""
    return (samples - samples.mean(0)).abs().square().sum(0).div(len(samples) - 1).sqrt()


def resolved(method: str, preset: str | None, samples: int, steps: int | None, settings: dict[str, Any]) -> tuple[Recipe, str | None]:
    """The recipe with preset and settings in place, and the name of the preset.

    `spread` then counts from the spread of what is returned: means of `average` draws.
    """
    found = recipe(method)
    if samples < 1:
        raise BadInput(f"samples = {samples}: expected at least 1")
    chosen = preset if preset is not None else found.default_preset(samples)
    given = {**settings} if steps is None else {**settings, "steps": steps}
    ready = found.with_preset(chosen).with_settings(given)
    if ready.settings["steps"] < 1 or ready.settings.get("average", 1) < 1:
        raise BadInput(f"steps = {ready.settings['steps']}, average = {ready.settings.get('average', 1)}: expected at least 1")
    if ready.kind == "classical" and samples > 1:
        raise NotSupported(f"method {method} has no randomness: samples of it would all be equal; use dds for several samples")
    if ready.spread is not None:
        ready = replace(ready, spread=ready.spread * ready.settings.get("average", 1) ** 0.5)
    return ready, chosen


def solve(
    A: LinearOperator | Callable[[Tensor], Tensor],
    y: Tensor,
    method: str = "dds",
    *,
    prior: Prior | None = None,
    noise_std: float | Tensor | None,
    domain: Sequence[int] | None = None,
    data_axes: int | None = None,
    begin: Tensor | None = None,
    samples: int = 1,
    seed: int = 0,
    preset: str | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Solution:
    """Samples of (or one estimate of) x given y = A(x) + noise; y (*batch, *data), x in the prior's units.

    `noise_std` is per real component: a number, one for every sample (broadcasts over y), None to estimate it from the data
    (linear A, see `estimated_noise_std`), 0 only for methods that need no noise level. A that is no `LinearOperator` is any
    differentiable function of images (*batch, *domain); then `domain` and `data_axes` (how many trailing axes of y are data;
    None: all) say what an image and a scan are. `begin`: an image to begin from, at the noise level `start_sigma`. Other laws
    of noise: `infer`. Every setting of the recipe may be given by keyword. Same seed, device and version: same samples,
    whatever else is in the batch.
    """
    if noise_std is not None and not isinstance(noise_std, Tensor) and not 0 <= noise_std < float("inf"):
        raise BadInput(f"noise_std = {noise_std}: expected 0 or a positive number, per real component")
    if isinstance(A, LinearOperator):
        if noise_std is None:
            noise_std = like_batch(estimated_noise_std(A, y), len(A.range))
        likelihood: Likelihood = Gaussian(A, y, noisy=False) if _is_zero(noise_std) else weighted(A, y, noise_std=noise_std)
    else:
        likelihood = _nonlinear(A, y, noise_std, domain, data_axes)
    solution = infer(
        likelihood, method, prior=prior, begin=begin, samples=samples, seed=seed, preset=preset, steps=steps, progress=progress, **settings
    )
    solution.log["noise_std"] = noise_std.squeeze().tolist() if isinstance(noise_std, Tensor) else noise_std
    return solution


def infer(
    likelihood: Likelihood,
    method: str = "dds",
    *,
    prior: Prior | None = None,
    begin: Tensor | None = None,
    samples: int = 1,
    seed: int = 0,
    preset: str | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Solution:
    """`solve` for any likelihood: counts (`Poisson`, `Transmission`), weighted data, a nonlinear operator."""
    ready, chosen = resolved(method, preset, samples, steps, settings)
    batch = likelihood.y.shape[: likelihood.y.ndim - likelihood.data_axes]
    keys = list(range(max(1, int(torch.Size(batch).numel()))))
    solution = run_recipe(ready, likelihood, prior, begin=begin, samples=samples, seed=seed, keys=keys, progress=progress)
    solution.log.update({"method": method, "preset": chosen, "seed": seed})
    return solution


def _is_zero(noise_std: float | Tensor) -> bool:
    return not isinstance(noise_std, Tensor) and noise_std == 0


def _nonlinear(
    A: Callable[[Tensor], Tensor], y: Tensor, noise_std: float | Tensor | None, domain: Sequence[int] | None, data_axes: int | None
) -> Nonlinear:
    if domain is None:
        raise BadInput("A is a function, not a LinearOperator: say domain=(ny, nx), the shape of one image")
    if noise_std is None or _is_zero(noise_std):
        raise BadInput("noise_std: a nonlinear A needs a positive noise level; it cannot be estimated from the data")
    std = torch.as_tensor(noise_std, device=y.device).to(y.real.dtype if y.is_complex() else y.dtype)
    if not bool((torch.isfinite(std) & (std > 0)).all()):
        raise BadInput("noise_std: expected positive finite numbers per real component")
    return Nonlinear(lambda x: A(x) / std, y / std, domain, data_axes=data_axes)


@torch.no_grad()
def run_recipe(
    ready: Recipe,
    likelihood: Likelihood,
    prior: Prior | None,
    *,
    samples: int,
    seed: int,
    keys: Sequence[object],
    gain: float | None = None,
    begin: Tensor | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Runs a resolved recipe. `keys` name the batch items (slices): each owns its stream of noise.

    `gain`: about |A|, the same number for all batches of a scan, so that all see the same noise levels; else measured.
    """
    if "noise" in ready.needs and not likelihood.noisy:
        raise BadInput(f"method {ready.name} weighs data against prior by the noise: --set noise_std= a positive number")
    if "prior" in ready.needs and prior is None:
        raise BadInput(f"method {ready.name} needs a prior: give one (--prior NAME)")
    start = time.monotonic()
    y = likelihood.y
    axes = len(likelihood.domain)
    batch = tuple(y.shape[: y.ndim - likelihood.data_axes])
    dtype = _image_dtype(likelihood, prior if "prior" in ready.needs else None)
    average = int(ready.settings.get("average", 1))
    draws = samples * average if ready.kind != "classical" else 1
    x = torch.zeros(draws, *batch, *likelihood.domain, dtype=dtype, device=y.device)
    draw = seeded_draw(seed, [(s, k) for s in range(draws) for k in keys], x.shape[: x.ndim - axes])
    trajectory = Trajectory(ready, likelihood, prior, x, draw, gain, [(k, "coarse") for k in keys], seed, begin)

    def report(n: int, step: Step) -> None:
        if progress is not None:
            progress(n, trajectory.limit, ready.name)

    try:
        finished = run(trajectory.steps(), limit=trajectory.limit, until=trajectory.until, progress=report)
    except Diverged as error:
        raise Diverged(f"method {ready.name}: {error}; or {ready.remedy}") from error
    found = finished.x.reshape(samples, average, *finished.x.shape[1:]).mean(1) if draws > 1 else finished.x
    chi2 = likelihood.chi2(found) if likelihood.noisy else None
    _check_fit(ready, likelihood, x[0], chi2)
    log = {
        "settings": ready.told(),
        "steps_done": finished.n_steps,
        "evaluations": trajectory.evaluations,
        "stopped": finished.reason,
        "chi2": None if chi2 is None else [round(float(c), 4) for c in chi2.flatten()],
        "warnings": _far_from_the_data(ready, chi2),
        "seconds": round(time.monotonic() - start, 3),
    }
    return Solution(found, log, ready.spread)


def _check_fit(ready: Recipe, likelihood: Likelihood, nothing: Tensor, chi2: Tensor | None) -> None:
    """Raises `Diverged` where an image explains the data far worse than no image does: a run that left the road."""
    if chi2 is None or ready.kind == "classical":
        return
    bound = RUNAWAY * likelihood.chi2(nothing).clamp_min(1)
    if not bool((chi2 <= bound).all()):
        raise Diverged(
            f"method {ready.name}: the image explains the data worse than none (chi2 {float(chi2.max()):.3g} per datum): {ready.remedy}"
        )


def _far_from_the_data(ready: Recipe, chi2: Tensor | None) -> list[str]:
    if chi2 is None or ready.kind == "classical" or not float(chi2.max()) > FAR:
        return []
    return [
        f"the image explains the data badly (chi2 up to {float(chi2.max()):.1f} per datum): check noise_std and prior; or {ready.remedy}"
    ]


def _image_dtype(likelihood: Likelihood, prior: Prior | None) -> torch.dtype:
    """That of the data for a linear A: a prior of the other field would leave half of each number without prior or without
    noise. Else the prior's field decides."""
    y = likelihood.y
    if prior is None or (prior.field == "complex") == y.is_complex():
        return y.dtype
    if isinstance(likelihood, Gaussian):
        kind = "complex" if y.is_complex() else "real"
        raise BadInput(f"prior {prior.domain_name!r} knows {prior.field} images, the data are {kind}: choose a {kind} prior")
    return real_dtype(y.dtype) if y.is_complex() else complex_dtype(y.dtype)
