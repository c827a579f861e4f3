"""The whole line: a scan becomes problems, a recipe solves them, the images become a volume."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import medrecon
from medrecon.compute import choose_device, chunk_length, memory_budget
from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.files import sha256
from medrecon.linop.lowrank import Series
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.scan import Problem, Scan
from medrecon.prior import store
from medrecon.prior.denoiser import Prior
from medrecon.recon.domains import automatic, foreign
from medrecon.recon.recipe import Recipe
from medrecon.recon.recipes import recipe
from medrecon.recon.solve import Progress, Solution, deviation, resolved, run_recipe
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.volume import Volume

logger = logging.getLogger(__name__)

FIRST_USE = 40 << 20
"""Memory that libraries take when they are first used: transform plans, thread stacks, code."""

FILES = ("maps", "calib")
"""Settings that may name a file."""


@dataclass(frozen=True)
class Reconstruction:
    """`volume`: the image (mean over samples, complex where the scan is). `std`: of |image| over samples, `std_complex`
    sqrt(var Re + var Im). `samples` (n, z, y, x) in scan units. `log`: everything that a reader of the image should know.
    """

    volume: Volume
    std: Volume | None = None
    samples: Tensor | None = None
    log: dict[str, Any] = field(default_factory=dict)
    std_complex: Tensor | None = None

    def report(self, path: str | os.PathLike[str], reference: Volume | None = None, force: bool = False) -> Path:
        """Writes one self-contained HTML page; its path."""
        from medrecon.recon.report import write_report

        return write_report(path, self.volume, self.log, std=self.std, reference=reference, force=force)

    def __repr__(self) -> str:
        return f"Reconstruction({self.volume!r}, method {self.log.get('method')}, {self.log.get('samples', 1)} sample(s))"


@dataclass(frozen=True)
class _Job:
    """Everything decided before the first slice is read."""

    scan: Scan
    recipe: Recipe
    preset: str | None
    prior: Prior | None
    prior_name: str | None
    prior_choice: str | None
    device: torch.device
    budget: int
    preparation: dict[str, Any]
    samples: int
    seed: int


def reconstruct(
    scan: Scan,
    method: str = "dds",
    *,
    prior: str | os.PathLike[str] | Prior = "auto",
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    preset: str | None = None,
    steps: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Reconstruction:
    """The image of a scan, streamed by batches of slices that fit `max_memory` bytes (default: a quarter of what is free).

    `settings` are those of the method and of the preparation (`Preparation` of `medrecon.physics.mri.prepare` or `ct.prepare`). Progress is
    told as (done, total, text). Same seed, device and version: same samples, whatever the batches.
    """
    job = _job(scan, method, prior, samples, seed, device, preset, steps, max_memory, settings)
    start = time.monotonic()
    images: list[Tensor] = []
    draws: list[Tensor] = []
    logs: list[dict[str, Any]] = []
    first: Problem | None = None
    for problem in _problems(job, progress):
        first = first or problem
        solution = _solved(job, problem, progress)
        logs.append({**solution.log, "slices": [problem.slices.start, problem.slices.stop], "facts": dict(problem.facts)})
        images.append(problem.shown(solution.mean).cpu())
        if job.samples > 1:
            draws.append(problem.shown(solution.samples).cpu())
    if first is None:
        raise BadInput("the scan has no slices")
    volume = first.volume(first.arrange(torch.cat(images, -3)), first.whole or scan.grid, {})
    kept = first.arrange(torch.cat(draws, -3)) if draws else None
    return _result(job, volume, kept, logs, time.monotonic() - start)


def plan(
    scan: Scan,
    method: str = "dds",
    *,
    prior: str | os.PathLike[str] | Prior = "auto",
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    preset: str | None = None,
    steps: int | None = None,
    max_memory: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """What `reconstruct` would do with the same arguments: batches, peak memory in bytes, seconds from a one-slice probe."""
    import psutil

    job = _job(scan, method, prior, samples, seed, device, preset, steps, max_memory, settings)
    items = scan.n_items
    before = psutil.Process().memory_info().rss
    start = time.monotonic()
    shorter = job.recipe.with_settings({"steps": min(2, job.recipe.settings["steps"])})
    part, preparation = scan.probe(job.preparation)
    probe = replace(job, scan=part, recipe=shorter, preparation=preparation)
    problem = next(iter(_problems(probe, None)))
    prepared_in = time.monotonic() - start
    solution = _solved(probe, problem, None)
    each = solution.log["seconds"] / max(1, solution.log["steps_done"]) * job.recipe.settings["steps"] + prepared_in
    domain = problem.likelihood.domain
    ready, bytes_each = (scan.item_bytes(domain, copies, job.preparation) for copies in (0, _copies(job)))
    batch = chunk_length(bytes_each, job.budget, items)
    # The network and the data step take turns.
    network = 0 if job.prior is None else job.prior.workspace(_copies(job) * batch, math.prod(domain))
    working = max(network, batch * (bytes_each - ready))
    kept = 8 * math.prod(scan.grid.shape) * (2 + (2 * job.samples if job.samples > 1 else 0))
    return {
        "method": method,
        "preset": job.preset,
        "prior": job.prior_name,
        "prior_choice": job.prior_choice,
        "device": str(job.device),
        "slices": items,
        "slices_per_batch": batch,
        "batches": -(-items // batch),
        "peak_bytes": before + FIRST_USE + batch * ready + working + kept,
        "seconds": round(each * items / len(problem.slices), 1),
        "image": list(scan.grid.shape),
        "calibration": dict(problem.facts),
    }


def _job(
    scan: Scan,
    method: str,
    prior: str | os.PathLike[str] | Prior,
    samples: int,
    seed: int,
    device: str,
    preset: str | None,
    steps: int | None,
    max_memory: int | None,
    settings: dict[str, Any],
) -> _Job:
    if not isinstance(scan, Scan):
        raise BadInput(f"expected a scan (raw data), got {type(scan).__name__}: medrecon.simulate makes raw data from an image")
    preparation, own = _split(settings, scan, method, preset, samples)
    ready, chosen = resolved(method, preset, samples, steps, own)
    where = choose_device(device)
    denoiser, name, choice = _prior(prior, ready, scan)
    if choice is not None:
        logger.info(choice)
    if denoiser is not None:
        denoiser = denoiser.to(where)
        preparation |= scan.suited(denoiser)
    for key in FILES:
        if isinstance(preparation.get(key), (str, os.PathLike)):
            preparation[key] = _loaded(preparation[key], key)
    budget = max_memory if max_memory is not None else memory_budget(where)
    return _Job(scan, ready, chosen, denoiser, name, choice, where, budget, {**ready.preparation, **preparation}, samples, seed)


def _split(settings: dict[str, Any], scan: Scan, method: str, preset: str | None, samples: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the preparation and of the method; a name of neither is an error that offers the nearest of both."""
    found = recipe(method)
    ready = found.with_preset(preset if preset is not None else found.default_preset(samples))
    own = ready.with_sampler(settings.get("sampler")).settings
    both = [*own, *scan.settings()]
    for name in settings:
        if name not in both:
            raise BadInput(f"method {method} has no setting {name!r}: there are {', '.join(both)}{nearest(name, both)}")
    return (
        {k: v for k, v in settings.items() if k not in own},
        {k: v for k, v in settings.items() if k in own},
    )


