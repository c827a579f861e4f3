"""Every method with a prior on the same four held-out slices: PSNR, SSIM, residual, diversity, evaluations, seconds.

    python benchmarks/samplers.py [--modality mri] [--data FOLDER] [--out runs/samplers] [--only METHOD ...] [--steps 20 50 100]
                                  [--page docs/samplers.md] [--picture docs/samplers.png]

FOLDER holds `train_mr.npz`, `train_mr_more.npz`, `test_mr.npz` (images (n, y, x), scale, subject, plane). MRI: four slices of
four subjects that the prior never saw, low-pass filtered to 128 x 128 pixels, with a smooth phase, one coil, noise 0.02 (the
99.5th percentile of the magnitude is 1), Poisson-disc masks x4 and x8 over both axes with a full centre of 12 x 12. Two draws of
each slice (one at 100 steps) by every method's default preset: its settings, no tuning. PSNR and SSIM are fastMRI's, on the
magnitude, of single draws; "of mean" is the PSNR of the mean of both. Diversity: rms difference of the two draws over sqrt(2), as
a share of the rms error of a draw: 1 / sqrt(2) = 0.71 for draws of the posterior, 0 for a point estimate. Volumes and series
(needs volume, series) have their own cases, at 50 steps: eight neighbouring slices, and six echoes of one slice.

Results are kept one JSON line a case: call again to go on; several processes may share the work (--part 0/2, --part 1/2).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mri_quality import ODD, UNSEEN, Ledger, cases
from torch import Tensor

from medrecon.errors import MedreconError
from medrecon.evaluate.fastmri import official
from medrecon.linop.basic import Mask
from medrecon.linop.fourier import Fourier, fft, ifft
from medrecon.linop.operator import LinearOperator
from medrecon.physics.mri.masks import poisson_disc
from medrecon.prior import store
from medrecon.prior.denoiser import Prior
from medrecon.recon.recipes import METHODS
from medrecon.recon.solve import solve
from medrecon.study.images import with_phase
from medrecon.tensors import centre_crop, generator_for, unit_noise

SIDE, NOISE = 128, 0.02
ECHOES, DECAY = 6, 0.25
STEPS = (20, 50, 100)
OWN_BUDGET = {
    "enkg": "its ensemble and roll-outs cost thousands of evaluations: 32² Gaussian problem in tests/sample",
    "dflow": "every outer iteration differentiates a whole trajectory: 10 outer iterations",
    "tmpd": "20 backward passes through the network a level: 20 levels, one draw",
    "deqir": "every level is evaluated several times until the trajectory agrees: 20 levels",
}
"""Methods whose steps are not one evaluation each, with the reason."""
OWN_STEPS = {"dflow": 10, "tmpd": 20, "deqir": 20}


@dataclass(frozen=True)
class Case:
    """Truth (*image of a batch), operator and data of one table."""

    name: str
    truth: Tensor
    A: LinearOperator
    y: Tensor


def measured(name: str, truth: Tensor, A: LinearOperator) -> Case:
    """The case with noisy data."""
    clean = A(truth)
    noise = unit_noise(clean.shape, clean.dtype, generator_for(0, name))
    return Case(name, truth, A, A(truth) + NOISE * Mask(_mask(A), A.range)(noise))


def _mask(A: LinearOperator) -> Tensor:
    """The mask of a masked Fourier transform."""
    return A.left.mask  # type: ignore[attr-defined,no-any-return]


def masked_fourier(shape: tuple[int, ...], acceleration: int, masks: int = 1) -> LinearOperator:
    """One coil, a Poisson-disc mask over the last two axes, another one for each of `masks` images."""
    drawn = [torch.as_tensor(poisson_disc(shape[-2:], acceleration, calib=(12, 12), seed=seed)) for seed in range(masks)]
    return Mask(torch.stack(drawn) if masks > 1 else drawn[0], shape) @ Fourier(shape, (-2, -1))


def slices(folder: Path) -> Tensor:
    """Four slices of four subjects, complex (4, 128, 128)."""
    found = [torch.from_numpy(case.image) for case in cases(folder, (*UNSEEN, *ODD), 1)]
    return torch.stack([with_phase(halved(image).numpy(), i) for i, image in enumerate(found)])


def halved(image: Tensor) -> Tensor:
    """The inner 128 x 128 of the k-space of a 256 x 256 magnitude: the whole slice at 1.8 mm."""
    return ifft(centre_crop(fft(image, (-2, -1)), (SIDE, SIDE)), (-2, -1)).abs() * SIDE / image.shape[-1]


def stack(folder: Path) -> Tensor:
    """Eight neighbouring slices of one subject, complex (8, 128, 128)."""
    archive, subject = UNSEEN[0]
    with np.load(folder / archive, allow_pickle=False) as data:
        chosen = np.flatnonzero((data["subject"] == subject) & (data["plane"] == 0))
        middle = chosen[len(chosen) // 2 - 4 : len(chosen) // 2 + 4]
        images = data["images"][middle].astype(np.float32) * float(data["scale"])
    return torch.stack([with_phase(halved(torch.from_numpy(image)).numpy(), 0) for image in images])


def mri(folder: Path) -> Iterator[Case]:
    """The cases of MRI."""
    four, eight = slices(folder), stack(folder)
    rate = DECAY * (0.5 + four[0].abs())  # brighter tissue decays faster, per echo
    decay = torch.stack([torch.exp(-rate * echo) for echo in range(ECHOES)])
    for acceleration in (4, 8):
        yield measured(f"x{acceleration}", four, masked_fourier((SIDE, SIDE), acceleration))
        yield measured(f"x{acceleration} volume", eight, masked_fourier(tuple(eight.shape), acceleration))
        yield measured(f"x{acceleration} series", four[0] * decay, masked_fourier((ECHOES, SIDE, SIDE), acceleration, ECHOES))


MODALITIES: dict[str, tuple[Callable[[Path], Iterator[Case]], str]] = {"mri": (mri, "brain")}
"""Cases and prior of each modality."""


def suits(method: str, case: Case) -> bool:
    """Whether a method is for this kind of images; dds is shown beside those for volumes and series."""
    needs = set(METHODS[method].needs) & {"volume", "series"}
    kind = {word for word in ("volume", "series") if word in case.name}
    return needs == kind or (method == "dds" and bool(kind))


def score(case: Case, prior: Prior, method: str, steps: int, pictures: Path) -> dict[str, Any]:
    """The numbers of one method on one case."""
    start = time.perf_counter()
    draws_wanted = 1 if method == "tmpd" else draws_at(steps)
    given: dict[str, Any] = {} if "average" not in METHODS[method].with_preset(_preset(method)).settings else {"average": 1}
    try:
        found = solve(
            case.A, case.y, method, prior=prior, noise_std=NOISE, samples=draws_wanted, steps=steps, preset=_preset(method), **given
        )
    except MedreconError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - start
    truth = case.truth.abs().reshape(-1, 1, SIDE, SIDE)
    draws = found.samples.reshape(draws_wanted, -1, 1, SIDE, SIDE)
    singles = [official(t, d.abs()) for draw in draws for t, d in zip(truth, draw, strict=True)]
    means = [official(t, m.abs()) for t, m in zip(truth, draws.mean(0), strict=True)]
    errors = (draws - case.truth.reshape(draws.shape[1:])).abs().square().mean().sqrt()
    pictures.mkdir(parents=True, exist_ok=True)
    np.save(picture(pictures, case, method, steps), draws[0, 0, 0].abs().numpy().astype(np.float16))
    return {
        "psnr": float(np.mean([s.psnr for s in singles])),
        "ssim": float(np.mean([s.ssim for s in singles])),
        "psnr_of_mean": float(np.mean([s.psnr for s in means])),
        "chi2": float(np.mean(found.log["chi2"])),
        "diversity": float((draws[0] - draws[1]).abs().square().mean().sqrt() / 2**0.5 / errors) if draws_wanted > 1 else None,
        "evaluations": found.log["evaluations"],
        "seconds": round(seconds / (draws_wanted * len(truth)), 3),
    }


def _preset(method: str) -> str | None:
    return METHODS[method].default_preset(2)


def draws_at(steps: int) -> int:
    """Two draws tell the diversity; it changes little with the steps, so long runs make one."""
    return 2 if steps <= 50 else 1


def picture(folder: Path, case: Case, method: str, steps: int) -> Path:
    """Where the first image of one case lies."""
    return folder / f"{case.name.replace(' ', '-')}-{method}-{steps}.npy"


def jobs(found: list[Case], steps: tuple[int, ...], only: list[str] | None) -> Iterator[tuple[Case, str, int]]:
    """All that the table needs, few steps first."""
    for count in steps:
        for case in found:
            for method, recipe in METHODS.items():
                if "prior" not in recipe.needs or not suits(method, case) or (only is not None and method not in only):
                    continue
                if " " in case.name and count != 50:
                    continue  # volumes and series at one budget
                if method not in OWN_BUDGET:
                    yield case, method, count
                elif count == steps[0] and method in OWN_STEPS:
                    yield case, method, OWN_STEPS[method]


def page(rows: dict[tuple[str, str, int], dict[str, Any]], modality: str) -> str:
    """The tables as markdown, best PSNR first."""
    lines = [INTRODUCTION.format(modality=modality)]
    for name in dict.fromkeys(key[0] for key in rows):
        lines += [
            f"\n## {name}\n",
            "| method | steps | PSNR, dB | of mean | SSIM | chi² | diversity | NFE | s per image |",
            "|---|" * 1 + "---|" * 8,
        ]
        chosen = {key: row for key, row in rows.items() if key[0] == name}
        for (_, method, steps), row in sorted(chosen.items(), key=lambda item: -item[1].get("psnr", -1)):
            if "failed" in row:
                lines.append(f"| `{method}` | {steps} | {row['failed'][:160]} | | | | | | |")
                continue
            mean, spread = ("", "") if row["diversity"] is None else (f"{row['psnr_of_mean']:.2f}", f"{row['diversity']:.2f}")
            numbers = f"{row['psnr']:.2f} | {mean} | {row['ssim']:.4f} | {row['chi2']:.2f} | {spread}"
            lines.append(f"| `{method}` | {steps} | {numbers} | {row['evaluations']:.0f} | {row['seconds']:.2f} |")
    lines += ["", *(f"`{method}`: {why}." for method, why in OWN_BUDGET.items())]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# All methods on the same slices

Made by `python benchmarks/samplers.py --page docs/samplers.md --picture docs/samplers.png`; what the columns mean and how the data
were made is said in that file ({modality}). Default presets, nothing tuned. Seconds: one thread of a shared CPU, batches of eight.
"""


