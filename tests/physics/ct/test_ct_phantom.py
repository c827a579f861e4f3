"""Phantoms: exact projections against numerical integrals of their own values, rasters, golden data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput
from medrecon.physics.ct import ConeBeam, FanBeam2D, Geometry, ParallelBeam2D, ParallelBeam3D, VectorGeometry, even_angles
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.phantom import Blob, Ellipsoid, Shape, disc, exact_projections, head, raster
from medrecon.physics.ct.rays import rays
from medrecon.physics.phantom import ellipse_image, shepp_logan

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "ct"
ROWS: dict[str, Any] = {"n_rows": 4, "row_spacing": 8.0, "row_offset": 2.0, "tilt": (0.05, -0.1, 0.1)}
BEAM: dict[str, Any] = {"angles": even_angles(5, 6.0, 0.3), "n_bins": 9, "bin_spacing": 6.0, "offset": 1.5}
GEOMETRIES = [
    ParallelBeam2D(**BEAM),
    FanBeam2D(**BEAM, dso=80.0, dsd=130.0),
    FanBeam2D(**BEAM, dso=80.0, dsd=130.0, detector="curved"),
    ParallelBeam3D(**BEAM, **ROWS),
    ConeBeam(**BEAM, **ROWS, dso=80.0, dsd=130.0),
]
FLAT: list[Shape] = [Ellipsoid(0.02, (4.0, -6.0), (14.0, 9.0), 0.6), Blob(0.03, (-5.0, 8.0), 6.0)]
SOLID: list[Shape] = [Ellipsoid(0.02, (2.0, 4.0, -6.0), (11.0, 14.0, 9.0), 0.6), Blob(0.03, (3.0, -5.0, 8.0), 6.0)]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
@pytest.mark.parametrize("solid", [False, True])
def test_projections_are_integrals_of_the_values(geometry: Geometry, solid: bool) -> None:
    if solid and geometry.dimensions == 2:
        with pytest.raises(BadInput, match="dimensions"):
            exact_projections(SOLID, geometry)
        with pytest.raises(BadInput, match=r"\(y, x\)"):
            exact_projections(SOLID[1:], geometry)
        return
    shapes = SOLID if solid else FLAT
    points, directions = rays(geometry)
    t = np.linspace(-200, 200, 20001)
    summed = np.zeros(geometry.shape)
    for index in np.ndindex(*geometry.shape):
        along = points[index] + t[:, None] * directions[index]
        summed[index] = sum(shape.value(along) for shape in shapes).sum() * (t[1] - t[0])
    np.testing.assert_allclose(exact_projections(shapes, geometry).numpy(), summed, atol=0.02 * 0.05)


def test_the_mean_over_a_bin_is_that_of_many_rays() -> None:
    for geometry in GEOMETRIES[:3]:
        many = exact_projections(FLAT, geometry, samples=64)
        assert (exact_projections(FLAT, geometry, samples=8) - many).abs().max() < 0.01
        assert (exact_projections(FLAT, geometry) - many).abs().max() > 0.02
    cone = GEOMETRIES[4]
    many = exact_projections(SOLID, cone, samples=16)
    assert (exact_projections(SOLID, cone, samples=8) - many).abs().max() < 0.01
    assert (exact_projections(SOLID, cone) - many).abs().max() > 0.02


def test_mass_of_a_parallel_view_is_that_of_the_phantom() -> None:
    geometry = ParallelBeam2D(angles=even_angles(7), n_bins=300, bin_spacing=0.25, offset=0.1)
    mass = exact_projections(FLAT, geometry, samples=8).sum(1) * 0.25
    expected = 0.02 * math.pi * 14 * 9 + 0.03 * 2 * math.pi * 36
    torch.testing.assert_close(mass, torch.full((7,), expected, dtype=torch.float64), rtol=1e-3, atol=0)


def test_an_ellipse_in_space_is_a_cylinder() -> None:
    cone = GEOMETRIES[4]
    long = Ellipsoid(0.02, (0.0, 4.0, -6.0), (1e7, 14.0, 9.0), 0.6)
    torch.testing.assert_close(exact_projections(FLAT[:1], cone), exact_projections([long], cone), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["fbp128", "cone32"])
def test_golden_projections_and_images(name: str) -> None:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as found:
        golden = {key: torch.from_numpy(found[key]).double() for key in found.files}
    if name == "fbp128":
        shapes = [Ellipsoid(mu, (y, x), (b, a), phi) for x, y, a, b, phi, mu in facts["ellipses_x0_y0_a_b_phi_mu"]]
        fan = FanBeam2D(angles=even_angles(360, 2 * math.pi), n_bins=160, bin_spacing=1.6, dso=200.0, dsd=320.0)
        assert (exact_projections(shapes, fan, samples=16) - golden["sino_fan"]).abs().max() < 1e-6
        assert (raster(shapes, Pixels((128, 128), (1.0, 1.0))) - golden["truth"]).abs().max() < 1e-8
        return
    solids = [Ellipsoid(mu, (z, y, x), (c, b, a), phi) for x, y, z, a, b, c, phi, mu in facts["ellipsoids_x_y_z_a_b_c_phi_mu"]]
    for kind in ("circular", "helical"):
        expected = golden[f"analytic_{kind}"]
        geometry = VectorGeometry(kind_of="cone3d", rows_of_vectors=golden[f"vectors_{kind}"].numpy(), n_rows=24, n_bins=48)
        assert (exact_projections(solids, geometry) - expected).abs().max() < 1e-5
    assert (raster(solids, Pixels((32, 32, 32), (4.0,) * 3), samples=3) - golden["vol"]).norm() / golden["vol"].norm() < 0.02


def test_the_head_is_the_one_of_the_package_the_right_way_up() -> None:
    n, radius = 96, 40.0
    # Its pixel n // 2 lies on the origin, a half pixel from the middle of ours.
    spacing = 2 * radius / n
    ours = raster(head(radius, 2.0), Pixels((n, n), (spacing, spacing), (spacing / 2, -spacing / 2)), samples=4)
    torch.testing.assert_close(ours, 2 * ellipse_image(shepp_logan(), (n, n), oversampling=4), rtol=0, atol=0.05)
    assert (ours.flip(0) - ours).abs().max() > 0.1


def test_rasters_count_area_and_volume() -> None:
    plane = raster(FLAT[:1], Pixels((31, 40), (1.5, 1.25), (3.0, -5.0)))
    assert float(plane.sum()) * 1.5 * 1.25 == pytest.approx(0.02 * math.pi * 14 * 9, rel=2e-3)
    ball = raster(disc(6.0, 1.0, (2.0, 1.0, -1.0)), Pixels((11, 12, 13), (1.5, 1.25, 1.0), (2.0, 0.0, 0.0)), samples=6)
    assert ball.shape == (11, 12, 13)
    assert float(ball.sum()) * 1.5 * 1.25 == pytest.approx(4 / 3 * math.pi * 216, rel=5e-3)
    for axis, (centre, spacing, middle) in enumerate(((2.0, 1.5, 2.0), (1.0, -1.25, 0.0), (-1.0, 1.0, 0.0))):
        along = ball.sum([a for a in range(3) if a != axis])
        place = middle + spacing * (torch.arange(len(along), dtype=torch.float64) - (len(along) - 1) / 2)
        assert float((along * place).sum() / along.sum()) == pytest.approx(centre, abs=0.04)


def test_a_shape_without_size_is_refused() -> None:
    with pytest.raises(BadInput, match="axes"):
        Ellipsoid(0.02, (0.0, 0.0), (3.0, 0.0))
    with pytest.raises(BadInput, match="axes"):
        Ellipsoid(0.02, (0.0, 0.0), (3.0, 1.0, 2.0))
