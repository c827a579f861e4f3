"""DPS, DiffPIR, DDRM, PiGDM and DDNM beside DeepInverse's: same denoiser, operator, data, steps and seeds; PSNR and seconds.

    python benchmarks/deepinverse.py [--data FOLDER] [--out runs/deepinverse] [--steps 20 50] [--seeds 3] [--slices 4]
                                     [--only METHOD ...] [--page docs/deepinverse.md]

The four held-out slices of `samplers.py` (one coil, noise 0.02, x4 and x8), PSNR of single draws on the magnitude, mean over
slices and seeds. Ours runs its default preset, nothing tuned, and beside it preset `paper` with as many steps. Theirs runs with
its defaults, and with the best of a grid (`GRIDS`), chosen by PSNR on one slice of a training subject for every acceleration and
number of steps. Seconds are of the batch, all contenders in turns in one process. Results are kept one JSON line a case: call
again to go on.

`peers/deepinverse.py` says how DeepInverse is called. A run of N steps calls the denoiser N times, ours and theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from espirit import timed_in_turns  # before torch: it chooses how torch's threads wait
from mri_quality import TUNING, Ledger, cases
from samplers import NOISE, SIDE, Case, halved, masked_fourier, measured, mri

# isort: split
import numpy as np
import torch
from peers.deepinverse import GRIDS, THEIRS, Result, compare_operators, deepinverse
from torch import Tensor

from medrecon.evaluate.fastmri import official
from medrecon.prior import store
from medrecon.prior.denoiser import Prior
from medrecon.recon.recipes import METHODS
from medrecon.recon.solve import solve
from medrecon.study.images import with_phase

ACCELERATIONS = (4, 8)


def ours(prior: Prior, case: Case, method: str, steps: int, seed: int, preset: str | None) -> Result:
    """Our method as a user calls it."""
    found = solve(case.A, case.y, method, prior=prior, noise_std=NOISE, samples=1, average=1, steps=steps, seed=seed, preset=preset)
    return Result(found.samples[0], round(found.log["evaluations"]))


def psnr(case: Case, images: Tensor) -> float:
    """Mean over the batch."""
    return float(np.mean([official(t[None].abs(), x[None].abs()).psnr for t, x in zip(case.truth, images, strict=True)]))


def contenders(
    di: ModuleType, prior: Prior, case: Case, method: str, steps: int, seed: int, *, best: dict[str, Any]
) -> dict[str, Callable[[], Result]]:
    """All who run on a case."""
    runs: dict[str, Callable[[], Result]] = {
        "ours": partial(ours, prior, case, method, steps, seed, METHODS[method].default_preset(1)),
        "theirs": partial(THEIRS[method], di, prior, case, steps, seed),
    }
    if "paper" in METHODS[method].presets:
        runs["paper"] = partial(ours, prior, case, method, steps, seed, "paper")
    if best:
        runs["tuned"] = partial(THEIRS[method], di, prior, case, steps, seed, **best)
    return runs


def compared(runs_of: Callable[[int], dict[str, Callable[[], Result]]], seeds: int, case: Case) -> dict[str, Any]:
    """The numbers of every contender; `runs_of` gives them for a seed. Diversity: as in `samplers.py`."""
    found: dict[str, list[Result]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in range(seeds):
        times, results = timed_in_turns(runs_of(seed), 1)  # type: ignore[arg-type]
        for who, result in results.items():
            found.setdefault(who, []).append(result)  # type: ignore[arg-type]
            seconds.setdefault(who, []).append(times[who][0] / len(case.truth))
    return {who: {**numbers(case, results), "seconds": seconds[who]} for who, results in found.items()}


def numbers(case: Case, results: list[Result]) -> dict[str, Any]:
    """PSNR of single draws and of their mean, diversity, chi^2 per datum and calls."""
    draws = torch.stack([result.images for result in results])
    residual = torch.stack([case.A(x) - case.y for x in draws]).abs().square().mean() / _share(case) / (2 * NOISE**2)
    error = (draws - case.truth).abs().square().mean().sqrt()
    spread = draws.var(0).mean().sqrt() if len(draws) > 1 else torch.nan
    return {
        "psnr": float(np.mean([psnr(case, x) for x in draws])),
        "of_mean": psnr(case, draws.mean(0)),
        "diversity": float(spread / error),
        "chi2": float(residual),
        "calls": results[0].calls,
    }


def _share(case: Case) -> float:
    """Share of k-space that was measured."""
    return float(case.A.left.mask.float().mean())  # type: ignore[attr-defined]


def training_case(folder: Path, acceleration: int) -> Case:
    """One slice of a training subject, as those of the table are made."""
    image = torch.from_numpy(next(cases(folder, TUNING[:1], 1)).image)
    truth = torch.stack([with_phase(halved(image).numpy(), 0)])
    return measured(f"x{acceleration}", truth, masked_fourier((SIDE, SIDE), acceleration))


def tuned(di: ModuleType, prior: Prior, case: Case, method: str, steps: int, ledger: Ledger) -> dict[str, Any]:
    """The settings of the grid with the best PSNR on the training slice."""
    name = THEIRS[method].__name__

    def score(settings: dict[str, Any]) -> dict[str, Any]:
        return {"psnr": psnr(case, THEIRS[method](di, prior, case, steps, 0, **settings).images)}

    rows = [ledger(f"tune {case.name} {name} {steps} {json.dumps(settings)}", partial(score, settings)) for settings in GRIDS[method]]
    return max(zip(GRIDS[method], rows, strict=True), key=lambda pair: np.nan_to_num(pair[1]["psnr"], nan=-1e9))[0]


Table = dict[tuple[str, str, int], tuple[dict[str, Any], dict[str, Any]]]
"""Case, method and steps: DeepInverse's tuned settings, numbers of every contender."""