def _prior(prior: str | os.PathLike[str] | Prior, ready: Recipe, scan: Scan) -> tuple[Prior | None, str | None, str | None]:
    """The prior, its name, and why it is this one where nobody named it."""
    if "prior" not in ready.needs:
        return None, None, None
    if isinstance(prior, Prior):
        return prior, prior.domain_name, None
    name, choice = os.fspath(prior), None
    if name == "auto":
        name, choice = automatic(scan)
    return store.load(name, field="complex" if scan.modality == "mri" else "real"), name, choice


def _loaded(path: str | os.PathLike[str], what: str) -> Any:
    """Coil maps as a tensor, a reference scan as an array read by slice; both from any raw format."""
    from medrecon.io import read

    found = read(path)
    if not isinstance(found, MRIScan):
        raise BadInput(f"{path}: {what} must be complex arrays ([slice,] coil, readout, phase) or raw data, got an image")
    return found.kspace[0 : found.n_slices] if what == "maps" else found.kspace


def _copies(job: _Job) -> int:
    return job.samples * int(job.recipe.settings.get("average", 1))


def _problems(job: _Job, progress: Progress | None) -> Iterator[Problem]:
    def look(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "reading")

    return job.scan.problems(job.budget, job.device, copies=_copies(job), look=look, **job.preparation)


def _solved(job: _Job, problem: Problem, progress: Progress | None) -> Solution:
    total = job.scan.n_items

    def report(n: int, steps: int, text: str) -> None:
        if progress is not None:
            progress(problem.slices.start * steps + len(problem.slices) * n, total * steps, text)

    likelihood = _tied(job, problem)
    solution = run_recipe(
        job.recipe,
        likelihood,
        job.prior,
        samples=job.samples,
        seed=job.seed,
        keys=_keys(likelihood, problem.slices),
        gain=problem.gain,
        begin=_begin(job, problem),
        progress=report,
    )
    steps = int(job.recipe.settings["steps"])
    report(steps, steps, job.recipe.name)  # an iteration that converged early is done all the same
    return solution


