"""Geometries there and back; ASTRA's own numbers, and its projectors, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.astra_bridge import AstraProjector, from_astra, pixels_from_astra, rows_first, rows_turned, to_astra
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D, even_angles
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.joseph_cpu import Joseph2D
from medrecon.physics.ct.rays import rays

ANGLES = even_angles(7, 2 * np.pi, 0.2)
FLAT: dict[str, Any] = {"angles": ANGLES, "n_bins": 17, "bin_spacing": 1.3}
ROWS: dict[str, Any] = {"n_rows": 5, "row_spacing": 1.6}
FAR: dict[str, Any] = {"dso": 40.0, "dsd": 65.0}
SQUARE, VOLUME = Pixels((12, 13), (1.1, 1.1), (0.4, -0.7)), Pixels((6, 12, 13), (1.5, 1.1, 1.2), (0.2, 0.4, -0.7))


def flying() -> VectorGeometry:
    cone = ConeBeam(**FLAT, **ROWS, **FAR, detector="curved")
    foci = cone.vectors()[:, :3] + np.random.default_rng(0).uniform(-1, 1, (7, 3))
    return VectorGeometry(kind_of="cone3d", rows_of_vectors=cone.vectors(), n_bins=17, n_rows=5, curved_detector=True, foci=foci)


GEOMETRIES: dict[str, Callable[[], Geometry]] = {
    "parallel": lambda: ParallelBeam2D(**FLAT, offset=0.6),
    "fan": lambda: FanBeam2D(**FLAT, **FAR, offset=0.6, axis_shift=-0.3),
    "parallel in space": lambda: ParallelBeam3D(**FLAT, **ROWS, tilt=(0.1, 0.05, -0.04)),
    "cone": lambda: ConeBeam(**FLAT, **ROWS, **FAR, offset=0.6, row_offset=0.3, tilt=(0.1, 0.05, -0.04)),
    "helix": lambda: HelicalCone(**FLAT, **ROWS, **FAR, feed=9.0),
    "curved": lambda: ConeBeam(**FLAT, **ROWS, **FAR, detector="curved", offset=0.6),
    "flying focus": flying,
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_geometry_comes_back_with_its_rays(name: str) -> None:
    geometry = GEOMETRIES[name]()
    pixels = SQUARE if geometry.dimensions == 2 else VOLUME
    projection, volume = to_astra(geometry, pixels)
    back = from_astra(projection)
    assert back.shape == geometry.shape
    for found, expected in zip(rays(back), rays(geometry), strict=True):
        assert np.abs(found - expected).max() < 1e-12
    again = pixels_from_astra(volume)
    assert again.shape == pixels.shape
    assert np.allclose(again.spacing, pixels.spacing, rtol=1e-14)
    assert np.allclose(again.centre, pixels.centre, rtol=0, atol=1e-14)


SIMPLE: dict[str, tuple[tuple[Any, ...], Geometry]] = {
    "parallel": ((1.3, 17, ANGLES), ParallelBeam2D(**FLAT)),
    "fanflat": ((1.3, 17, ANGLES, 40.0, 25.0), FanBeam2D(**FLAT, **FAR)),
    "parallel3d": ((1.3, 1.6, 5, 17, ANGLES), ParallelBeam3D(**FLAT, **ROWS)),
    "cone": ((1.3, 1.6, 5, 17, ANGLES, 40.0, 25.0), ConeBeam(**FLAT, **ROWS, **FAR)),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_vectors_are_those_that_astra_makes_of_its_own_geometries(name: str) -> None:
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed (extra astra)")
    arguments, ours = SIMPLE[name]
    theirs = astra.create_proj_geom(name, *arguments)
    found = from_astra(theirs)
    assert type(found) is type(ours)
    expected = astra.geom_2vec(theirs)
    mine = to_astra(found, SQUARE if ours.dimensions == 2 else VOLUME)[0]
    assert mine.keys() == expected.keys()
    assert mine["type"] == expected["type"]
    assert np.abs(mine["Vectors"] - expected["Vectors"]).max() < 1e-13
    assert np.abs(ours.vectors() - expected["Vectors"]).max() < 1e-13


@pytest.mark.parametrize("pixels", [SQUARE, VOLUME])
def test_the_volume_is_the_window_that_astra_knows(pixels: Pixels) -> None:
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed (extra astra)")
    geometry = GEOMETRIES["parallel" if len(pixels.shape) == 2 else "cone"]()
    ends = [
        e
        for n, s, c in zip(*(a[::-1] for a in (pixels.shape, pixels.spacing, pixels.centre)), strict=True)
        for e in (c - n * s / 2, c + n * s / 2)
    ]
    rows_columns_slices = (*pixels.shape[-2:], *pixels.shape[:-2])
    assert to_astra(geometry, pixels)[1] == astra.create_vol_geom(*rows_columns_slices, *ends)


EXAMPLES = [("parallel", "joseph", 1e-5), ("parallel", "line", 0.08), ("parallel", "sf", 0.08), ("fan", "line", 0.08)]


@pytest.mark.parametrize(("name", "model", "bound"), EXAMPLES)
def test_astras_projector_agrees_with_josephs_and_is_matched(name: str, model: str, bound: float) -> None:
    pytest.importorskip("astra", reason="astra-toolbox is not installed (extra astra)")
    geometry = GEOMETRIES[name]()
    A, B = AstraProjector(geometry, SQUARE, model), Joseph2D(geometry, SQUARE)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, *SQUARE.shape, generator=draw), torch.rand(2, *geometry.shape, generator=draw)
    found, expected = A.forward(x), B.forward(x)
    assert (found - expected).norm() < bound * expected.norm()
    assert abs((found * y).sum() - (x * A.adjoint(y)).sum()) < 1e-5 * found.norm() * y.norm()


def test_a_centred_fan_has_strips_and_another_has_not() -> None:
    pytest.importorskip("astra", reason="astra-toolbox is not installed (extra astra)")
    x = torch.rand(1, *SQUARE.shape, generator=torch.Generator().manual_seed(1))
    fan = FanBeam2D(**FLAT, **FAR)
    expected = Joseph2D(fan, SQUARE).forward(x)
    assert (AstraProjector(fan, SQUARE, "sf").forward(x) - expected).norm() < 0.08 * expected.norm()
    with pytest.raises(NotSupported, match="centred"):
        AstraProjector(GEOMETRIES["fan"](), SQUARE, "sf")


@pytest.mark.parametrize(("name", "model", "words"), [("fan", "joseph", "no linear"), ("cone", "joseph", "GPU alone")])
def test_what_astra_lacks_is_named(name: str, model: str, words: str) -> None:
    pytest.importorskip("astra", reason="astra-toolbox is not installed (extra astra)")
    with pytest.raises(NotSupported, match=words):
        AstraProjector(GEOMETRIES[name](), SQUARE, model)
    with pytest.raises(BadInput, match="did you mean"):
        AstraProjector(GEOMETRIES["parallel"](), SQUARE, "josef")


def test_a_curved_detector_in_the_plane_and_unknown_types_are_refused() -> None:
    with pytest.raises(NotSupported, match="curved"):
        to_astra(FanBeam2D(**FLAT, **FAR, detector="curved"), SQUARE)
    with pytest.raises(BadInput, match="cone_vec"):
        from_astra({"type": "cone_vecs"})
    with pytest.raises(BadInput, match="DetectorWidth"):
        from_astra({"type": "parallel", "ProjectionAngles": ANGLES, "DetectorCount": 17})


def test_arrays_in_space_change_their_axes_and_come_back() -> None:
    projections, volume = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5), torch.arange(24).view(2, 3, 4)
    assert rows_first(projections).shape == (2, 4, 3, 5)
    assert torch.equal(rows_first(projections)[0, 1, 2], projections[0, 2, 1])
    assert torch.equal(rows_first(rows_first(projections)), projections)
    assert torch.equal(rows_turned(volume)[:, 0], volume[:, -1])
    assert torch.equal(rows_turned(rows_turned(volume)), volume)
