"""Helical scans rebinned to fans, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput, NotSupported
from medrecon.io import read
from medrecon.io.ct_arrays import write_scan
from medrecon.io.projections import image_grid
from medrecon.physics.ct import ConeBeam, HelicalCone, analytic, even_angles, fbp
from medrecon.physics.ct.backproject import centres
from medrecon.physics.ct.frame import pixels_of
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.helical import fan_for_slice, rebinned_fbp
from medrecon.physics.ct.phantom import Ellipsoid, disc, exact_projections, raster
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.ct.subset import subsampled
from medrecon.recon.pipeline import reconstruct

TURN, WATER = 2 * math.pi, 0.0192


def helix(**changes: Any) -> HelicalCone:
    """Three turns about z = 0, 16 rows of 2 mm at the axis."""
    given: dict[str, Any] = {"angles": even_angles(540, 3 * TURN, -3 * math.pi), "n_bins": 100, "bin_spacing": 3.0, "feed": 24.0, "z": 0.0}
    shape: dict[str, Any] = {"dso": 500.0, "dsd": 1000.0, "n_rows": 16, "row_spacing": 4.0, "start": 0.0, "detector": "curved"}
    return HelicalCone(**{**given, **shape, **changes})


PIXELS = Pixels((5, 48, 44), (6.0, 2.5, 2.5), (3.0, -2.0, 4.0))


@pytest.mark.parametrize(
    "changes",
    [{}, {"detector": "flat"}, {"feed": -24.0}, {"row_offset": 3.0, "feed": 20.0}, {"feed": 38.0}, {"n_rows": 1, "row_spacing": 60.0}],
    ids=str,
)
def test_a_cylinder_is_the_same_in_every_slice(changes: dict[str, Any]) -> None:
    geometry = helix(**changes)
    image = analytic(exact_projections(disc(40.0, WATER, (0.0, 0.0)), geometry, samples=2), geometry, PIXELS)
    y, x = centres(PIXELS)[-2:]
    inside, outside = np.hypot(x, y[:, None]) < 30, np.hypot(x, y[:, None]) > 50
    for plane in image.numpy():
        assert abs(plane[inside].mean() / WATER - 1) * 1000 < 5
        assert abs(plane[outside].mean() / WATER) * 1000 < 10


def test_an_object_that_changes_along_z_is_in_its_place() -> None:
    geometry = helix()
    shapes = [Ellipsoid(WATER, (6.0, 9.0, -12.0), (10.0, 14.0, 22.0), 0.5), Ellipsoid(WATER, (0.0, -25.0, 20.0), (14.0, 9.0, 9.0))]
    image = rebinned_fbp(exact_projections(shapes, geometry, samples=2), geometry, PIXELS)
    truth = raster(shapes, PIXELS, samples=4)
    assert (image - truth).norm() / truth.norm() < 0.3
    for axis in (0, 1, 2):
        assert (image.flip(axis) - truth).norm() / truth.norm() > 0.6


def test_rays_of_a_slice_pass_the_axis_at_its_height() -> None:
    for geometry in (helix(), helix(detector="flat", offset=20.0)):
        fan = fan_for_slice(geometry, 2.0)
        assert fan is not None
        assert fan.geometry.n_views == 180
        vectors = geometry.vectors()[fan.views]
        source, centre, u, v = (vectors[:, i * 3 : i * 3 + 3] for i in range(4))
        k = np.arange(geometry.n_bins) - (geometry.n_bins - 1) / 2
        if geometry.curved:
            angle = k * geometry.bin_spacing / geometry.dsd
            ahead, across = (centre - source)[:, None], (u * geometry.dsd / geometry.bin_spacing)[:, None]
            ray = ahead * np.cos(angle)[:, None] + across * np.sin(angle)[:, None]
        else:
            ray = (centre - source)[:, None] + k[:, None] * u[:, None]
        ray = ray + (fan.row - (geometry.n_rows - 1) / 2)[..., None] * v[:, None]
        nearest = -(source[:, None, :2] * ray[..., :2]).sum(-1) / (ray[..., :2] ** 2).sum(-1)
        unclipped = (fan.row > 0) & (fan.row < geometry.n_rows - 1)
        height = source[:, None, 2] + nearest * ray[..., 2]
        np.testing.assert_allclose(height[unclipped], 2.0, atol=1e-9)
        assert unclipped.mean() > 0.9


def test_a_batch_is_its_items_and_slices_beyond_the_helix_are_empty() -> None:
    geometry = replace(helix(), angles=even_angles(60, 3 * TURN, -3 * math.pi), n_bins=20, bin_spacing=15.0)
    pixels = Pixels((4, 12, 10), (40.0, 8.0, 8.0))
    data = torch.rand(2, *geometry.shape, dtype=torch.float64)
    image = analytic(data, geometry, pixels)
    assert torch.equal(image[1], analytic(data[1], geometry, pixels))
    assert (image[:, [0, 3]] == 0).all()
    assert (image[:, [1, 2]].abs().amax((-2, -1)) > 0).all()


def test_a_slow_helix_of_one_row_is_a_fan() -> None:
    geometry = helix(angles=even_angles(180, TURN, -math.pi), n_rows=1, feed=1e-6)
    data = torch.rand(geometry.shape, dtype=torch.float64)
    image = rebinned_fbp(data, geometry, Pixels((1, 48, 44), (1.0, 2.5, 2.5)))
    fan = fan_for_slice(geometry, 0.0)
    assert fan is not None
    torch.testing.assert_close(image[0], fbp(data[:, 0], fan.geometry, Pixels((48, 44), (2.5, 2.5))))


def test_a_pitch_that_leaves_gaps_is_refused() -> None:
    fast, pixels = helix(feed=60.0), Pixels((2, 8, 8), (1.0, 1.0, 1.0))
    with pytest.raises(NotSupported, match=r"pitch 1\.88"):
        analytic(torch.zeros(fast.shape), fast, pixels)
    tilted = helix(tilt=(0.0, 0.1, 0.0))
    with pytest.raises(NotSupported, match="tilted"):
        rebinned_fbp(torch.zeros(tilted.shape), tilted, pixels)
    with pytest.raises(BadInput, match="geometry has"):
        rebinned_fbp(torch.zeros(3, 4), helix(), pixels)
    with pytest.raises(BadInput, match="volume"):
        rebinned_fbp(torch.zeros(helix().shape), helix(), Pixels((8, 8), (1.0, 1.0)))
    still = helix(feed=0.0)
    with pytest.raises(BadInput, match="circle"):
        rebinned_fbp(torch.zeros(still.shape), still, pixels)


class ReadOneByOne:
    """Projections (1, view, row, bin) that note which views are read."""

    def __init__(self, projections: torch.Tensor) -> None:
        self.projections, self.read = projections, set[int]()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.projections.shape)

    def __getitem__(self, index: slice) -> torch.Tensor:
        raise AssertionError("the whole is read")

    def chosen(self, views: Sequence[int]) -> torch.Tensor:
        self.read |= set(views)
        return self.projections[:, list(views)]


@pytest.mark.parametrize("feed", [24.0, -38.0])
def test_slices_of_a_helix_are_those_of_the_whole_from_the_views_they_need(feed: float) -> None:
    geometry = helix(feed=feed, angles=even_angles(180, 3 * TURN, -3 * math.pi))
    shapes = [Ellipsoid(WATER, (6.0, 9.0, -12.0), (20.0, 24.0, 42.0), 0.5)]
    scan = CTScan(
        grid=image_grid(geometry, 1).crop((0, 0, 0), (24, 100, 100)),
        projections=exact_projections(shapes, geometry)[None],
        geometry=geometry,
        photons=torch.full((180, 16, 100), 1e5),
    )
    whole = reconstruct(scan, "fbp").volume
    files = ReadOneByOne(scan.projections[0:1])
    part = reconstruct(replace(scan, projections=files).select(slice(10, 13)), "fbp")
    torch.testing.assert_close(part.volume.image, whole.image[10:13], atol=0.05, rtol=1e-4)
    assert np.allclose(part.volume.grid.affine, whole.grid.crop((10, 0, 0), (3, 100, 100)).affine)
    assert 30 < len(files.read) < 100
    assert any("near the ends" in warning for warning in part.log["warnings"])


def test_a_part_of_a_helix_is_written_and_read_in_its_place(tmp_path: Path) -> None:
    geometry = helix()
    scan = CTScan(grid=image_grid(geometry, 1), projections=torch.zeros(1, 540, 16, 100), geometry=geometry)
    place = pixels_of(scan.grid, scan).centre[0]
    assert pixels_of(scan.grid, subsampled(scan, slice(0, 90))).centre[0] == pytest.approx(place)
    assert scan.select(slice(None)) is scan
    part = scan.select(slice(2, 4))
    heights = centres(pixels_of(scan.grid, scan))[0][2:4]
    assert centres(pixels_of(part.grid, part))[0] == pytest.approx(heights)
    write_scan(part, tmp_path / "part.npz")
    again = read(tmp_path / "part.npz")
    assert isinstance(again, CTScan)
    assert again.height == part.height
    assert centres(pixels_of(again.grid, again))[0] == pytest.approx(heights)


def test_a_helix_without_feed_or_views_has_no_parts() -> None:
    for geometry, words in ((helix(feed=0.0), "circle"), (helix(angles=even_angles(540, 3 * TURN, -3 * math.pi)[[0, 539]]), "no view")):
        n_views = geometry.n_views
        scan = CTScan(grid=image_grid(helix(), 1), projections=torch.zeros(1, n_views, 16, 100), geometry=geometry)
        with pytest.raises(BadInput, match=words):
            scan.select(slice(20, 22))


def test_slices_of_a_circle_are_not_chosen_from_its_projections() -> None:
    circle = ConeBeam(angles=even_angles(8, TURN), n_bins=10, bin_spacing=3.0, dso=500.0, dsd=1000.0, n_rows=4, row_spacing=4.0)
    scan = CTScan(grid=image_grid(circle, 1), projections=torch.zeros(1, 8, 4, 10), geometry=circle)
    with pytest.raises(BadInput, match="one volume"):
        scan.select(slice(0, 1))
