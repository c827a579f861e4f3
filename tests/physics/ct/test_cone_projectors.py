"""Projectors in space against matrices written out, balls and blobs whose line integrals are known, and analytic goldens."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medrecon.physics.ct.joseph3d_cpu as joseph3d
from medrecon.errors import BadInput
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam3D, even_angles
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.joseph3d_cpu import Joseph3D
from medrecon.physics.ct.joseph_cpu import Joseph2D
from medrecon.physics.ct.rays import rays

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "ct"

SCANNER: dict[str, Any] = {"angles": even_angles(5, 2 * np.pi, 0.1), "n_bins": 9, "bin_spacing": 2.3, "n_rows": 6, "row_spacing": 2.1}
CONE: dict[str, Any] = {**SCANNER, "dso": 40.0, "dsd": 65.0}


def focus_shifted() -> VectorGeometry:
    cone = ConeBeam(**CONE, detector="curved")
    foci = cone.vectors()[:, :3] + np.random.default_rng(3).uniform(-1, 1, (5, 3))
    return VectorGeometry(kind_of="cone3d", rows_of_vectors=cone.vectors(), n_bins=9, n_rows=6, curved_detector=True, foci=foci)


def steep() -> VectorGeometry:
    """A laminograph: the source far below, some rays closer to z than to any other axis."""
    angle = np.arange(4) * np.pi / 2 + 0.2
    source = 60 * np.stack([np.sin(angle) * 0.6, -np.cos(angle) * 0.6, np.full(4, -0.8)], 1)
    u, v = (
        np.stack(axis, 1)
        for axis in ((np.cos(angle), np.sin(angle), 0 * angle), (0.8 * np.sin(angle), -0.8 * np.cos(angle), 0.6 + 0 * angle))
    )
    return VectorGeometry(
        kind_of="cone3d", rows_of_vectors=np.concatenate([source, -0.5 * source, 1.9 * u, 2.2 * v], 1), n_bins=8, n_rows=7
    )


def sloping() -> VectorGeometry:
    """Parallel rays that climb, on a detector that stands upright."""
    vectors = ParallelBeam3D(**SCANNER).vectors()
    vectors[:, 2] = 0.3
    return VectorGeometry(kind_of="parallel3d", rows_of_vectors=vectors, n_bins=9, n_rows=6)


def upside_down() -> VectorGeometry:
    vectors = ConeBeam(**CONE).vectors()
    vectors[:, 9:] *= -1
    return VectorGeometry(kind_of="cone3d", rows_of_vectors=vectors, n_bins=9, n_rows=6)


GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelBeam3D(**SCANNER, offset=0.7, row_offset=-0.4),
    "parallel, tilted": ParallelBeam3D(**SCANNER, tilt=(0.1, -0.05, 0.07)),
    "parallel, sloping": sloping(),
    "flat": ConeBeam(**CONE, offset=1.1, row_offset=0.6, z=0.3, axis_shift=-0.4),
    "flat, tilted": ConeBeam(**CONE, tilt=(0.1, -0.05, 0.07)),
    "flat, rows downwards": upside_down(),
    "curved": ConeBeam(**CONE, detector="curved", offset=0.9),
    "one row": ConeBeam(**{**CONE, "n_rows": 1}),
    "helix": HelicalCone(**CONE, feed=7.0),
    "curved helix": HelicalCone(**CONE, feed=7.0, detector="curved"),
    "flying focus": focus_shifted(),
    "laminograph": steep(),
}

ODD = Pixels((5, 8, 7), (1.7, 1.3, 1.1), (0.4, -0.8, 0.6))


def matrix(geometry: Geometry, pixels: Pixels) -> np.ndarray:
    """Joseph's method in words, ray by ray and voxel by voxel: (ray, voxel)."""
    nz, ny, nx = pixels.shape
    dz, dy, dx = pixels.spacing
    cz, cy, cx = pixels.centre
    points, directions = (a.reshape(-1, 3) for a in rays(geometry))
    found = np.zeros((len(points), nz, ny, nx))
    for weights, (px, py, pz), (qx, qy, qz) in zip(found, points, directions, strict=True):
        start = np.array([(pz - cz) / dz + (nz - 1) / 2, (ny - 1) / 2 - (py - cy) / dy, (px - cx) / dx + (nx - 1) / 2])
        move = np.array([qz / dz, -qy / dy, qx / dx])
        lead = int(np.argmax(np.abs(move)))
        for c in range(pixels.shape[lead]):
            t = (c - start[lead]) / move[lead]
            at = start + t * move
            low = np.floor(at).astype(int)
            for corner in itertools.product((0, 1), repeat=3):
                index = low + corner
                index[lead] = c
                if corner[lead] or (index < 0).any() or (index >= pixels.shape).any():
                    continue
                share = [1 - abs(at[a] - index[a]) for a in range(3) if a != lead]
                weights[tuple(index)] += math.prod(share) / abs(move[lead])
    return found.reshape(len(points), -1)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_projection_is_the_matrix_of_joseph_and_the_adjoint_is_its_transpose(name: str) -> None:
    geometry = GEOMETRIES[name]
    A, expected = Joseph3D(geometry, ODD), torch.from_numpy(matrix(geometry, ODD))
    voxels, bins = math.prod(ODD.shape), math.prod(geometry.shape)
    forward = A.forward(torch.eye(voxels, dtype=torch.float64).view(voxels, *ODD.shape)).view(voxels, bins).T
    adjoint = A.adjoint(torch.eye(bins, dtype=torch.float64).view(bins, *geometry.shape)).view(bins, voxels)
    assert expected.abs().sum() > 0
    assert relative(forward, expected) < 1e-6  # the border of the margin, see EDGE
    assert (forward - adjoint).abs().max() < 1e-14


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_inner_products_agree_in_a_batch_of_odd_sizes(name: str, dtype: torch.dtype, bound: float) -> None:
    A = Joseph3D(GEOMETRIES[name], ODD)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, *ODD.shape, generator=draw, dtype=dtype)
    y = torch.randn(3, *GEOMETRIES[name].shape, generator=draw, dtype=dtype)
    Ax, Aty = A.forward(x), A.adjoint(y)
    assert Ax.dtype == Aty.dtype == dtype
    assert Ax.shape == y.shape
    assert Aty.shape == x.shape
    assert abs((Ax.double() * y).sum() - (x.double() * Aty).sum()) <= bound * Ax.norm() * y.norm()
    assert torch.equal(Ax[1:2], A.forward(x[1:2]))
    assert torch.equal(Aty[2:], A.adjoint(y[2:]))


