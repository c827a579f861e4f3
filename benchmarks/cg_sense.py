"""CG-SENSE, 15 coils x 320 x 320, every fourth line and 24 in the centre, 30 iterations: medrecon and its peers in one run.

    python benchmarks/cg_sense.py [--threads 2] [--repeats 5] [--json]

The same data, the same maps (BART's converged ESPIRiT where BART is installed, else medrecon's) and the same problem,
min |A x - y|^2 / 2 + rho/2 |x|^2 in complex64, for all. Wall seconds from data and maps in memory to the image, the whole
process for `bart pics`. Errors are relative to the exact column solution in complex128. Peers that are missing are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil

# on a busy machine threads that wait by spinning take the core from those that work (ten times slower); before torch starts its own
if psutil.cpu_percent(0.5) > 20:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from espirit import COILS, SIZE, asked, phantom_kspace, timed_in_turns, write_cfl
from torch import Tensor

from medrecon.iterate import run
from medrecon.physics.mri.columns import ColumnSolver
from medrecon.physics.mri.espirit import espirit
from medrecon.physics.mri.sense import sense
from medrecon.solvers.classical import least_squares
from medrecon.solvers.krylov import cg, shifted
from medrecon.solvers.likelihood import Gaussian

STEPS, RHO = 30, 1e-3


def read_cfl(path: Path, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.fromfile(path.with_suffix(".cfl"), dtype=np.complex64).reshape(shape))


def medrecon_image(kspace: Tensor, maps: Tensor, lines: Tensor) -> Tensor:
    """From k-space to the image, operator and all."""
    likelihood = Gaussian(sense(maps, lines), kspace)
    return run(islice(least_squares(likelihood, torch.zeros_like(maps[0]), weight=RHO, tolerance=0), STEPS)).x


def sigpy_image(kspace: np.ndarray, maps: np.ndarray) -> Tensor:
    """sigpy's own application, with the normal equations and as many iterations."""
    from sigpy.mri.app import SenseRecon

    return torch.from_numpy(SenseRecon(kspace, maps, lamda=RHO, max_iter=STEPS, tol=0, show_pbar=False).run())


def peers(kspace: Tensor, maps: Tensor, lines: Tensor, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Name to a function that makes the image."""
    runs: dict[str, Callable[[], Tensor]] = {"medrecon": lambda: medrecon_image(kspace, maps, lines)}
    try:
        import sigpy  # noqa: F401
    except ImportError:
        print("sigpy is not installed: left out", file=sys.stderr)
    else:
        runs["sigpy"] = lambda: sigpy_image(kspace.numpy(), maps.numpy())
    if shutil.which("bart"):
        write_cfl(folder / "kspace", kspace.numpy()[:, None])
        write_cfl(folder / "maps", maps.numpy()[:, None])

        def bart() -> Tensor:
            command = ["bart", "pics", "-l2", "-r", str(RHO), "-i", str(STEPS), "-w", "1", "kspace", "maps", "image"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            return read_cfl(folder / "image", (SIZE, SIZE))

        runs["bart"] = bart
    else:
        print("bart is not installed: left out", file=sys.stderr)
    return runs


def coil_maps(kspace: Tensor, folder: Path) -> Tensor:
    if not shutil.which("bart"):
        return espirit(kspace, 24).maps
    write_cfl(folder / "calib", kspace.numpy()[:, None])
    subprocess.run(["bart", "ecalib", "-O", "-m1", "-r24", "calib", "given"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return read_cfl(folder / "given", (COILS, SIZE, SIZE))


def exact_columns(kspace: Tensor, maps: Tensor, lines: Tensor) -> tuple[Tensor, float, float]:
    """The solution in complex128; seconds of the complex64 column solver; its distance from conjugate gradients run to the end."""
    double = maps.to(torch.complex128)
    operator = sense(double, lines)
    solver = ColumnSolver(double, lines.double(), operator.normal, RHO)
    back = operator.H(kspace.to(torch.complex128))
    solution = solver(back)
    converged = run(cg(shifted(operator.normal, RHO), back, tolerance=1e-10), limit=2000).x
    gap = float((converged - solution).norm() / solution.norm())
    start = time.perf_counter()
    single = sense(maps, lines)
    ColumnSolver(maps, lines.float(), single.normal, RHO)(single.H(kspace))
    return solution, time.perf_counter() - start, gap


def main() -> None:
    options = asked(__doc__)
    kspace = phantom_kspace()
    kspace = kspace / kspace.abs().max()
    lines = (kspace != 0).any(0).any(-1, keepdim=True)
    with tempfile.TemporaryDirectory() as name:
        maps = coil_maps(kspace, Path(name))
        solution, column_seconds, gap = exact_columns(kspace, maps, lines)
        assert gap < 1e-6, f"columns and conjugate gradients solve different problems: {gap:.1e}"
        runs = peers(kspace, maps, lines, Path(name))
        timed_in_turns(runs, 1)  # warm up
        times, images = timed_in_turns(runs, options.repeats)
    ours = statistics.median(times["medrecon"])
    rows = [
        {
            "peer": peer,
            "best_s": min(seconds),
            "median_s": statistics.median(seconds),
            "ratio": statistics.median(seconds) / ours,
            "nrmse": float((images[peer].to(solution) - solution).norm() / solution.norm()),
        }
        for peer, seconds in times.items()
    ]
    if options.json:
        print(json.dumps({"threads": options.threads, "load": os.getloadavg()[0], "columns_s": column_seconds, "gap": gap, "rows": rows}))
        return
    waiting = os.environ.get("OMP_WAIT_POLICY", "waiting as usual")
    print(f"CG-SENSE {COILS} x {SIZE} x {SIZE}, {STEPS} iterations, {options.threads} threads, load {os.getloadavg()[0]:.1f}, {waiting}")
    for row in rows:
        print(
            f"{row['peer']:10s} best {row['best_s']:.3f} s, median {row['median_s']:.3f} s, {row['ratio']:.1f} x medrecon, "
            f"NRMSE to the exact solution {row['nrmse']:.5f}"
        )
    print(f"{'columns':10s} {column_seconds:.3f} s for the exact solution; conjugate gradients to the end agree to {gap:.0e}")


if __name__ == "__main__":
    main()
