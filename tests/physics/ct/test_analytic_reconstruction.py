"""Filtered backprojection and FDK against golden images, analytic phantoms and each other."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct import (
    ConeBeam,
    FanBeam2D,
    Geometry,
    HelicalCone,
    ParallelBeam2D,
    ParallelBeam3D,
    VectorGeometry,
    analytic,
    even_angles,
    fbp,
    fdk,
)
from medrecon.physics.ct.analytic import _turning
from medrecon.physics.ct.backproject import Turning, backprojected, backprojected_torch, centres, shadow
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.phantom import Ellipsoid, disc, exact_projections, head, raster
from medrecon.physics.ct.view_weights import parker_weights

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "ct" / "fbp128"
TURN, WATER, UNIT = 2 * math.pi, 0.0192, 0.02

PIXELS = Pixels((128, 128), (1.0, 1.0))
PARALLEL = ParallelBeam2D(angles=even_angles(180), n_bins=128, bin_spacing=1.0)
FAN = FanBeam2D(angles=even_angles(360, TURN), n_bins=160, bin_spacing=1.6, dso=200.0, dsd=320.0)
CURVED = replace(FAN, detector="curved")
SHORT_ARC = math.pi + 2 * (FAN.half_fan + 0.05)
SHORT = replace(FAN, angles=even_angles(300, SHORT_ARC))
SMALL = Pixels((24, 20), (2.0, 2.5), (1.0, -3.0))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN.with_suffix(".npz")) as found:
        return {name: torch.from_numpy(found[name]).double() for name in found.files}


def golden_head() -> list[Ellipsoid]:
    rows = json.loads(GOLDEN.with_suffix(".json").read_text())["ellipses_x0_y0_a_b_phi_mu"]
    return [Ellipsoid(mu, (y, x), (b, a), phi) for x, y, a, b, phi, mu in rows]


def within(radius: float, pixels: Pixels) -> Tensor:
    y, x = centres(pixels)[-2:]
    return torch.from_numpy(np.hypot(x, y[:, None]) < radius)


def errors(image: Tensor, truth: Tensor, radius: float = 57.0, pixels: Pixels = PIXELS) -> tuple[float, float]:
    """RMSE in units of water, mean in HU, inside a disc."""
    difference = (image - truth)[within(radius, pixels)] / UNIT
    return float(difference.square().mean().sqrt()), 1000 * float(difference.mean())


@pytest.mark.parametrize(
    ("window", "name", "rmse"), [("ramp", "ramp", 0.0317), ("shepp-logan", "shepp_logan", 0.0389), ("hann", "hann", 0.0701)]
)
def test_parallel_beams_give_the_golden_image(golden: dict[str, Tensor], window: str, name: str, rmse: float) -> None:
    image = fbp(golden["sino_parallel"], PARALLEL, PIXELS, window=window)
    expected = golden[f"fbp_{name}"]
    # At the very edge the golden images leave out the last bin.
    assert ((image - expected)[within(62, PIXELS)].abs().max() / expected.abs().max()) < 1e-6
    found, bias = errors(image, golden["truth"])
    assert found == pytest.approx(rmse, rel=0.05)
    assert abs(bias) < 0.1


def test_fans_give_the_golden_image(golden: dict[str, Tensor]) -> None:
    image = fbp(golden["sino_fan"], FAN, PIXELS)
    assert (image - golden["fbp_fan_ramp"]).abs().max() / golden["fbp_fan_ramp"].abs().max() < 1e-6
    found, bias = errors(image, golden["truth"])
    assert found == pytest.approx(0.0281, rel=0.05)
    assert abs(bias) < 0.1


def test_a_short_scan_is_as_good_as_a_turn(golden: dict[str, Tensor]) -> None:
    found, bias = errors(fbp(exact_projections(golden_head(), SHORT, samples=16), SHORT, PIXELS), golden["truth"])
    assert found == pytest.approx(0.0293, rel=0.05)
    assert abs(bias) < 0.5


def test_a_flipped_fan_angle_would_show(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    sinogram = exact_projections(golden_head(), SHORT, samples=16)
    monkeypatch.setattr(sys.modules[_turning.__module__], "parker_weights", lambda since, fan, arc: parker_weights(since, -fan, arc))
    assert errors(fbp(sinogram, SHORT, PIXELS), golden["truth"])[0] > 0.1


SCANS: dict[str, Geometry] = {
    "curved": CURVED,
    "curved, short scan": replace(CURVED, angles=SHORT.angles),
    "a little more than half a turn": replace(FAN, angles=even_angles(290, SHORT_ARC - 0.1)),
    "most of a turn": replace(FAN, angles=even_angles(340, math.radians(340.0))),
    "clockwise, begun elsewhere": replace(FAN, angles=1.0 - FAN.angles),
    "two turns": replace(FAN, angles=np.concatenate([FAN.angles, FAN.angles + TURN])),
    "both ends of the turn": replace(FAN, angles=np.linspace(0, TURN, 361)),
    "quarter offset": replace(FAN, offset=0.4),
    "half fan, flat": replace(FAN, n_bins=96, offset=57.6),
    "half fan, curved": replace(CURVED, n_bins=96, offset=57.6),
    "half fan, other side": replace(FAN, n_bins=96, offset=-57.6),
    "half detector, parallel": replace(PARALLEL, n_bins=96, offset=30.0, angles=even_angles(360, TURN)),
    "axis beside the central ray, flat": replace(FAN, axis_shift=7.0),
    "axis beside the central ray, curved": replace(CURVED, axis_shift=7.0),
    "axis beside the central ray, short": replace(FAN, axis_shift=7.0, angles=even_angles(310, SHORT_ARC + 0.1)),
    "parallel, a turn": replace(PARALLEL, angles=even_angles(360, TURN)),
    "parallel, an odd turn": replace(PARALLEL, angles=even_angles(361, TURN)),
    "parallel, shuffled": replace(PARALLEL, angles=np.random.default_rng(0).permutation(PARALLEL.angles)),
}


@pytest.mark.parametrize("name", SCANS)
def test_every_complete_scan_gives_the_head(golden: dict[str, Tensor], name: str) -> None:
    found, bias = errors(analytic(exact_projections(golden_head(), SCANS[name], samples=4), SCANS[name], PIXELS), golden["truth"])
    assert found < 0.034
    assert abs(bias) < 0.5


def test_uneven_angles_are_weighed_by_their_gaps(golden: dict[str, Tensor]) -> None:
    """Twice as dense in one half: equal weights would shade the image."""
    dense = replace(PARALLEL, angles=np.concatenate([even_angles(180, math.pi / 2), even_angles(90, math.pi / 2, math.pi / 2)]))
    sinogram = exact_projections(golden_head(), dense, samples=8)
    found, bias = errors(fbp(sinogram, dense, PIXELS), golden["truth"])
    assert found < 0.034
    assert abs(bias) < 0.5
    even = backprojected_evenly(sinogram, dense)
    assert errors(even, golden["truth"])[0] > 0.05


def backprojected_evenly(sinogram: Tensor, geometry: ParallelBeam2D) -> Tensor:
    from medrecon.physics.ct.filters import filtered, ramp_filter

    rows = filtered(sinogram, ramp_filter(geometry.n_bins, geometry.bin_spacing)) * math.pi / geometry.n_views
    return backprojected(rows[None], geometry, PIXELS)[0]


@pytest.mark.parametrize("n", [90, 180, 720])
@pytest.mark.parametrize("scan", ["parallel", "flat", "curved"])
def test_water_is_water_whatever_the_number_of_views(scan: str, n: int) -> None:
    geometry: Geometry = replace(PARALLEL, angles=even_angles(n))
    if scan != "parallel":
        geometry = replace(FAN, detector=scan, angles=even_angles(n, TURN))
    image = analytic(exact_projections(disc(50.0, WATER), geometry, samples=4), geometry, PIXELS)
    centre = image[within(25.0, PIXELS)]
    assert abs(float(centre.mean()) / WATER - 1) * 1000 < 2


@pytest.mark.parametrize("offset", [0.0, 0.37, 3.0])
def test_a_known_centre_of_rotation_leaves_the_disc_where_it_is(offset: float) -> None:
    for geometry in (replace(PARALLEL, offset=offset), replace(FAN, offset=offset), replace(CURVED, offset=offset)):
        image = analytic(exact_projections(disc(12.0, WATER, (9.3, -14.2)), geometry, samples=8), geometry, PIXELS)
        y, x = centres(PIXELS)
        near = torch.from_numpy(np.hypot(x + 14.2, y[:, None] - 9.3) < 18)
        weight = image * near
        found = [float((weight * torch.from_numpy(np.broadcast_to(a, (128, 128)).copy())).sum() / weight.sum()) for a in (y[:, None], x)]
        assert found == pytest.approx([9.3, -14.2], abs=0.02)


def test_a_limited_arc_loses_contrast_but_not_its_mind(golden: dict[str, Tensor]) -> None:
    for whole, arc in ((PARALLEL, 2.0), (FAN, 2.5)):
        limited = whole.subset(whole.angles < arc)
        image = fbp(exact_projections(golden_head(), limited, samples=4), limited, PIXELS)
        found, _ = errors(image, golden["truth"])
        assert 0.034 < found < 0.5


def test_tails_take_the_rim_off_a_truncated_scan() -> None:
    narrow = replace(PARALLEL, n_bins=72, angles=even_angles(90))
    sinogram = exact_projections(disc(50.0, WATER), narrow, samples=4)
    error = {t: (fbp(sinogram, narrow, PIXELS, tails=t)[within(33, PIXELS)] / WATER - 1).square().mean().sqrt() for t in (0.0, 0.25)}
    assert error[0.25] < error[0.0] / 20


def some_geometries() -> list[Turning]:
    fan: dict[str, Any] = {"angles": even_angles(7, TURN, 0.2), "n_bins": 15, "bin_spacing": 5.1, "offset": 1.3, "dso": 90.0, "dsd": 140.0}
    rows: dict[str, Any] = {"n_rows": 6, "row_spacing": 6.0, "row_offset": 1.7}
    parallel: dict[str, Any] = {"angles": even_angles(5, math.pi, 0.2), "n_bins": 13, "bin_spacing": 3.1, "offset": 0.7}
    return [
        ParallelBeam2D(**parallel),
        replace(ParallelBeam2D(**parallel), n_bins=2, bin_spacing=40.0),
        FanBeam2D(**fan, axis_shift=2.0),
        FanBeam2D(**fan, detector="curved"),
        ParallelBeam3D(**parallel, **rows),
        replace(ParallelBeam3D(**parallel, **rows), n_rows=1),
        ConeBeam(**fan, **rows, z=-2.0),
        ConeBeam(**fan, **rows, detector="curved"),
    ]


def small_pixels(geometry: Geometry) -> Pixels:
    return SMALL if geometry.dimensions == 2 else Pixels((5, 24, 20), (3.0, 2.0, 2.5), (1.0, 1.0, -3.0))


@pytest.mark.parametrize("geometry", some_geometries(), ids=repr)
def test_torch_alone_gives_the_same_numbers(geometry: Turning) -> None:
    rows, pixels = torch.randn(2, *geometry.shape, dtype=torch.float64), small_pixels(geometry)
    compiled, plain = backprojected(rows, geometry, pixels), backprojected_torch(rows, shadow(geometry), centres(pixels))
    assert (compiled - plain).abs().max() <= 1e-11 * plain.abs().max()
    assert plain.abs().max() > 0


@pytest.mark.parametrize("geometry", some_geometries(), ids=repr)
def test_a_batch_is_its_items_and_single_precision_is_near(geometry: Turning) -> None:
    data, pixels = torch.randn(2, 3, *geometry.shape, dtype=torch.float64), small_pixels(geometry)
    images = analytic(data, geometry, pixels, window="hann", cutoff=0.9)
    assert images.shape == (2, 3, *pixels.shape)
    assert torch.equal(images[1, 2], analytic(data[1, 2], geometry, pixels, window="hann", cutoff=0.9))
    single = analytic(data.float(), geometry, pixels, window="hann", cutoff=0.9)
    assert single.dtype == torch.float32
    assert (single - images).abs().max() < 1e-5 * images.abs().max()
    twice = analytic(torch.complex(data, 2 * data), geometry, pixels, window="hann", cutoff=0.9)
    assert torch.equal(twice.imag, 2 * twice.real)
    assert torch.equal(twice.real, images)


def test_one_bin_and_one_view_are_enough_for_an_answer() -> None:
    geometry = ParallelBeam2D(angles=np.array([0.0]), n_bins=1, bin_spacing=2.0)
    image = fbp(torch.ones(1, 1, dtype=torch.float64), geometry, Pixels((3, 3), (1.0, 1.0)))
    # The kernel's middle, 1 / (4 spacing), for half a turn.
    expected = torch.tensor([0.0, math.pi / 8, 0.0], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(image, expected)
    assert fbp(torch.ones(0, 1, 1), geometry, SMALL).shape == (0, *SMALL.shape)


def test_reconstruction_has_the_gradient_of_a_linear_map() -> None:
    geometry = some_geometries()[2]
    data = torch.randn(*geometry.shape, dtype=torch.float64, requires_grad=True)
    other = torch.randn(*geometry.shape, dtype=torch.float64)
    image = analytic(data, geometry, SMALL)
    direction = torch.randn_like(image)
    (gradient,) = torch.autograd.grad((image * direction).sum(), data)
    assert float((gradient * other).sum()) == pytest.approx(float((analytic(other, geometry, SMALL) * direction).sum()), rel=1e-10)


def cone(**changes: Any) -> ConeBeam:
    given: dict[str, Any] = {"angles": even_angles(180, TURN), "n_bins": 80, "bin_spacing": 3.2, "n_rows": 64, "row_spacing": 3.2}
    return ConeBeam(**{**given, "dso": 400.0, "dsd": 640.0, **changes})


CONES = {
    "flat": cone(),
    "curved": cone(detector="curved"),
    "short": cone(angles=even_angles(130, math.pi + 2 * cone().half_fan + 0.1)),
    "half fan": cone(n_bins=56, offset=50.0),
    "raised": cone(row_offset=9.0, z=-4.0),
}


@pytest.mark.parametrize("name", CONES)
def test_the_middle_of_a_ball_is_water(name: str) -> None:
    geometry, pixels = CONES[name], Pixels((9, 64, 64), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    image = fdk(exact_projections(disc(40.0, WATER, (0.0, 0.0, 0.0)), geometry, samples=2), geometry, pixels)
    flat = Pixels(pixels.shape[1:], pixels.spacing[1:])
    for k in (4, 0, 8):
        assert abs(float(image[k][within(25.0, flat)].mean()) / WATER - 1) * 1000 < 5


def test_a_cone_keeps_objects_in_their_place() -> None:
    geometry, pixels = cone(row_offset=5.0, z=3.0, offset=2.0), Pixels((24, 40, 36), (2.0, 2.0, 2.0), (4.0, -3.0, 5.0))
    shapes = [Ellipsoid(WATER, (9.0, 8.0, -6.0), (8.0, 9.0, 12.0), 0.4)]
    image = fdk(exact_projections(shapes, geometry, samples=2), geometry, pixels, window="hann")
    truth = raster(shapes, pixels, samples=3)
    assert (image - truth).norm() / truth.norm() < 0.2
    for axis in (0, 1, 2):
        assert (image.flip(axis) - truth).norm() / truth.norm() > 0.6


def test_rows_of_parallel_beams_are_slices(golden: dict[str, Tensor]) -> None:
    rows = ParallelBeam3D(angles=PARALLEL.angles, n_bins=128, bin_spacing=1.0, n_rows=3, row_spacing=2.0)
    data = torch.stack([golden["sino_parallel"] * k for k in (1.0, 2.0, 3.0)], 1)
    image = analytic(data, rows, Pixels((3, 128, 128), (2.0, 1.0, 1.0)))
    expected = fbp(golden["sino_parallel"], PARALLEL, PIXELS)
    for k in range(3):
        torch.testing.assert_close(image[k], (k + 1) * expected)


@pytest.mark.parametrize(
    "geometry", [*some_geometries(), HelicalCone(**{**vars(cone()), "feed": 20.0, "angles": even_angles(90, 2.5 * TURN)})], ids=repr
)
def test_vectors_of_a_turning_scanner_are_recognised(geometry: Geometry) -> None:
    vectors = VectorGeometry(
        kind_of=geometry.kind,
        rows_of_vectors=geometry.vectors(),
        n_bins=geometry.n_bins,
        n_rows=geometry.rows,
        curved_detector=geometry.curved,
    )
    data, pixels = torch.randn(geometry.shape, dtype=torch.float64), small_pixels(geometry)
    expected = analytic(data, geometry, pixels)
    assert (analytic(data, vectors, pixels) - expected).abs().max() < 1e-8 * expected.abs().max()


def test_what_has_no_analytic_method_is_refused_by_name() -> None:
    cone_data, pixels = torch.zeros(cone().shape), Pixels((4, 8, 8), (1.0, 1.0, 1.0))
    crooked = cone().vectors()
    crooked[3] += 0.5
    refused = VectorGeometry(kind_of="cone3d", rows_of_vectors=crooked, n_bins=80, n_rows=64)
    with pytest.raises(NotSupported, match="iterative"):
        analytic(cone_data, refused, pixels)
    with pytest.raises(NotSupported, match="tilted"):
        fdk(cone_data, cone(tilt=(0.1, 0.0, 0.0)), pixels)
    helix = HelicalCone(**{**vars(cone()), "feed": 20.0})
    with pytest.raises(NotSupported, match="rebinned_fbp"):
        fdk(cone_data, helix, pixels)
    with pytest.raises(NotSupported, match="fdk"):
        fbp(cone_data, cone(), pixels)
    with pytest.raises(NotSupported, match="fbp"):
        fdk(torch.zeros(FAN.shape), FAN, PIXELS)
    with pytest.raises(NotSupported, match="axis"):
        fbp(torch.zeros(360, 40), replace(FAN, n_bins=40, offset=80.0), PIXELS)
    with pytest.raises(BadInput, match="geometry has"):
        fbp(torch.zeros(180, 127), PARALLEL, PIXELS)
    with pytest.raises(BadInput, match="dimensions"):
        fbp(torch.zeros(180, 128), PARALLEL, pixels)
    with pytest.raises(BadInput, match="source"):
        fbp(torch.zeros(FAN.shape), FAN, Pixels((400, 400), (1.0, 1.0)))
    with pytest.raises(BadInput, match="did you mean 'hann'"):
        fbp(torch.zeros(180, 128), PARALLEL, PIXELS, window="han")


@pytest.mark.slow
@pytest.mark.parametrize(("window", "rmse"), [("ramp", 15.1), ("hann", 30.0)])
def test_a_clinical_matrix_has_the_expected_error(window: str, rmse: float) -> None:
    pixels = Pixels((512, 512), (340 / 512,) * 2)
    geometry = ParallelBeam2D(angles=even_angles(720), n_bins=736, bin_spacing=340 / 512)
    shapes = head(160.0, UNIT)
    image = fbp(exact_projections(shapes, geometry, samples=16), geometry, pixels, window=window)
    found, bias = errors(image, raster(shapes, pixels), 160.0, pixels)
    assert 1000 * found == pytest.approx(rmse, rel=0.05)
    assert abs(bias) < 0.02
