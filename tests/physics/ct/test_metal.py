"""Metal artefacts in a body with bones, against the body without metal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput
from medrecon.physics.ct.analytic import analytic
from medrecon.physics.ct.circular import FanBeam2D, ParallelBeam2D, even_angles
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.metal import interpolated_metal, normalised_metal
from medrecon.physics.ct.phantom import Ellipsoid, exact_projections, raster
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.scan import WATER

BODY = (
    Ellipsoid(WATER, (0.0, 0.0), (80.0, 100.0)),
    Ellipsoid(0.02, (20.0, -40.0), (12.0, 14.0)),
    Ellipsoid(0.02, (10.0, 45.0), (14.0, 12.0)),
    Ellipsoid(-WATER, (-30.0, 0.0), (12.0, 20.0)),
)
RODS = (Ellipsoid(0.25, (20.0, -40.0), (5.0, 5.0)), Ellipsoid(0.25, (10.0, 45.0), (4.0, 4.0)))
PIXELS = Pixels((128, 128), (1.8, 1.8))
GEOMETRIES = (
    ParallelBeam2D(angles=even_angles(160), n_bins=128, bin_spacing=2.0),
    FanBeam2D(angles=even_angles(240, 2 * math.pi), n_bins=144, bin_spacing=3.0, dso=400.0, dsd=700.0, detector="curved"),
)


def shaded(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Line integrals without metal, and with metal whose beam is hardened and partly blocked."""
    body, rods = exact_projections(BODY, geometry, samples=2), exact_projections(RODS, geometry, samples=2)
    return body, body - torch.log(0.6 * torch.exp(-1.3 * rods) + 0.4 * torch.exp(-0.35 * rods) + 0.05 * (rods > 0))


def error(image: Tensor, truth: Tensor) -> float:
    """HU in soft tissue two pixels away from every edge and from the metal."""
    bounds = truth + raster(RODS, PIXELS)
    flat = F.max_pool2d(bounds[None], 5, 1, 2)[0] + F.max_pool2d(-bounds[None], 5, 1, 2)[0] < 1e-6
    return float(((image - truth)[flat & (truth > 0.01)] / WATER * 1000).square().mean().sqrt())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_normalised_interpolation_removes_most_of_the_streaks(geometry: Geometry) -> None:
    body, p = shaded(geometry)
    operator, truth = CTOperator(geometry, PIXELS.shape, PIXELS.spacing), raster(BODY, PIXELS)
    before = error(analytic(p, geometry, PIXELS), truth)
    best = error(analytic(body, geometry, PIXELS), truth)
    plain, normalised = interpolated_metal(p, operator), normalised_metal(p, operator)
    assert error(plain.image, truth) < before
    assert error(normalised.image, truth) < min(0.5 * before, best + 15)
    # Metal stays where it was, and rays beside it are not touched.
    metal = raster(RODS, PIXELS)
    assert plain.metal[metal > 0.24].all()
    assert not plain.metal[F.max_pool2d(metal[None], 3, 1, 1)[0] == 0].any()
    for found in (plain, normalised):
        assert torch.equal(found.line_integrals[~found.trace], p[~found.trace])
        assert torch.equal(found.image[found.metal], analytic(p, geometry, PIXELS)[found.metal])


def test_data_without_metal_stay_as_they_are() -> None:
    geometry = GEOMETRIES[0]
    body, _ = shaded(geometry)
    operator = CTOperator(geometry, PIXELS.shape, PIXELS.spacing)
    batch = torch.stack([body, 0.5 * body])
    for found in (interpolated_metal(batch, operator), normalised_metal(batch, operator)):
        assert not found.metal.any()
        assert torch.equal(found.line_integrals, batch)
        assert torch.equal(found.image, analytic(batch, geometry, PIXELS))


def test_data_in_another_unit_are_refused() -> None:
    geometry = GEOMETRIES[0]
    body, _ = shaded(geometry)
    with pytest.raises(BadInput, match="metal shades"):
        interpolated_metal(10 * body, CTOperator(geometry, PIXELS.shape, PIXELS.spacing))
