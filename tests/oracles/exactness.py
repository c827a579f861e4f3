"""Every method of the table against exact posteriors, as a user runs it: what its draws' mean and spread really are.

    python -m tests.oracles.exactness [--only METHOD ...] [--page docs/exactness.md]

Writes `exactness.json` beside this file, which `test_exactness.py` holds, and the page. Rows that are there already are kept
unless named.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medrecon.errors import MedreconError
from medrecon.recon.recipe import Recipe
from medrecon.recon.recipes import METHODS
from medrecon.recon.solve import run_recipe
from tests.oracles.gaussian import Problem, dense, measured, published

TABLE = Path(__file__).with_name("exactness.json")
HEADLINE = "a"
LEVELS = 100


@dataclass(frozen=True)
class Family:
    """A Gaussian problem and what it is for."""

    make: Callable[[], Problem]
    words: str


FAMILIES: dict[str, Family] = {
    "a": Family(lambda: published("aniso64"), "64 numbers, 1/f² prior with a mean, 32 data, condition 10, noise 0.05"),
    "b": Family(lambda: published("iso64"), "as a, white prior without mean"),
    "c": Family(lambda: dense(24, 16, complex_field=True), "complex, 24 numbers, 16 data, condition 10, noise 0.1"),
    "d": Family(lambda: dense(24, 20, rank=6), "real, rank 6 of 20 data"),
    "e": Family(lambda: dense(24, 16, complex_field=True, condition=1e4, noise_std=0.01), "complex, condition 10⁴, noise 0.01"),
    "f": Family(lambda: dense(24, 16, noise_std=1.0), "real, noise as large as the signal"),
}


@dataclass(frozen=True)
class Row:
    """`bias`: error of the mean in posterior standard deviations; ratios of the standard deviation in measured and in
    unmeasured directions; share of the posterior within the draws' 95 % intervals; evaluations of the prior."""

    bias: float
    measured: float
    unmeasured: float
    coverage: float
    evaluations: float


def variants() -> dict[str, tuple[str, str | None]]:
    """Name of a row -> method and preset: the one for several samples, and the paper's own."""
    found: dict[str, tuple[str, str | None]] = {}
    for name, recipe in METHODS.items():
        if recipe.kind == "classical" or {"volume", "series"} & set(recipe.needs):
            continue  # volumes and series have oracles of their own
        first = recipe.default_preset(2)
        found[name] = (name, first)
        if "paper" in recipe.presets and first != "paper":
            found[f"{name} paper"] = (name, "paper")
    return found


def ready_recipe(method: str, preset: str | None) -> Recipe:
    """At `LEVELS` levels, the paper's preset at its own; `average` 1, for the spread is that of draws."""
    ready = METHODS[method].with_preset(preset)
    steps = ready.settings["steps"]
    return ready.with_settings({"steps": steps if preset == "paper" or ready.kind == "point" else LEVELS, "average": 1})


def measure(ready: Recipe, problem: Problem, draws: int, seed: int = 0) -> Row:
    """By Monte Carlo over `draws` samples; the noise of the estimated mean is subtracted."""
    likelihood = problem.likelihood()
    found = run_recipe(ready, likelihood, problem.prior, samples=draws, seed=seed, keys=[0])
    samples = found.samples.reshape(draws, -1)
    parts = torch.view_as_real(samples).flatten(1) if samples.is_complex() else samples
    centred = parts - parts.mean(0)
    numbers = measured(problem, parts.mean(0), centred.T @ centred / (draws - 1))
    bias = math.sqrt(max(0.0, numbers.dmean**2 - numbers.sd**2 / draws))
    return Row(bias, numbers.sd_range, numbers.sd_null, numbers.coverage, found.log["evaluations"])


def count(ready: Recipe) -> int:
    """So many draws: the spread is then known within 2 %, or 5 % where a run is long; estimates without spread need few."""
    if ready.name == "enkg":  # every draw is an ensemble
        return 24 if ready.settings["ensemble"] <= 256 else 4
    if ready.kind == "point":
        return 64
    return 2000 if ready.settings["steps"] <= 200 and ready.name != "tmpd" else 400


def row(name: str, family: str) -> dict[str, Any]:
    method, preset = variants()[name]
    ready = ready_recipe(method, preset)
    try:
        found = measure(ready, FAMILIES[family].make(), count(ready))
    except MedreconError as error:
        return {"refused": f"{type(error).__name__}: {str(error).split(':')[0]}"}
    return {key: round(value, 3) for key, value in vars(found).items() if not math.isnan(value)}


def page(table: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The table as markdown."""
    lines = [INTRODUCTION, *(f"- **{key}**: {family.words}" for key, family in FAMILIES.items()), ""]
    lines += ["| method | kind | NFE |" + "".join(f" {key} |" for key in FAMILIES), "|---|---|---|" + "---|" * len(FAMILIES)]
    for name, (method, preset) in variants().items():
        rows = table.get(name, {})
        nfe = max((r.get("evaluations", 0) for r in rows.values()), default=0)
        kind = METHODS[method].with_preset(preset).kind
        lines.append(f"| `{name}` | {kind} | {nfe:.0f} |" + "".join(f" {_cell(rows.get(key), kind)} |" for key in FAMILIES))
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any] | None, kind: str) -> str:
    if found is None:
        return ""
    if "refused" in found:
        return "refused" if not found["refused"].startswith("Diverged") else "diverges"
    if kind == "point":
        return f"{found['bias']:.2f}"
    return f"{found['bias']:.2f} · {found['measured']:.2f} / {found.get('unmeasured', math.nan):.2f} · {100 * found['coverage']:.0f} %"


INTRODUCTION = f"""# How exact every method is

Made by `python -m tests.oracles.exactness --page docs/exactness.md`; `tests/oracles/test_exactness.py` holds it. Each method is run
as a user runs it (its noise levels, its default settings, {LEVELS} levels where the paper's preset does not say otherwise) on
problems with a Gaussian prior, whose posterior is known. Each cell: error of the mean of the draws, in posterior standard
deviations · ratio of the draws' standard deviation to the posterior's in measured / in unmeasured directions · share of
the posterior within the draws' 95 % intervals. Right is 0 · 1 / 1 · 95 %. Methods that give a point estimate have the first
number only. NFE: evaluations of the prior. Monte Carlo: 2000 draws, so ± 0.02; 400
where a run is long, ± 0.05.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    table = {name: table.get(name, {}) for name in variants()}
    for name, (method, _) in variants().items():
        again = arguments.only is not None and (method in arguments.only or not arguments.only)
        for family in FAMILIES:
            if again or family not in table[name]:
                table[name][family] = row(name, family)
                print(name, family, table[name][family], flush=True)
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if arguments.page:
        arguments.page.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
