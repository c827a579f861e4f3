"""The GPU's projectors against those of the CPU: on the GPU where there is one, else in Triton's interpreter, in a process of its own
that knows from its first import that it interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medrecon.physics.ct.kernels_gpu as kernels_gpu
from medrecon.errors import NotSupported
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D, even_angles
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels, Projector
from medrecon.physics.ct.joseph3d_cpu import Joseph3D
from medrecon.physics.ct.joseph_cpu import Joseph2D
from medrecon.physics.ct.kernels_gpu import TritonJoseph2D, TritonJoseph3D

pytest.importorskip("triton", reason="triton is not installed (it comes with torch for CUDA)")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs_here = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU: the first test interprets them")
DEVICE = "cpu" if INTERPRETED else "cuda"

FLAT: dict[str, Any] = {"angles": even_angles(3, 2 * np.pi, 0.1), "n_bins": 7, "bin_spacing": 2.3}
SPACE: dict[str, Any] = {"angles": even_angles(2, 2.0, 0.6), "n_bins": 5, "bin_spacing": 1.9, "n_rows": 4, "row_spacing": 1.7}
FAR: dict[str, Any] = {"dso": 40.0, "dsd": 65.0}


def laminograph() -> VectorGeometry:
    """Rays that march along z."""
    vectors = [[-12.0, -20, -50, 6, 10, 25, 1.9, 0, 0, 0, 1.9, 0.3], [20.0, -14, -48, -10, 7, 24, 1.5, 1.1, 0, -1.1, 1.5, 0.2]]
    return VectorGeometry(kind_of="cone3d", rows_of_vectors=np.array(vectors), n_bins=5, n_rows=4)


def reversed_fan() -> VectorGeometry:
    vectors = FanBeam2D(**FLAT, **FAR).vectors()
    vectors[:, 4:] *= -1
    return VectorGeometry(kind_of="fan2d", rows_of_vectors=vectors, n_bins=7)


GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelBeam2D(**FLAT, offset=0.6),
    "fan": FanBeam2D(**FLAT, **FAR, offset=0.5),
    "reversed fan": reversed_fan(),
    "curved fan": FanBeam2D(**FLAT, **FAR, detector="curved", offset=0.5),
    "parallel, tilted": ParallelBeam3D(**SPACE, tilt=(0.1, -0.05, 0.07)),
    "cone": ConeBeam(**SPACE, **FAR, offset=0.5, row_offset=-0.3),
    "curved helix": HelicalCone(**SPACE, **FAR, detector="curved", feed=5.0),
    "laminograph": laminograph(),
}
PLANE, VOLUME = Pixels((6, 7), (1.7, 1.3), (0.4, -0.6)), Pixels((3, 4, 5), (1.4, 1.3, 1.1), (0.2, -0.3, 0.4))


def test_all_of_them_in_the_interpreter() -> None:
    if INTERPRETED or torch.cuda.is_available():
        pytest.skip("they run here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).resolve())]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(GEOMETRIES) * 2 + 1} passed" in done.stdout, done.stdout


def pair(name: str) -> tuple[Projector, Projector, Pixels]:
    geometry = GEOMETRIES[name]
    if geometry.dimensions == 2:
        return TritonJoseph2D(geometry, PLANE), Joseph2D(geometry, PLANE), PLANE
    return TritonJoseph3D(geometry, VOLUME), Joseph3D(geometry, VOLUME), VOLUME


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


@runs_here
@pytest.mark.parametrize(("dtype", "bound", "matched"), [(torch.float32, 2e-6, 1e-6), (torch.float64, 1e-6, 1e-13)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_projection_and_transpose_are_those_of_the_cpu(
    name: str, dtype: torch.dtype, bound: float, matched: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if INTERPRETED:
        monkeypatch.setattr(kernels_gpu, "BLOCK", 128)  # the interpreter pays for programs, not for their width
    monkeypatch.setattr(kernels_gpu, "BUDGET", 1)  # views one by one
    A, B, pixels = pair(name)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, *pixels.shape, generator=draw, dtype=dtype)
    y = torch.randn(2, *GEOMETRIES[name].shape, generator=draw, dtype=dtype)
    Ax, Aty = A.forward(x.to(DEVICE)), A.adjoint(y.to(DEVICE))
    assert Ax.dtype == Aty.dtype == dtype
    assert relative(Ax, B.forward(x)) < bound
    assert relative(Aty, B.adjoint(y)) < bound
    assert abs((Ax.cpu().double() * y).sum() - (x.double() * Aty.cpu()).sum()) < matched * Ax.norm() * y.norm()


@runs_here
def test_a_flying_focus_is_left_to_the_cpu() -> None:
    cone = ConeBeam(**SPACE, **FAR, detector="curved").vectors()
    geometry = VectorGeometry(kind_of="cone3d", rows_of_vectors=cone, n_bins=5, n_rows=4, curved_detector=True, foci=cone[:, :3] + 0.1)
    with pytest.raises(NotSupported, match="flying"):
        TritonJoseph3D(geometry, VOLUME)
