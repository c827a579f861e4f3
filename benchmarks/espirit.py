"""ESPIRiT, 15 coils x 320 x 320, calibration 24: medrecon, SigPy and the whole `bart ecalib` process in one run.

    python benchmarks/espirit.py [--threads 2] [--repeats 5] [--json]

Prints wall seconds (the best and the median of the repeats, taken in turns) and how well each agrees with converged eigenvectors
(BART's LAPACK path, `ecalib -O`). A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# on a busy machine threads that wait by spinning take the core from those that work (ten times slower); before torch starts its own
if psutil.cpu_percent(0.5) > 20:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from torch import Tensor

from medrecon.linop.fourier import fft
from medrecon.physics.mri.espirit import espirit

COILS, SIZE, CALIB, CROP = 15, 320, 24, 0.8


def phantom_kspace() -> Tensor:
    """(coil, y, x): ellipses with smooth phase, Gaussian coils, noise, every fourth line and 24 in the centre."""
    t = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(t, t, indexing="ij")
    ellipses = (
        (1, 0, 0, 0.7, 0.85),
        (-0.6, 0, 0, 0.6, 0.75),
        (0.3, 0.2, 0.1, 0.15, 0.3),
        (0.4, -0.25, 0.1, 0.2, 0.25),
        (0.5, 0, -0.4, 0.1, 0.1),
    )
    image = torch.zeros(SIZE, SIZE)
    for value, cx, cy, width, height in ellipses:
        image += value * ((((x - cx) / width) ** 2 + ((y - cy) / height) ** 2) < 1)
    angles = [2 * math.pi * coil / COILS for coil in range(COILS)]
    coils = torch.stack(
        [
            torch.polar(torch.exp(-((x - 1.2 * math.cos(a)) ** 2 + (y - 1.2 * math.sin(a)) ** 2) / 1.5), a + 0.7 * x * math.sin(a))
            for a in angles
        ]
    )
    kspace = fft(coils / coils.norm(dim=0) * torch.polar(image, x + 0.5 * y**2), (-2, -1))
    generator = torch.Generator().manual_seed(0)
    noise = torch.view_as_complex(torch.randn(*kspace.shape, 2, generator=generator))
    lines = torch.zeros(SIZE, 1, dtype=torch.bool)
    lines[::4] = True
    lines[SIZE // 2 - 12 : SIZE // 2 + 12] = True
    return torch.where(lines, kspace + 1e-5 * kspace.abs().max() * noise, torch.zeros_like(kspace))


def write_cfl(path: Path, array: np.ndarray) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    np.ascontiguousarray(array, dtype=np.complex64).tofile(path.with_suffix(".cfl"))


def read_maps(path: Path) -> Tensor:
    return torch.from_numpy(np.fromfile(path.with_suffix(".cfl"), dtype=np.complex64).reshape(COILS, SIZE, SIZE))


def peers(kspace: Tensor, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Name to a function that makes the maps (coil, y, x)."""
    runs: dict[str, Callable[[], Tensor]] = {"medrecon": lambda: espirit(kspace, CALIB, crop=CROP).maps}
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError:
        print("sigpy is not installed: left out", file=sys.stderr)
    else:
        runs["sigpy"] = lambda: torch.from_numpy(EspiritCalib(kspace.numpy(), calib_width=CALIB, crop=CROP, show_pbar=False).run())
    if shutil.which("bart"):
        write_cfl(folder / "kspace", kspace.numpy()[:, None])

        def bart() -> Tensor:
            subprocess.run(["bart", "ecalib", "-m1", "-r", str(CALIB), "kspace", "maps"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            return read_maps(folder / "maps")

        runs["bart"] = bart
    else:
        print("bart is not installed: left out, and agreement is not measured", file=sys.stderr)
    return runs


def exact_maps(folder: Path) -> Tensor:
    """Converged eigenvectors by BART's LAPACK path."""
    command = ["bart", "ecalib", "-O", "-m1", "-r", str(CALIB), "kspace", "exact"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return read_maps(folder / "exact")


def cosine(maps: Tensor, exact: Tensor) -> tuple[float, float]:
    """Mean and least |<a, b>| over the common support."""
    here = (maps.norm(dim=0) > 0) & (exact.norm(dim=0) > 0)
    value = (maps.conj() * exact).sum(0).abs()[here] / (maps.norm(dim=0) * exact.norm(dim=0))[here]
    return value.mean().item(), value.min().item()


def asked(words: str | None) -> argparse.Namespace:
    """The command line of a benchmark with peers; sets the threads of this process and of those it starts."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    return options


def timed_in_turns(runs: dict[str, Callable[[], Tensor]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Wall seconds of every peer, one after the other in each round so that load falls on all, and their last results."""
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    results: dict[str, Tensor] = {}
    for _ in range(repeats):
        for peer, run in runs.items():
            start = time.perf_counter()
            results[peer] = run()
            times[peer].append(time.perf_counter() - start)
    return times, results


def main() -> None:
    options = asked(__doc__)
    kspace = phantom_kspace()
    with tempfile.TemporaryDirectory() as name:
        runs = peers(kspace, Path(name))
        timed_in_turns({peer: run for peer, run in runs.items() if peer != "sigpy"}, 1)  # warm up; sigpy needs none
        times, maps = timed_in_turns(runs, options.repeats)
        exact = exact_maps(Path(name)) if "bart" in runs else None
    ours = statistics.median(times["medrecon"])
    rows = []
    for peer, seconds in times.items():
        middle = statistics.median(seconds)
        row = {"peer": peer, "best_s": min(seconds), "median_s": middle, "ratio": middle / ours}
        if exact is not None:
            row["cosine_mean"], row["cosine_min"] = cosine(maps[peer], exact)
        rows.append(row)
    if options.json:
        print(json.dumps({"threads": options.threads, "load": os.getloadavg()[0], "rows": rows}))
        return
    print(f"ESPIRiT {COILS} x {SIZE} x {SIZE}, calibration {CALIB}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    for row in rows:
        agreement = f"  cosine to exact: mean {row['cosine_mean']:.6f}, min {row['cosine_min']:.4f}" if "cosine_mean" in row else ""
        print(f"{row['peer']:10s} best {row['best_s']:.3f} s, median {row['median_s']:.3f} s, {row['ratio']:.1f} x medrecon{agreement}")


if __name__ == "__main__":
    main()
