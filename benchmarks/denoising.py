"""Denoising of images that the shipped priors never saw, beside total variation, non-local means and BM3D.

    python benchmarks/denoising.py [NAME ...] [--data FOLDER] [--out runs/denoising] [--images 8] [--page docs/denoising.md]

FOLDER holds the archives `test_mr.npz`, `train_mr.npz`, `train_mr_more.npz`, ... (images (n, y, x), subject). Of each prior: images of
the test archives and of subjects of the training archives that its card does not list as trained or validated on, evenly
spread. White noise of sigma 0.02 to 0.5 (per real component; the prior's unit), seeded by the image. PSNR in dB per real component,
peak 1, mean over images. Complex priors: magnitudes with a smooth synthetic phase, the others denoise real and imaginary part.

The others at their best: for every image and noise level the setting with the smallest error against the truth, from the grids
TV_WEIGHTS, NLM_CUTOFFS and BM3D_FACTORS of `medrecon/study/rivals.py` (--bm3d 1.0: BM3D is told the true noise level, three times faster
and nearly always its best). BM3D (`pip install bm3d`, non-commercial licence) is left out
where it is not installed. Results are kept one JSON line a case: call again to go on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import Example, held_out
from mri_quality import Ledger

from medrecon.files import sha256
from medrecon.prior import store
from medrecon.prior.denoiser import Prior
from medrecon.prior.precondition import NetworkPrior
from medrecon.study.check import SIGMAS, psnr
from medrecon.study.rivals import (
    BM3D_FACTORS,
    NLM_CUTOFFS,
    TV_WEIGHTS,
    Rival,
    best,
    bm3d,
    bm3d_is_here,
    non_local_means,
    total_variation,
)
from medrecon.study.train import NOT_STATED
from medrecon.tensors import generator_for, unit_noise

RIVALS: dict[str, tuple[Rival, tuple[float, ...]]] = {
    "tv": (total_variation, TV_WEIGHTS),
    "nlm": (non_local_means, NLM_CUTOFFS),
    "bm3d": (bm3d, BM3D_FACTORS),
}
TIMED_SIDE, TIMED_THREADS, TIMED_RUNS = 320, 2, 7
WANTED = 1.3
"""dB above BM3D from sigma 0.1 on that a shipped prior is meant to reach."""


def noisy(example: Example, sigma: float) -> torch.Tensor:
    generator = generator_for(0, "denoising", example.name, f"{sigma:g}")
    return example.clean + sigma * unit_noise(example.clean.shape, example.clean.dtype, generator)


def by_prior(prior: Prior, example: Example, sigma: float) -> dict[str, Any]:
    with torch.no_grad():
        found = prior.denoise(noisy(example, sigma)[None], torch.tensor(sigma))[0]
    return {"psnr": round(psnr(found, example.clean), 3)}


def by_rival(name: str, example: Example, sigma: float) -> dict[str, Any]:
    rival, grid = RIVALS[name]
    image, setting = best(rival, noisy(example, sigma).numpy(), example.clean.numpy(), sigma, grid)
    found = torch.from_numpy(np.ascontiguousarray(image)).to(example.clean.dtype)
    return {"psnr": round(psnr(found, example.clean), 3), "setting": setting}


def milliseconds(prior: Prior) -> dict[str, Any]:
    """One 320 x 320 slice on two threads, the median of several."""
    kind = torch.complex64 if prior.field == "complex" else torch.float32
    image = unit_noise((1, TIMED_SIDE, TIMED_SIDE), kind, generator_for(0, "timing"))
    threads = torch.get_num_threads()
    torch.set_num_threads(TIMED_THREADS)
    times = []
    with torch.no_grad():
        for _ in range(TIMED_RUNS + 1):
            start = time.perf_counter()
            prior.denoise(image, torch.tensor(0.1))
            times.append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return {"ms": round(statistics.median(times[1:]), 1), "cores": os.cpu_count()}


def measured(name: str, folder: Path, ledger: Ledger, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row for each image, noise level and method; and the timing."""
    prior = store.load(name)
    mark = sha256(store.WEIGHTS / f"{name}.safetensors")[:12]
    methods = [method for method in RIVALS if method != "bm3d" or bm3d_is_here()]
    rows = []
    for example in held_out(folder, prior, count):
        for sigma in SIGMAS:
            common = {"group": example.group, "sigma": sigma}
            found = ledger(f"prior {name} {mark} {example.name} {sigma:g}", partial(by_prior, prior, example, sigma))
            rows.append({**common, "method": "prior", "psnr": found["psnr"]})
            noise = psnr(noisy(example, sigma), example.clean)
            rows.append({**common, "method": "noisy", "psnr": noise})
            for method in methods:
                key = f"{method} {prior.field} {example.name} {sigma:g}"
                found = ledger(key, partial(by_rival, method, example, sigma))
                rows.append({**common, "method": method, "psnr": found["psnr"]})
    return rows, ledger(f"time {name} {mark}", partial(milliseconds, prior))