def panel(found: list[Case], pictures: Path, target: Path, steps: int) -> None:
    """The first slice by every method at `steps`, at both accelerations, with the truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [
        (c, m, s) for c, m, s in jobs(found, (steps,), None) if suits(m, c) and picture(pictures, c, m, s).exists() and " " not in c.name
    ]
    columns = 8
    figure, axes = plt.subplots(-(-(len(shown) + 1) // columns), columns, squeeze=False)
    figure.set_size_inches(1.9 * columns, 2.05 * len(axes))
    truth = found[0].truth[0].abs().numpy()
    tiles = [("truth", truth), *((f"{m} {c.name}", np.load(picture(pictures, c, m, s)).astype(np.float32)) for c, m, s in shown)]
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, image) in zip(axes.flat, tiles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=float(np.quantile(truth, 0.998)))
        axis.set_title(title, fontsize=7, pad=2)
    figure.tight_layout(pad=0.2)
    figure.savefig(target, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=list(MODALITIES), default="mri")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/samplers"))
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--part", default="0/1", help="this process's share, as in 0/2")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    make, prior_name = MODALITIES[arguments.modality]
    if not (arguments.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {arguments.data} (give --data FOLDER)")
        return
    found = list(make(arguments.data))
    prior = store.load(prior_name)
    number, of = map(int, arguments.part.split("/"))
    ledger = Ledger(arguments.out / f"ledger-{number}-{of}.jsonl")
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for other in sorted(arguments.out.glob("ledger-*.jsonl")):
        ledger.done.update({row["key"]: row for row in map(json.loads, other.read_text(encoding="utf-8").splitlines())})
    for index, (case, method, steps) in enumerate(jobs(found, tuple(arguments.steps), arguments.only)):
        key = f"{arguments.modality} {case.name} {method} {steps}"
        if index % of == number:
            ledger(key, lambda c=case, m=method, s=steps: score(c, prior, m, s, arguments.out / "images"))  # type: ignore[misc]
        if key in ledger.done:
            rows[case.name, method, steps] = ledger.done[key]
    if arguments.page:
        arguments.page.write_text(page(rows, arguments.modality), encoding="utf-8")
    if arguments.picture:
        panel(found, arguments.out / "images", arguments.picture, 50)


if __name__ == "__main__":
    main()
