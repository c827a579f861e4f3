"""What matters more, the prior or the sampler? The same slices by several methods with several priors.

    python benchmarks/priors_in_recon.py [--priors tv wavelet brain mr] [--also FILE ...] [--data FOLDER] [--out runs/priors_in_recon]
                                         [--steps 50] [--page docs/priors_in_recon.md]

The slices, masks and noise of `benchmarks/samplers.py` (four subjects that no prior saw, 128 x 128, one coil, x4 and x8), default
presets, `--steps` noise levels, one draw. `--also`: other weights (.safetensors), an earlier version of a prior, say. PSNR is fastMRI's on
the magnitude, mean over the slices. Results are kept one JSON line a case: call again to go on.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mri_quality import Ledger
from samplers import NOISE, SIDE, Case, masked_fourier, measured, slices

from medrecon.errors import MedreconError
from medrecon.evaluate.fastmri import official
from medrecon.files import sha256
from medrecon.prior import store
from medrecon.recon.solve import solve

METHODS = ("pnp_admm", "diffpir", "dps", "ddnm", "dds")
PRIORS = ("tv", "wavelet", "brain", "mr")


def score(case: Case, prior: str, method: str, steps: int) -> dict[str, Any]:
    """Mean PSNR over the slices, or why there is none."""
    try:
        found = solve(case.A, case.y, method, prior=store.load(prior, field="complex"), noise_std=NOISE, steps=steps)
    except MedreconError as error:
        return {"psnr": None, "failed": f"{type(error).__name__}: {error}"}
    pairs = zip(case.truth.abs().reshape(-1, 1, SIDE, SIDE), found.mean.abs().reshape(-1, 1, SIDE, SIDE), strict=True)
    return {"psnr": round(float(np.mean([official(truth, image).psnr for truth, image in pairs])), 3)}


def page(rows: dict[tuple[str, str, str], float | None], priors: list[str]) -> str:
    """A table for each acceleration, and how far priors and methods are apart."""
    lines = [INTRODUCTION]
    for name in dict.fromkeys(key[0] for key in rows):
        lines += [f"\n## {name}\n", "| prior | " + " | ".join(f"`{m}`" for m in METHODS) + " |", "|---|" + "---|" * len(METHODS)]
        for prior in priors:
            cells = (rows[name, prior, method] for method in METHODS)
            lines.append(f"| `{Path(prior).stem}` | " + " | ".join("diverged" if c is None else f"{c:.2f}" for c in cells) + " |")
        known = np.array([[rows[name, p, m] if rows[name, p, m] is not None else np.nan for m in METHODS] for p in priors], float)
        by_prior, by_method = _range(known, 0), _range(known, 1)
        lines.append(
            f"\nBest less worst prior, mean over methods: {by_prior:.2f} dB. Best less worst method, mean over priors: {by_method:.2f} dB."
        )
        learnt = [i for i, prior in enumerate(priors) if prior not in ("tv", "wavelet")]
        if len(learnt) > 1:
            lines.append(f"The same among learnt priors: {_range(known[learnt], 0):.2f} and {_range(known[learnt], 1):.2f} dB.")
    return "\n".join(lines) + "\n"


def _range(table: np.ndarray, axis: int) -> float:
    """Mean of largest less smallest along an axis."""
    return float(np.mean(np.nanmax(table, axis) - np.nanmin(table, axis)))


INTRODUCTION = """# The prior or the sampler

Made by `python benchmarks/priors_in_recon.py --page docs/priors_in_recon.md`; how is said in that file. PSNR in dB, mean over four slices
of four subjects that no prior saw, one draw of each method's default preset."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--priors", nargs="*", default=list(PRIORS))
    parser.add_argument("--also", nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/priors_in_recon"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if not (options.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {options.data} (give --data FOLDER)")
        return
    ledger, four = Ledger(options.out / "ledger.jsonl"), slices(options.data)
    priors = [*options.priors, *options.also]
    rows = {}
    for acceleration in (4, 8):
        case = measured(f"x{acceleration}", four, masked_fourier((SIDE, SIDE), acceleration))
        for prior in priors:
            own = store.WEIGHTS / f"{prior}.safetensors"
            file = own if own.is_file() else Path(prior)
            mark = sha256(file)[:12] if file.is_file() else ""
            for method in METHODS:
                key = f"{case.name} {Path(prior).stem} {mark} {method} {options.steps}"
                rows[case.name, prior, method] = ledger(key, partial(score, case, prior, method, options.steps))["psnr"]
    text = page(rows, priors)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
