"""PSNR, SSIM and NMSE of the MRI methods on retrospectively undersampled multi-coil k-space simulated from held-out images.

    python benchmarks/mri_quality.py [--data FOLDER] [--out runs/mri_quality] [--slices 2] [--page docs/quality.md]

FOLDER holds `train_mr.npz`, `train_mr_more.npz` and `test_mr.npz` (images (n, y, x), scale, subject, pixel_mm). Each slice
becomes 8-coil k-space with smooth phase, correlated noise (20 dB) and a noise scan; random fastMRI masks, x4 (8 % centre)
and x8 (4 %), seeded by subject and slice. Weights of the classical methods are tuned by PSNR on training subjects, once for
each acceleration, and then frozen; nothing is tuned on the subjects of the table. Results are kept one JSON line a
case: call again to go on. Numbers are fastMRI's, per slice, on the magnitude; the table gives means.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medrecon.evaluate.fastmri import official
from medrecon.physics.mri import fastmri_mask, simulate, undersample
from medrecon.physics.mri.scan import MRIScan
from medrecon.recon.pipeline import reconstruct
from medrecon.volume import Volume, volume_of

SNR_DB = 20.0
ACCELERATIONS = (4, 8)
TUNING = (("train_mr.npz", "colin27_T1w"), ("train_mr.npz", "studyforrest02_T1w"), ("train_mr.npz", "adi_T2w"))
UNSEEN = (
    ("train_mr_more.npz", "ReMIND022_T2w"),
    ("train_mr_more.npz", "ReMIND022_T1wGd"),
    ("train_mr_more.npz", "SCIelectrode_T1w"),
)
ODD = (("test_mr.npz", "VSSEG001_T1wGd"),)
SETTING = {"sense": "damping", "l1_wavelet": "strength", "tv": "strength"}
GRIDS: dict[str, tuple[float, ...]] = {
    "sense": (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "l1_wavelet": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
    "tv": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
}
METHODS = ("zero_filled", "sense", "l1_wavelet", "tv", "dds")


@dataclass(frozen=True)
class Case:
    """One slice of one subject."""

    archive: str
    subject: str
    index: int
    image: np.ndarray
    spacing: float

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.index}"

    def truth(self) -> Volume:
        return volume_of(torch.from_numpy(self.image)[None], (self.spacing, self.spacing, self.spacing))

    def scan(self, acceleration: int) -> MRIScan:
        seed = sum(map(ord, self.name))
        full = simulate(self.truth(), coils=8, snr_db=SNR_DB, seed=seed)
        return undersample(full, fastmri_mask(self.image.shape[0], acceleration, kind="random", seed=self.name))


def cases(folder: Path, subjects: tuple[tuple[str, str], ...], count: int) -> Iterator[Case]:
    """`count` axial slices of each subject, evenly spread over the middle half of its slices."""
    for archive, subject in subjects:
        with np.load(folder / archive, allow_pickle=False) as data:
            chosen = np.flatnonzero((data["subject"] == subject) & (data["plane"] == 0))
            quarter = len(chosen) // 4
            picks = chosen[np.linspace(quarter, len(chosen) - 1 - quarter, count).round().astype(int)]
            spacing = np.broadcast_to(data["pixel_mm"], data["subject"].shape)
            for i in picks:
                yield Case(archive, subject, int(i), data["images"][i].astype(np.float32) * float(data["scale"]), float(spacing[i]))


class Ledger:
    """Finished results by key, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.done = {row["key"]: row for row in map(json.loads, lines)}

    def __call__(self, key: str, make: Any) -> dict[str, Any]:
        if key not in self.done:
            self.done[key] = {"key": key, **make()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.done[key]) + "\n")
            print(json.dumps(self.done[key]), flush=True)
        return self.done[key]


def score(case: Case, acceleration: int, method: str, pictures: Path | None = None, **settings: Any) -> dict[str, Any]:
    """fastMRI's numbers of one reconstruction, chi^2 per datum and seconds."""
    scan = case.scan(acceleration)
    start = time.perf_counter()
    result = reconstruct(scan, method, **settings)
    seconds = time.perf_counter() - start
    image = result.volume.magnitude.image
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        np.save(picture(pictures, case, acceleration, method), image[0].numpy().astype(np.float16))
    numbers = official(case.truth().image, image)
    found = {"psnr": numbers.psnr, "ssim": numbers.ssim, "nmse": numbers.nmse}
    return {**found, "chi2": result.log["chi2"], "seconds": round(seconds, 1)}


def picture(folder: Path, case: Case, acceleration: int, method: str) -> Path:
    """Where the image of one case lies."""
    return folder / f"{case.subject}-{case.index}-x{acceleration}-{method}.npy"