def table(name: str, rows: list[dict[str, Any]], timing: dict[str, Any]) -> str:
    """The part of the page about one prior."""
    methods = [method for method in ("noisy", "prior", *RIVALS) if any(row["method"] == method for row in rows)]
    lines = [
        f"\n## `{name}`\n",
        f"{timing['ms']:g} ms for a {TIMED_SIDE} x {TIMED_SIDE} slice on {TIMED_THREADS} threads.\n",
        "| images | sigma | " + " | ".join(methods) + " | prior - bm3d |",
        "|---|---|" + "---|" * (len(methods) + 1),
    ]
    short = []
    for group in dict.fromkeys(row["group"] for row in rows):
        for sigma in SIGMAS:
            chosen = [row for row in rows if (row["group"], row["sigma"]) == (group, sigma)]
            means = {m: float(np.mean([row["psnr"] for row in chosen if row["method"] == m])) for m in methods}
            lead = means["prior"] - means["bm3d"] if "bm3d" in means else float("nan")
            count = sum(row["method"] == "prior" for row in chosen)
            shown = " | ".join(f"{means[m]:.2f}" for m in methods)
            lines.append(f"| {group} ({count}) | {sigma:g} | {shown} | {lead:+.2f} |")
            if lead < (WANTED if sigma >= 0.1 else 0):
                short.append(f"{group} at {sigma:g}")
    if "bm3d" in methods:
        goal = f"BM3D's PSNR everywhere and {WANTED} dB more from sigma 0.1 on"
        lines.append(f"\nGoal ({goal}): " + ("reached." if not short else f"not reached for {'; '.join(short)}."))
    return "\n".join(lines)


def caveat(name: str) -> str:
    """What the card says of the weights that a prior began from, where these may have seen the subjects left out."""
    prior = store.load(name)
    began = prior.card.get("started from", "") if isinstance(prior, NetworkPrior) else ""
    if NOT_STATED not in began and not began.startswith("ct.safetensors"):
        return ""
    return "\nThe weights that it began from may have seen the CT subjects left out: of CT, only the test images count.\n"


INTRODUCTION = """# Denoising beside other denoisers

Made by `python benchmarks/denoising.py --page docs/denoising.md`; how is said in `benchmarks/denoising.py`. PSNR in dB per real
component, peak 1, mean over images of subjects that the prior was neither trained nor validated on. Total variation and non-local
means have, for every image, the setting that is best against the truth; BM3D too, or (`--bm3d 1.0`) the true noise level."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="shipped priors (all)")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/denoising"))
    parser.add_argument("--images", type=int, default=8, help="of each group")
    parser.add_argument("--bm3d", type=float, nargs="+", default=BM3D_FACTORS, help="what BM3D is told, in units of sigma")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {arguments.data} (give --data FOLDER)")
        return
    RIVALS["bm3d"] = (bm3d, tuple(arguments.bm3d))
    ledger = Ledger(arguments.out / "ledger.jsonl")
    names = arguments.names or sorted(path.stem for path in store.WEIGHTS.glob("*.safetensors"))
    text = INTRODUCTION + "\n"
    for name in names:
        text += table(name, *measured(name, arguments.data, ledger, arguments.images)) + "\n" + caveat(name)
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
