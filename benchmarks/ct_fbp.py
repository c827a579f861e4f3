"""Filtered backprojection of 720 views of 736 bins to 512 x 512 pixels, beside scikit-image's iradon in the same run.

    python benchmarks/ct_fbp.py [--runs 5] [--threads 2] [--size 512] [--views 720]

Best of the runs after one that compiles, wall seconds and CPU seconds (all threads): on a busy machine the latter are to be compared.
The error is that of the Shepp-Logan head from exact projections, RMSE in HU of water within the field of view; iradon is given the same
parallel projections with its own conventions (its axis stands at bin K // 2, half a bin from the middle of an even detector).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medrecon.physics.ct import FanBeam2D, Geometry, ParallelBeam2D, even_angles, fbp
from medrecon.physics.ct.backproject import centres
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.phantom import exact_projections, head, raster

WATER, WIDTH, RADIUS = 0.0192, 340.0, 160.0


def best(task: Callable[[], Tensor], runs: int) -> tuple[Tensor, float, float]:
    """The result, wall seconds, CPU seconds."""
    result, walls, cpus = task(), [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        task()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return result, min(walls), min(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=720)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    n, views = given.size, given.views
    n_bins, step = round(736 * n / 512), WIDTH / n
    pixels, fan_step = Pixels((n, n), (step, step)), 1.2858 * 512 / n
    turn = even_angles(views, 2 * math.pi)
    geometries: dict[str, Geometry] = {
        "parallel": ParallelBeam2D(angles=even_angles(views), n_bins=n_bins, bin_spacing=step),
        "fan, flat": FanBeam2D(angles=turn, n_bins=n_bins, bin_spacing=fan_step, dso=595.0, dsd=1085.6),
        "fan, curved": FanBeam2D(angles=turn, n_bins=n_bins, bin_spacing=fan_step, dso=595.0, dsd=1085.6, detector="curved"),
    }
    truth = raster(head(RADIUS, WATER), pixels)
    y, x = centres(pixels)
    inside = torch.from_numpy(np.hypot(x, y[:, None]) < RADIUS)

    def tell(name: str, image: Tensor, wall: float, cpu: float) -> None:
        error = 1000 * float(((image.double() - truth)[inside] / WATER).square().mean().sqrt())
        print(f"{name:24s} {wall:8.3f} s wall {cpu:8.3f} s CPU   RMSE {error:6.2f} HU", flush=True)

    for name, geometry in geometries.items():
        sinogram = exact_projections(head(RADIUS, WATER), geometry, samples=4).float()
        tell(f"medrecon {name}", *best(lambda s=sinogram, g=geometry: fbp(s, g, pixels), given.runs))  # type: ignore[misc]
    tell("scikit-image parallel", *best(scikit_image(geometries["parallel"], n, step), max(1, given.runs // 2)))


def scikit_image(geometry: Geometry, n: int, step: float) -> Callable[[], Tensor]:
    """iradon of the same object; the detector is moved by the half bin that its conventions differ by, as is the image."""
    from dataclasses import replace

    from skimage.transform import iradon

    assert isinstance(geometry, ParallelBeam2D)
    # iradon: column = K // 2 + x cos - y sin with pixel n // 2 at the origin, y down, so its image is centred half a pixel away.
    moved = replace(geometry, offset=-step / 2 if geometry.n_bins % 2 == 0 else 0.0)
    shapes = [replace(e, centre=(e.centre[0] + step / 2, e.centre[1] - step / 2)) for e in head(RADIUS, WATER)]
    sinogram = exact_projections(shapes if n % 2 == 0 else head(RADIUS, WATER), moved, samples=4).float().numpy().T / step
    degrees = np.rad2deg(geometry.angles)
    return lambda: torch.from_numpy(iradon(sinogram, theta=degrees, output_size=n, filter_name="ramp", circle=False).astype(np.float32))


if __name__ == "__main__":
    main()
