"""The axis of rotation and truncation, on analytic sinograms of ellipses and on measured ones."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.io.projections import image_grid
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, ParallelBeam3D, even_angles
from medrecon.physics.ct.counts import incident, line_integrals, transmission
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.phantom import Ellipsoid, disc, exact_projections
from medrecon.physics.ct.rotation import axis_of, find_centre
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.ct.truncation import truncated
from medrecon.recon.pipeline import reconstruct
from tests.oracles.ellipses import ellipse_sinogram

MIDDLE = (201 - 1) / 2


def ellipses(angles: np.ndarray, centre: float) -> Tensor:
    return ellipse_sinogram(angles, centre, 201)


def noisy(p: Tensor, std: float, seed: int = 0) -> Tensor:
    return p + std * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype)


@pytest.mark.parametrize("std", [0.0, 0.03])
@pytest.mark.parametrize("offset", [-11.7, 0.0, 6.25])
@pytest.mark.parametrize(
    ("views", "arc", "method"),
    [
        (180, math.pi, "wedge"),
        (120, 1.2 * math.pi, "wedge"),
        (150, 1.5 * math.pi, "opposite views"),
        (181, 2 * math.pi, "opposite views"),
        (240, 2 * math.pi, "opposite views"),
    ],
)
def test_centre_is_found_within_a_tenth_of_a_bin(views: int, arc: float, method: str, offset: float, std: float) -> None:
    angles = even_angles(views, arc)
    found = find_centre(noisy(ellipses(angles, MIDDLE + offset), std), angles)
    assert found.method == method
    assert abs(found.bin - (MIDDLE + offset)) < (0.1 if std else 0.02)
    assert found.quality > 0.98


def test_order_start_direction_repeats_and_dtype_of_views_do_not_matter() -> None:
    angles = np.append(-even_angles(180, 2 * math.pi, start=0.4), -0.4)  # the first view measured twice
    order = np.random.default_rng(0).permutation(len(angles))
    p = ellipses(angles, MIDDLE + 3.3)[order]
    assert abs(find_centre(p, angles[order]).bin - (MIDDLE + 3.3)) < 0.02
    assert abs(find_centre(p.float(), angles[order]).bin - (MIDDLE + 3.3)) < 0.02


def test_rows_and_slices_share_one_axis() -> None:
    angles = even_angles(180)
    p = torch.stack([height * ellipses(angles, MIDDLE + 2.4) for height in (0.0, 1.0, 0.3)])
    stacked, rows = find_centre(p, angles), find_centre(p.movedim(0, 1), angles, view_axis=-3)
    assert abs(stacked.bin - (MIDDLE + 2.4)) < 0.02
    assert rows == stacked


@pytest.mark.parametrize(("views", "arc"), [(180, math.pi), (360, 2 * math.pi)])
@pytest.mark.parametrize("seen", [slice(50, 150), slice(30, 201)])
def test_an_object_that_leaves_the_field_of_view_has_a_centre_too(seen: slice, views: int, arc: float) -> None:
    angles = even_angles(views, arc)
    p = ellipses(angles, MIDDLE + 4.6)[:, seen]
    assert truncated(p).double().mean() > 0.4
    assert abs(find_centre(p, angles).bin - (MIDDLE + 4.6 - seen.start)) < 0.1


@pytest.mark.parametrize(("views", "arc"), [(9, math.pi), (60, 0.7 * math.pi)])
def test_few_views_and_short_arcs_leave_the_first_moment(views: int, arc: float) -> None:
    angles = even_angles(views, arc)
    found = find_centre(ellipses(angles, MIDDLE - 5.1), angles)
    assert found.method == "moments"
    assert abs(found.bin - (MIDDLE - 5.1)) < 0.02


def test_quality_tells_noise_from_an_object() -> None:
    for arc in (math.pi, 2 * math.pi):
        angles = even_angles(180, arc)
        assert find_centre(noisy(torch.zeros(180, 201, dtype=torch.float64), 1.0), angles).quality < 0.5


@pytest.mark.parametrize(
    ("p", "angles", "told"),
    [
        (torch.ones(4, 9).tril(), np.arange(3.0), "one angle for each view"),
        (torch.full((4, 9), torch.nan), np.arange(4.0), "NaN"),
        (torch.zeros(4, 9), np.arange(4.0), "empty"),
        (torch.ones(4, 9).tril(), np.linspace(0, 0.3, 4), "do not show it"),
    ],
)
def test_data_without_an_axis_are_refused(p: Tensor, angles: np.ndarray, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        find_centre(p, angles)


def test_only_views_with_an_object_at_the_end_are_truncated() -> None:
    p = noisy(ellipses(even_angles(60), MIDDLE), 0.03)
    assert not truncated(p).any()
    p[10:14, -4:] += 1.0
    assert truncated(p).nonzero().flatten().tolist() == [10, 11, 12, 13]


def test_the_tooth_turns_about_bin_296() -> None:
    """The file's angles end at 179 degrees; its last view is the first one's mirror image, so that they should end at 180."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared("data", "ct_tooth_synchrotron.h5")) as file:
        data, white, dark = (torch.from_numpy(file[f"exchange/{name}"][()]) for name in ("data", "data_white", "data_dark"))
        angles = np.deg2rad(file["exchange/theta"][()])
    p = line_integrals(transmission(data, white, dark, view_axis=-3), view_axis=-3).line_integrals
    assert abs(find_centre(p, angles, view_axis=-3).bin - 296) < 0.5
    full = find_centre(p, np.linspace(0, math.pi, len(angles)), view_axis=-3)
    assert abs(full.bin - 295.6) < 0.1
    assert full.quality > 0.99