def tuned(folder: Path, ledger: Ledger) -> dict[tuple[str, int], dict[str, float]]:
    """Settings of each classical method and acceleration: best mean PSNR over training subjects."""
    chosen: dict[tuple[str, int], dict[str, float]] = {}
    for acceleration in ACCELERATIONS:
        for method, grid in GRIDS.items():
            totals = {}
            for value in grid:
                given = {SETTING[method]: value}
                rows = [
                    ledger(f"tune x{acceleration} {method} {value:g} {case.name}", partial(score, case, acceleration, method, **given))
                    for case in cases(folder, TUNING, 1)
                ]
                totals[value] = float(np.mean([row["psnr"] for row in rows]))
            chosen[method, acceleration] = {SETTING[method]: max(totals, key=lambda v: totals[v])}
    return chosen


def compared(folder: Path, ledger: Ledger, pictures: Path, count: int, prior: str) -> list[dict[str, Any]]:
    """One row for each slice, acceleration and method."""
    settings = tuned(folder, ledger)
    rows = []
    for group, subjects in (("unseen", UNSEEN), ("out of distribution", ODD)):
        for case in cases(folder, subjects, count):
            for acceleration in ACCELERATIONS:
                for method in METHODS:
                    given: dict[str, Any] = settings.get((method, acceleration), {}) if method != "dds" else {"prior": prior}
                    key = f"x{acceleration} {method} {given} {case.name}"
                    row = ledger(key, partial(score, case, acceleration, method, pictures, **given))
                    rows.append({**row, "group": group, "subject": case.subject, "acceleration": acceleration, "method": method})
    return rows


def page(rows: list[dict[str, Any]], settings: dict[tuple[str, int], dict[str, float]]) -> str:
    """The tables as markdown."""
    lines = [INTRODUCTION]
    for group in ("unseen", "out of distribution"):
        lines += [
            f"\n## {TITLES[group]}\n",
            "| acceleration | method | PSNR, dB | SSIM | NMSE | chi² | s per slice |",
            "|---|---|---|---|---|---|---|",
        ]
        for acceleration in ACCELERATIONS:
            for method in METHODS:
                chosen = [r for r in rows if (r["group"], r["acceleration"], r["method"]) == (group, acceleration, method)]
                if not chosen:
                    continue
                psnr, ssim, nmse, chi2, seconds = (
                    float(np.mean([r[k] for r in chosen])) for k in ("psnr", "ssim", "nmse", "chi2", "seconds")
                )
                lines.append(f"| x{acceleration} | `{method}` | {psnr:.2f} | {ssim:.4f} | {nmse:.5f} | {chi2:.2f} | {seconds:.1f} |")
    lines += ["\n## PSNR by subject, dB\n", "| subject | acceleration | " + " | ".join(METHODS) + " |", "|---|---|" + "---|" * len(METHODS)]
    for subject in dict.fromkeys(r["subject"] for r in rows):
        for acceleration in ACCELERATIONS:
            means = [
                np.mean([r["psnr"] for r in rows if (r["subject"], r["acceleration"], r["method"]) == (subject, acceleration, m)])
                for m in METHODS
            ]
            lines.append(f"| {subject} | x{acceleration} | " + " | ".join(f"{m:.2f}" for m in means) + " |")
    tuning = ", ".join(f"{m} x{a}: " + ", ".join(f"{k} {v:g}" for k, v in s.items()) for (m, a), s in settings.items())
    lines.append(f"\nTuned on training subjects: {tuning}.")
    return "\n".join(lines) + "\n"


def panel(folder: Path, subjects: tuple[tuple[str, str], ...], pictures: Path, target: Path) -> None:
    """The first slice of each subject at x8, all methods side by side with the truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = list(cases(folder, subjects, 1))
    figure, axes = plt.subplots(len(shown), len(METHODS) + 1, figsize=(2.6 * (len(METHODS) + 1), 2.6 * len(shown)), squeeze=False)
    for row, case in zip(axes, shown, strict=True):
        images = [case.image, *(np.load(picture(pictures, case, 8, m)).astype(np.float32) for m in METHODS)]
        for axis, image, title in zip(row, images, ("truth", *METHODS), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=float(np.quantile(case.image, 0.998)))
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    figure.savefig(target, dpi=110)


INTRODUCTION = """# Image quality on simulated undersampling

Made by `python benchmarks/mri_quality.py --data FOLDER --page docs/quality.md`; how is said in that file. Raw data simulated
from magnitude images look better than measured data for every method: compare methods, do not quote the numbers. Means over
slices of fastMRI's numbers on the magnitude; `dds` is preset `mmse`. Timings: two shared CPU cores."""
TITLES = {
    "unseen": "Brain subjects that the prior never saw",
    "out of distribution": "Out of distribution on purpose: contrast-enhanced T1 with a stereotactic frame",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/mri_quality"))
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--prior", default="brain")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {arguments.data} (give --data FOLDER)")
        return
    ledger = Ledger(arguments.out / "ledger.jsonl")
    rows = compared(arguments.data, ledger, arguments.out / "images", arguments.slices, arguments.prior)
    text = page(rows, tuned(arguments.data, ledger))
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    if arguments.picture:
        panel(arguments.data, (*UNSEEN, *ODD), arguments.out / "images", arguments.picture)
    print(text)


if __name__ == "__main__":
    main()