def _begin(job: _Job, problem: Problem) -> Tensor | None:
    """A quick image for classical methods that weigh data against a penalty: they end at the same image from anywhere. Others keep what
    they begin with."""
    return problem.begin() if problem.begin is not None and job.recipe.kind == "classical" and "noise" in job.recipe.needs else None


def _tied(job: _Job, problem: Problem) -> Likelihood:
    """The likelihood of the batch; as that of one volume for methods that tie its slices together."""
    likelihood = problem.likelihood
    if "series" in job.recipe.needs:
        raise NotSupported(f"method {job.recipe.name} is for series of echoes, times or energies: use medrecon.solve with their operator")
    if "volume" not in job.recipe.needs or not isinstance(likelihood, Gaussian):
        return likelihood
    if len(problem.slices) < job.scan.n_items:
        raise NotSupported(
            f"method {job.recipe.name} ties all slices together, but only {len(problem.slices)} of {job.scan.n_items} fit into memory: "
            "raise --max-memory, or choose --slices"
        )
    return Gaussian(Series(likelihood.A, len(problem.slices)), likelihood.y, noisy=likelihood.noisy)


def _keys(likelihood: Likelihood, slices: range) -> list[object]:
    """A name for every item of the batch: its slice, and its coil where coils are solved one by one."""
    count = likelihood.y.shape[: likelihood.y.ndim - likelihood.data_axes].numel()
    if count < len(slices):
        return [slices.start]
    per_slice = count // len(slices)
    return [(z, c) if per_slice > 1 else z for z in slices for c in range(per_slice)]


def _result(job: _Job, volume: Volume, samples: Tensor | None, logs: list[dict[str, Any]], seconds: float) -> Reconstruction:
    facts = logs[0]["facts"]
    chi2 = [c for log in logs for c in (log["chi2"] or [])]
    warnings = list(dict.fromkeys(w for log in logs for w in (*log["facts"]["warnings"], *log["warnings"])))
    if job.prior is not None:
        warnings.extend(foreign(job.prior, str(job.prior_name), job.scan))
    if job.scan.simulated:
        warnings.append("raw data simulated from an image: results look better than on measured data")
    if samples is not None and job.recipe.spread is None:
        warnings.append(f"preset {job.preset} of {job.recipe.name} does not sample the posterior: no standard deviation is given")
    if samples is not None and job.recipe.spread not in (None, 1.0):
        warnings.append(f"the standard deviation is the spread of the draws times {job.recipe.spread:.3f}: approximate; use preset sample")
    log = {
        "method": job.recipe.name,
        "preset": job.preset,
        "reference": job.recipe.reference,
        "prior": job.prior_name,
        "prior_choice": job.prior_choice,
        "settings": {k: v for k, v in job.recipe.told().items() if isinstance(v, (str, int, float, bool, type(None)))},
        "samples": job.samples,
        "seed": job.seed,
        "device": str(job.device),
        "noise_std": facts["noise_std"],
        "noise_source": facts["noise_source"],
        "scale": facts["scale"],
        "calibration": {k: v for k, v in facts.items() if k not in ("noise_std", "noise_source", "scale", "warnings")},
        "chi2": round(sum(chi2) / len(chi2), 4) if chi2 else None,
        "chi2_per_slice": chi2,
        "evaluations": max((log["evaluations"] for log in logs), default=0.0),
        "batches": len(logs),
        "seconds": round(seconds, 2),
        "warnings": warnings,
        "versions": {"medrecon": medrecon.__version__, "torch": torch.__version__.split("+")[0]},
    }
    provenance = {k: log[k] for k in ("method", "preset", "prior", "settings", "samples", "seed", "noise_std", "versions")}
    if job.scan.source is not None:
        provenance["inputs"] = [{"name": job.scan.source.name, "sha256": sha256(job.scan.source)}]
    if job.scan.simulated:
        provenance["simulated"] = True
    volume = replace(volume, provenance=provenance)
    std, std_complex = _spread(job, samples)
    std_volume = None if std is None else replace(volume, image=std, provenance={**provenance, "content": "standard deviation of |image|"})
    return Reconstruction(volume, std_volume, samples, log, std_complex)


def _spread(job: _Job, samples: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if samples is None or job.recipe.spread is None:
        return None, None
    shown = samples.abs() if samples.is_complex() else samples
    return shown.std(0) * job.recipe.spread, deviation(samples) * job.recipe.spread
