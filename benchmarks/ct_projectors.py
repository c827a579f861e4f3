"""Projection and backprojection of 512 x 512 pixels, 720 views x 736 bins: medrecon and its peers in one run.

    python benchmarks/ct_projectors.py [--threads 2] [--repeats 5] [--json]

The same image and projections in float32, for parallel and fan beams. CPU seconds of whole calls, of all threads: peers use as many
threads as they like. ASTRA's kernels are those of the CPU: `linear` is Joseph's method, `strip` the area of strips; it has no `linear`
for fans, `line` stands for it. scikit-image and DeepInverse have parallel beams alone, and models of their own. Last, few views and a
batch: the projector against its own stored matrix. Peers that are missing are left out.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from espirit import asked
from peers.deepinverse import deepinverse

from medrecon.physics.ct import CTOperator, FanBeam2D, Geometry, ParallelBeam2D, even_angles

SIZE, VIEWS, BINS, PIXEL = 512, 720, 736, 340 / 512
PARALLEL = ParallelBeam2D(angles=even_angles(VIEWS), n_bins=BINS, bin_spacing=PIXEL)
FAN = FanBeam2D(angles=even_angles(VIEWS, 2 * math.pi), n_bins=BINS, bin_spacing=1.2858, dso=595.0, dsd=1085.6)
CURVED = replace(FAN, detector="curved")

Calls = dict[str, tuple[Callable[[], object], Callable[[], object]]]
"""Name to projection and backprojection."""


def operator(geometry: Geometry, model: str, impl: str = "auto", size: int = SIZE) -> CTOperator:
    return CTOperator(geometry, (size, size), (340 / size, 340 / size), model=model, impl=impl)


def ours(geometry: Geometry, model: str, batch: int = 1, impl: str = "auto", size: int = SIZE) -> tuple[Callable, Callable]:
    A = operator(geometry, model, impl, size)
    image, projections = torch.rand(batch, *A.domain), torch.rand(batch, *A.range)
    return lambda: A(image), lambda: A.H(projections)


def astra_calls(geometry: ParallelBeam2D | FanBeam2D, kernel: str) -> tuple[Callable, Callable]:
    import astra

    grid = astra.create_vol_geom(SIZE, SIZE, *(PIXEL * SIZE / 2 * sign for sign in (-1, 1, -1, 1)))
    if isinstance(geometry, FanBeam2D):
        rays = astra.create_proj_geom("fanflat", geometry.bin_spacing, BINS, geometry.angles, geometry.dso, geometry.dsd - geometry.dso)
    else:
        rays = astra.create_proj_geom("parallel", geometry.bin_spacing, BINS, geometry.angles)
    made = astra.create_projector(kernel, rays, grid)
    image, projections = (np.random.default_rng(0).random(shape, np.float32) for shape in ((SIZE, SIZE), geometry.shape))

    def run(compute: Callable, data: np.ndarray) -> None:
        for held in compute(data, made)[:1]:
            astra.data2d.delete(held)

    return lambda: run(astra.create_sino, image), lambda: run(astra.create_backprojection, projections)


def skimage_calls() -> tuple[Callable, Callable]:
    from skimage.transform import iradon, radon

    image, degrees = np.random.default_rng(0).random((SIZE, SIZE), np.float32), np.rad2deg(PARALLEL.angles)
    projections = np.random.default_rng(0).random((BINS, VIEWS), np.float32)
    return (
        lambda: radon(np.pad(image, (BINS - SIZE) // 2), degrees),
        lambda: iradon(projections, degrees, output_size=SIZE, filter_name=None, circle=True),
    )


def deepinv_calls() -> tuple[Callable, Callable]:
    deepinv = deepinverse()
    if deepinv is None:
        raise ImportError("it is not installed")
    degrees = torch.rad2deg(torch.from_numpy(PARALLEL.angles)).float()
    physics = deepinv.physics.Tomography(angles=degrees, img_width=SIZE, circle=False, normalize=False)
    image = torch.rand(1, 1, SIZE, SIZE)
    projections = torch.rand_like(physics.A(image))
    return lambda: physics.A(image), lambda: physics.A_adjoint(projections)


def peers() -> dict[str, Calls]:
    """Title to what is compared; the first of each is medrecon."""
    found: dict[str, Calls] = {
        "parallel, joseph": {"medrecon": ours(PARALLEL, "joseph")},
        "parallel, footprints": {"medrecon": ours(PARALLEL, "sf")},
        "fan, joseph": {"medrecon": ours(FAN, "joseph")},
        "fan, footprints": {"medrecon": ours(FAN, "sf")},
        "curved fan, joseph": {"medrecon": ours(CURVED, "joseph")},
        "curved fan, footprints": {"medrecon": ours(CURVED, "sf")},
    }
    others: list[tuple[str, str, Callable[[], tuple[Callable, Callable]]]] = [
        ("parallel, joseph", "astra linear", lambda: astra_calls(PARALLEL, "linear")),
        ("parallel, footprints", "astra strip", lambda: astra_calls(PARALLEL, "strip")),
        ("fan, joseph", "astra line_fanflat", lambda: astra_calls(FAN, "line_fanflat")),
        ("fan, footprints", "astra strip_fanflat", lambda: astra_calls(FAN, "strip_fanflat")),
        ("parallel, joseph", "scikit-image", skimage_calls),
        ("parallel, joseph", "deepinv", deepinv_calls),
    ]
    for title, peer, make in others:
        try:
            found[title][peer] = make()
        except (ImportError, RuntimeError) as error:
            print(f"{peer} is left out: {error}", file=sys.stderr)
    for size, views, batch in ((512, 8, 1), (256, 8, 16), (256, 60, 1), (256, 60, 16)):
        few = replace(PARALLEL, angles=even_angles(views), n_bins=BINS * size // 512, bin_spacing=340 / size)
        found[f"{views} views of {batch} x {size}^2"] = {i: ours(few, "joseph", batch, i, size) for i in ("numba", "csr")}
    return found


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of one call; short ones are repeated."""
    start, times = time.process_time(), 0
    while times == 0 or time.process_time() - start < 0.1:
        call()
        times += 1
    return (time.process_time() - start) / times


def main() -> None:
    options = asked(__doc__)
    table = {}
    for title, calls in peers().items():
        for pair in calls.values():
            for call in pair:
                call()  # compile, build
        seconds: dict[str, list[list[float]]] = {name: [[], []] for name in calls}
        for _ in range(options.repeats):
            for name, pair in calls.items():
                for kept, call in zip(seconds[name], pair, strict=True):
                    kept.append(cpu_seconds(call))
        table[title] = {name: [statistics.median(kept) for kept in both] for name, both in seconds.items()}
        if not options.json:
            first = next(iter(table[title].values()))
            for name, (there, back) in table[title].items():
                ratio = f"{there / first[0]:.1f} x and {back / first[1]:.1f} x {next(iter(calls))}"
                print(f"{title:24s} {name:20s} forward {there:.4f} s, adjoint {back:.4f} s CPU, {ratio}", flush=True)
    if options.json:
        print(json.dumps({"threads": options.threads, "cpu_s": table}))


if __name__ == "__main__":
    main()