@pytest.mark.parametrize("name", ["flat", "flat, tilted"])
def test_threads_turns_and_strides_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = Pixels((20, 37, 41), (1.0, 1.0, 1.0))
    kind: dict[str, Any] = {**CONE, "angles": even_angles(7, 2 * np.pi), "n_bins": 60, "n_rows": 30, "tilt": GEOMETRIES[name].tilt}
    A = Joseph3D(ConeBeam(**kind), pixels)
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, *pixels.shape, generator=draw), torch.randn(2, *A.geometry.shape, generator=draw)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        Ax, Aty = A.forward(x), A.adjoint(y)
        torch.set_num_threads(3)
        assert torch.equal(A.forward(x), Ax)
        assert torch.equal(A.adjoint(y), Aty)
    finally:
        torch.set_num_threads(threads)
    strided = x.movedim(1, 3).contiguous().movedim(3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(A.forward(strided), Ax)
    monkeypatch.setattr(joseph3d, "BUDGET", 1)
    assert torch.equal(A.forward(x), Ax)
    assert torch.equal(A.adjoint(y), Aty)


@pytest.mark.parametrize("name", [n for n in GEOMETRIES if n not in ("parallel, tilted", "flat, tilted", "laminograph")])
def test_columns_together_are_rays_one_by_one(name: str) -> None:
    A, B = (Joseph3D(GEOMETRIES[name], ODD) for _ in range(2))
    assert A._columns is not None
    B.__dict__["_columns"] = None
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(1, *ODD.shape, generator=draw, dtype=torch.float64)
    y = torch.randn(1, *A.geometry.shape, generator=draw, dtype=torch.float64)
    assert relative(A.forward(x), B.forward(x)) < 1e-9
    assert relative(A.adjoint(y), B.adjoint(y)) < 1e-9


def test_parallel_rows_that_are_slices_are_projected_as_images() -> None:
    geometry = ParallelBeam3D(**{**SCANNER, "row_spacing": 1.7, "n_rows": 5}, offset=0.7, row_offset=0.4)
    x = torch.randn(2, *ODD.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slices = Joseph2D(geometry.slices(), Pixels(ODD.shape[1:], ODD.spacing[1:], ODD.centre[1:]))
    expected = slices.forward(x.flatten(0, 1)).view(2, 5, 5, 9).transpose(1, 2)
    assert relative(Joseph3D(geometry, ODD).forward(x), expected) < 1e-9


def test_the_middle_row_of_a_cone_is_a_fan() -> None:
    pixels = Pixels((1, 12, 11), (1.0, 1.2, 1.1))
    for detector in ("flat", "curved"):
        fan = FanBeam2D(angles=SCANNER["angles"], n_bins=9, bin_spacing=2.3, dso=40.0, dsd=65.0, detector=detector)
        cone = ConeBeam(**{**CONE, "n_rows": 1}, detector=detector)
        x = torch.rand(1, *pixels.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        expected = Joseph2D(fan, Pixels(pixels.shape[1:], pixels.spacing[1:])).forward(x[:, 0])
        assert relative(Joseph3D(cone, pixels).forward(x)[:, :, 0], expected) < 1e-9


def test_twice_the_lengths_is_twice_the_integral() -> None:
    small = ConeBeam(**CONE)
    large = ConeBeam(**{**CONE, "bin_spacing": 4.6, "row_spacing": 4.2, "dso": 80.0, "dsd": 130.0})
    x = torch.rand(1, 5, 8, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    one, two = (Joseph3D(g, Pixels((5, 8, 7), (s * 1.7, s * 1.3, s * 1.1))).forward(x) for g, s in ((small, 1), (large, 2)))
    assert relative(two, 2 * one) < 1e-9


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' rotation (3, 3)."""
    x, y, z = axis / np.linalg.norm(axis)
    turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * turn + (1 - np.cos(angle)) * turn @ turn


def by_hand(
    angle: float, *, tilt: tuple[float, float, float], offset: float, row_offset: float, shift: float, z: float
) -> tuple[np.ndarray, np.ndarray]:
    """Source (3,) and bins (row, bin, 3) of `CONE` with a misaligned detector: built at angle 0, then turned with the gantry."""
    across, up, back = np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    roll, pitch, yaw = tilt
    across, up = about(back, -roll) @ across, about(back, -roll) @ up  # columns climb
    up = about(across, -pitch) @ up  # rows lean away from the source
    across = about(up, yaw) @ across  # and so do columns
    centre = np.array([offset, 65.0 - 40.0, row_offset])
    row, column = np.arange(6) - 2.5, np.arange(9) - 4.0
    bins = centre + 2.3 * column[None, :, None] * across + 2.1 * row[:, None, None] * up
    moved = np.array([shift, 0, z])
    gantry = about(np.array([0, 0, 1.0]), angle)
    return gantry @ (np.array([0, -40.0, 0]) + moved), (bins + moved) @ gantry.T


def blob(points: np.ndarray, directions: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """Line integrals of exp(-|X - centre|^2 / (2 width^2)) along unit directions (..., 3)."""
    from_centre = points - centre
    distance = (from_centre**2).sum(-1) - (from_centre * directions).sum(-1) ** 2
    return math.sqrt(2 * math.pi) * width * np.exp(-distance / (2 * width**2))


def sampled_blob(pixels: Pixels, centre: np.ndarray, width: float) -> Tensor:
    z, y, x = axes(pixels)
    return torch.from_numpy(np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * width**2)))


def axes(pixels: Pixels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates mm (z, y, x) of the voxels, to be broadcast."""
    z, y, x = (
        c + sign * (np.arange(n) - (n - 1) / 2) * s
        for n, s, c, sign in zip(pixels.shape, pixels.spacing, pixels.centre, (1, -1, 1), strict=True)
    )
    return z[:, None, None], y[:, None], x


def test_offsets_and_tilt_put_the_rays_where_a_drawing_puts_them() -> None:
    wrong: dict[str, Any] = {"tilt": (0.15, -0.1, 0.12), "offset": 1.3, "row_offset": -0.9}
    geometry = ConeBeam(**CONE, **wrong, axis_shift=0.8, z=0.5)
    pixels, centre, width = Pixels((48, 50, 52), (0.4, 0.4, 0.4)), np.array([1.5, -1.0, 0.7]), 1.6
    found = Joseph3D(geometry, pixels).forward(sampled_blob(pixels, centre, width)[None])[0]
    expected = []
    for angle in geometry.angles:
        source, bins = by_hand(float(angle), **wrong, shift=0.8, z=0.5)
        directions = (bins - source) / np.linalg.norm(bins - source, axis=-1, keepdims=True)
        expected.append(blob(source, directions, centre, width))
    assert relative(found, torch.from_numpy(np.stack(expected))) < 0.02


@pytest.mark.parametrize("name", ["parallel, sloping", "flat", "curved", "curved helix", "flying focus", "laminograph"])
def test_a_smooth_blob_has_its_line_integrals(name: str) -> None:
    pixels, centre, width = Pixels((44, 50, 52), (0.5, 0.45, 0.4), (0.3, -0.2, 0.1)), np.array([1.0, -0.7, 0.5]), 1.6
    found = Joseph3D(GEOMETRIES[name], pixels).forward(sampled_blob(pixels, centre, width)[None])[0]
    assert relative(found, torch.from_numpy(blob(*rays(GEOMETRIES[name]), centre, width))) < 0.02


@pytest.mark.parametrize("name", ["parallel", "flat", "curved"])
def test_a_ball_has_its_chords(name: str) -> None:
    pixels, centre, radius = Pixels((40, 40, 40), (0.5, 0.5, 0.5)), np.array([1.1, -0.6, 0.4]), 7.0
    fine = Pixels((120, 120, 120), (0.5 / 3,) * 3)
    z, y, x = axes(fine)
    ball = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2).astype(np.float64)
    volume = torch.nn.functional.avg_pool3d(torch.from_numpy(ball)[None, None], 3)[0]
    points, directions = rays(GEOMETRIES[name])
    away = points - centre
    distance = (away**2).sum(-1) - (away * directions).sum(-1) ** 2
    chords = torch.from_numpy(2 * np.sqrt(np.maximum(radius**2 - distance, 0)))
    assert relative(Joseph3D(GEOMETRIES[name], pixels).forward(volume)[0], chords) < 0.03


@pytest.mark.parametrize("trajectory", ["circular", "helical"])
def test_analytic_ellipsoids_are_met_and_mirrored_detectors_are_not(trajectory: str) -> None:
    facts, golden = json.loads((GOLDEN / "cone32.json").read_text()), np.load(GOLDEN / "cone32.npz")
    expected = torch.from_numpy(golden[f"analytic_{trajectory}"]).double()
    _, n_rows, n_bins = expected.shape
    n, spacing = facts["volume"]["n"], facts["volume"]["p_mm"]
    geometry = VectorGeometry(kind_of="cone3d", rows_of_vectors=golden[f"vectors_{trajectory}"], n_bins=n_bins, n_rows=n_rows)
    found = Joseph3D(geometry, Pixels((n,) * 3, (spacing,) * 3)).forward(torch.from_numpy(golden["vol"]).double()[None])[0]
    error = relative(found, expected)
    assert error < 5.5e-2
    assert relative(found.flip(-1), expected) > 2 * error
    assert relative(found.flip(-2), expected) > 1.5 * error


def test_half_precision_is_computed_in_single_and_returned() -> None:
    A = Joseph3D(GEOMETRIES["flat"], ODD)
    x = torch.rand(1, *ODD.shape, generator=torch.Generator().manual_seed(6)).half()
    assert torch.equal(A.forward(x), A.forward(x.float()).half())


def test_an_empty_batch_stays_empty() -> None:
    A = Joseph3D(GEOMETRIES["flat"], ODD)
    assert A.forward(torch.zeros(0, *ODD.shape)).shape == (0, 5, 6, 9)
    assert A.adjoint(torch.zeros(0, 5, 6, 9)).shape == (0, *ODD.shape)


def test_a_geometry_of_the_plane_is_refused() -> None:
    fan = FanBeam2D(angles=even_angles(4), n_bins=5, bin_spacing=1.0, dso=40.0, dsd=65.0)
    with pytest.raises(BadInput, match="in space"):
        Joseph3D(fan, ODD)