def test_two_half_turns_of_the_neutron_scan_agree_with_the_whole() -> None:
    counts = torch.from_numpy(np.load(shared("data", "ct_neutron_sino360.npz"))["sinogram"])
    p = line_integrals(counts / incident(counts), floor=1e-3).line_integrals
    angles = np.linspace(0, 2 * math.pi, len(p))
    whole = find_centre(p, angles)
    assert whole.quality > 0.95
    halves = [find_centre(p[start : start + 230], angles[start : start + 230]).bin for start in (0, 229)]
    assert abs(sum(halves) / 2 - whole.bin) < 0.5


def fan(offset: float, detector: str = "flat", **changes: Any) -> FanBeam2D:
    given: dict[str, Any] = {
        "angles": even_angles(240, 2 * math.pi, start=0.3),
        "n_bins": 151,
        "bin_spacing": 2.0,
        "dso": 300.0,
        "dsd": 500.0,
    }
    return FanBeam2D(**{**given, "offset": offset, "detector": detector, **changes})


def vars_of(geometry: FanBeam2D) -> dict[str, Any]:
    return {f.name: getattr(geometry, f.name) for f in fields(geometry)}


TWO_DISCS = [*disc(40.0, 0.02, (10.0, -20.0)), *disc(15.0, 0.01, (-20.0, 30.0))]


@pytest.mark.parametrize("std", [0.0, 0.02])
@pytest.mark.parametrize("detector", ["flat", "curved"])
@pytest.mark.parametrize("offset", [0.0, 7.3, -41.0])
def test_the_axis_of_a_fan_is_where_its_rays_come_again(offset: float, detector: str, std: float) -> None:
    for geometry in (fan(offset, detector), fan(offset, detector, angles=-even_angles(241, 2 * math.pi))):
        p = noisy(exact_projections(TWO_DISCS, geometry), std)
        found = axis_of(p, replace(geometry, offset=0.0))
        assert found.method == "opposite rays"
        assert abs(found.bin - (75 - offset / 2)) < (0.1 if std else 0.02)
        assert found.quality > 0.95


@pytest.mark.parametrize("offset", [3.1, -60.0])
def test_a_wide_detector_is_looked_at_twice(offset: float) -> None:
    geometry = fan(offset, n_bins=611, bin_spacing=0.5)
    found = axis_of(noisy(exact_projections(TWO_DISCS, geometry), 0.02), geometry)
    assert abs(found.bin - (305 - offset / 0.5)) < 0.1
    assert found.quality > 0.95


def test_rows_of_parallel_rays_have_one_axis() -> None:
    geometry = ParallelBeam3D(angles=even_angles(180), n_bins=151, bin_spacing=1.0, n_rows=3, row_spacing=2.0, offset=4.0)
    assert abs(axis_of(exact_projections([Ellipsoid(0.02, (6.0, 9.0, 1.0), (30.0, 20.0, 26.0), 0.5)], geometry), geometry).bin - 71) < 0.05


def test_order_and_a_repeated_view_of_a_fan_do_not_matter() -> None:
    angles = np.append(even_angles(120, 2 * math.pi), 2 * math.pi)
    order = np.random.default_rng(0).permutation(len(angles))
    geometry = fan(7.3, angles=angles[order])
    assert abs(axis_of(exact_projections(TWO_DISCS, geometry).float(), geometry).bin - (75 - 7.3 / 2)) < 0.05


def test_the_axis_of_a_cone_is_that_of_the_row_level_with_its_source() -> None:
    cone = ConeBeam(**vars_of(fan(9.0)), n_rows=8, row_spacing=3.0, row_offset=4.5)
    p = exact_projections(
        [Ellipsoid(0.02, (6.0, 9.0, 4.0), (30.0, 20.0, 26.0), 0.5), Ellipsoid(0.01, (-20.0, 30.0, -2.0), (9.0, 9.0, 9.0))], cone
    )
    assert abs(axis_of(p, replace(cone, offset=0.0)).bin - (75 - 4.5)) < 0.02
    with pytest.raises(BadInput, match="no row"):
        axis_of(p, replace(cone, row_offset=40.0))


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (fan(0.0, angles=even_angles(200, 1.3 * math.pi)), "a whole turn"),
        (fan(0.0, angles=even_angles(12, 2 * math.pi)), "a whole turn"),
        (fan(0.0, axis_shift=2.0), "axis_shift"),
        (ConeBeam(**vars_of(fan(0.0)), n_rows=3, row_spacing=2.0, tilt=(0.0, 0.1, 0.0)), "a tilted detector"),
        (VectorGeometry(kind_of="fan2d", rows_of_vectors=fan(0.0).vectors(), n_bins=151), "VectorGeometry"),
    ],
)
def test_a_fan_whose_axis_cannot_be_found_is_refused(geometry: Geometry, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        axis_of(exact_projections(TWO_DISCS, geometry), geometry)


def test_a_scan_of_a_fan_finds_its_axis() -> None:
    geometry = fan(7.3)
    scan = CTScan(
        grid=image_grid(geometry, 1), projections=exact_projections(TWO_DISCS, geometry)[None], geometry=replace(geometry, offset=0.0)
    )
    found = reconstruct(scan, "fbp", centre="find")
    expected = reconstruct(replace(scan, geometry=geometry), "fbp").volume.image
    wrong = reconstruct(scan, "fbp").volume.image
    assert found.log["calibration"]["axis_source"] == "found"
    assert (found.volume.image - expected).norm() < 0.02 * (wrong - expected).norm()