def table(
    di: ModuleType, prior: Prior, folder: Path, ledger: Ledger, methods: list[str], steps: list[int], seeds: int, slices: int
) -> Table:
    """All rows."""
    found = {case.name: replace(case, truth=case.truth[:slices], y=case.y[:slices]) for case in mri(folder) if " " not in case.name}
    rows: Table = {}
    for acceleration in ACCELERATIONS:
        case, training = found[f"x{acceleration}"], training_case(folder, acceleration)
        compare_operators(di, case)
        for method, count in ((method, count) for method in methods for count in steps):
            best = tuned(di, prior, training, method, count, ledger)
            runs_of = partial(contenders, di, prior, case, method, count, best=best)
            key = f"{case.name} {method} {count} {json.dumps(best)} slices {slices} seeds {seeds}"
            rows[case.name, method, count] = best, ledger(key, partial(compared, runs_of, seeds, case))
    return rows


def page(rows: Table, version: str) -> str:
    """The tables as markdown."""
    lines = [INTRODUCTION.format(version=version, threads=torch.get_num_threads())]
    for name in dict.fromkeys(key[0] for key in rows):
        lines += ["", f"## {name}", "", HEADER, "|---" * 13 + "|"]
        lines += [line(method, steps, *found) for (case, method, steps), found in rows.items() if case == name]
    lines += ["", "## DeepInverse's settings, best on the training slice", "", "| case | method | steps | settings |", "|---|---|---|---|"]
    for (name, method, steps), (best, _) in rows.items():
        chosen = ", ".join(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}" for key, value in best.items())
        lines.append(f"| {name} | `{method}` | {steps} | {chosen or 'its defaults'} |")
    return "\n".join(lines) + "\n"


HEADER = (
    "| method | steps | ours, dB | preset `paper` | theirs | theirs tuned | ours − their best | of mean: ours, their best "
    "| diversity | chi² | s: ours, theirs | theirs / ours | calls |"
)
INTRODUCTION = """# Beside DeepInverse

Made by `python benchmarks/deepinverse.py --page docs/deepinverse.md` with DeepInverse {version} on {threads} thread(s); that file
says how the data were made, what is tuned for DeepInverse and on what. Ours: default presets, nothing tuned. Mean PSNR on the
magnitude of single draws over slices and seeds. Draws that vary less than the posterior, or trust the data too much, gain PSNR by
it; so the PSNR of the mean of the draws, their diversity (rms deviation from their mean as a share of the rms error; 0.71 for
draws of the posterior) and chi² per datum (1 for the truth) stand beside it: ours, then the better of theirs. Seconds are per
image, medians over the seeds; "theirs / ours" is the median ratio of runs made in turns. DeepInverse {version} has no DDNM: its
DDRM stands beside our `ddnm`."""


def line(method: str, steps: int, best: dict[str, Any], row: dict[str, Any]) -> str:
    """One row of the table."""
    rival = max((who for who in ("theirs", "tuned") if who in row), key=lambda who: row[who]["psnr"])
    scores = " | ".join(f"{row[who]['psnr']:.2f}" if who in row else "" for who in ("ours", "paper", "theirs", "tuned"))
    both = {name: f"{row['ours'][name]:.2f}, {row[rival][name]:.2f}" for name in ("of_mean", "diversity", "chi2")}
    seconds = [statistics.median(row[who]["seconds"]) for who in ("ours", rival)]
    ratio = statistics.median(theirs / ours for ours, theirs in zip(row["ours"]["seconds"], row[rival]["seconds"], strict=True))
    gain = row["ours"]["psnr"] - row[rival]["psnr"]
    return (
        f"| `{method}` | {steps} | {scores} | {gain:+.2f} | {both['of_mean']} | {both['diversity']} | {both['chi2']} "
        f"| {seconds[0]:.2f}, {seconds[1]:.2f} | {ratio:.2f} | {row['ours']['calls']}, {row[rival]['calls']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/deepinverse"))
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--only", nargs="*", choices=list(THEIRS), default=list(THEIRS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    di = deepinverse()
    if di is None:
        print("skipped: DeepInverse is not installed (pip install 'medrecon[bench]')")
        return
    if not (options.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {options.data} (give --data FOLDER)")
        return
    ledger = Ledger(options.out / "ledger.jsonl")
    rows = table(di, store.load("brain"), options.data, ledger, options.only, options.steps, options.seeds, options.slices)
    text = page(rows, di.__version__)
    print(text)
    if options.page:
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
