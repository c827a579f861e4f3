"""From CT scans to problems: HU, noise, weights, axis, image grid, streaming, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput
from medrecon.physics.ct import FanBeam2D, ParallelBeam2D, even_angles
from medrecon.physics.ct.circular import ConeBeam
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.readings import ray_noise
from medrecon.physics.ct.scan import WATER, CTScan
from medrecon.physics.ct.simulate import beam, simulate
from medrecon.physics.ct.subset import subsampled
from medrecon.solvers.poisson import Poisson, Transmission
from medrecon.tensors import generator_for, unit_noise
from medrecon.volume import Grid, Volume

N, PIXEL = 40, 2.0


def body(n: int = N, slices: int = 2) -> Volume:
    """A disc of water with a bone, in air; HU."""
    place = torch.arange(n) - (n - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    image = torch.full((n, n), -1000.0)
    image[torch.hypot(x, y) < 0.4 * n] = 0.0
    image[torch.hypot(x - 4, y + 3) < 0.1 * n] = 700.0
    stack = torch.stack([image + 20 * k * (image > -500) for k in range(slices)])
    affine = np.array([[-PIXEL, 0, 0, 31], [0, PIXEL, 0, -17], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    return Volume(stack, Grid(tuple(stack.shape), affine), "HU", "CT", {"BodyPartExamined": "CHEST"})


def own_scan(photons: float | None, n: int = N, views: int = 60) -> CTScan:
    """Projections by the very operator that is reconstructed with, so that only the quanta are noise."""
    volume, geometry = body(n, 1), ParallelBeam2D(angles=even_angles(views), n_bins=57, bin_spacing=PIXEL)
    A = CTOperator(geometry, (n, n), (PIXEL, PIXEL))
    line_integrals = A(WATER * (1 + volume.image / 1000))
    if photons is None:
        data, stored = line_integrals, "line integrals"
    else:
        data, stored = torch.poisson(photons * (-line_integrals).exp(), generator_for(3)), "counts"
    quanta = None if photons is None else torch.tensor(photons)
    return CTScan(grid=volume.grid, projections=data, geometry=geometry, stored=stored, photons=quanta)


def truth(volume: Volume) -> torch.Tensor:
    """In the units of a prior of HU: air 0, water 0.5."""
    return (volume.image + 1000) / 2000


def test_the_truth_explains_counts_down_to_their_noise() -> None:
    for electronic in (0.0, 30.0):
        scan = own_scan(1e4)
        if electronic:
            noise = electronic * unit_noise(scan.projections.shape, torch.float32, generator_for(5))
            scan = replace(scan, projections=scan.projections + noise)
        problem = scan.prepare(model_error=0.0, electronic_std=electronic)
        assert problem.noise_std == pytest.approx(0.01)
        # 60 x 57 rays: chi2 spreads by sqrt(2 / 3420) = 2.4 %
        assert float(problem.likelihood.chi2(truth(body(slices=1)))) == pytest.approx(1, abs=0.08)


def test_prior_units_come_back_as_hu() -> None:
    volume = body(slices=1)
    problem = own_scan(None).prepare(noise_std=0.01)
    found = problem.to_volume(truth(volume))
    torch.testing.assert_close(found.image, volume.image, atol=1e-3, rtol=0)
    assert (found.units, found.modality) == ("HU", "CT")
    np.testing.assert_array_equal(found.affine, volume.affine)


def test_noise_is_estimated_from_neighbouring_bins() -> None:
    scan = own_scan(None)
    noisy = replace(scan, projections=scan.projections + 0.05 * unit_noise(scan.projections.shape, torch.float32, generator_for(1)))
    problem = noisy.prepare()
    assert problem.noise_std == pytest.approx(0.05, rel=0.15)
    assert "neighbouring bins" in problem.facts["noise_source"]


def test_ray_noise_weighs_rays() -> None:
    generator = generator_for(2)
    weights = 0.1 + torch.rand(1, 400, 300, generator=generator)
    noise = 0.3 * unit_noise(weights.shape, torch.float32, generator) / weights.sqrt()
    slow = torch.linspace(0, 3, 300).sin()
    weights_slow = torch.full_like(weights, 0.25)
    assert ray_noise(slow + 0.3 * unit_noise(weights.shape, torch.float32, generator) / 0.5, weights_slow) == pytest.approx(0.3, rel=0.02)
    assert ray_noise(slow + noise) > 0.31


def test_few_quanta_have_their_own_law() -> None:
    problem = own_scan(200.0).prepare(law="poisson")
    assert isinstance(problem.likelihood, Transmission)
    assert float(problem.likelihood.chi2(truth(body(slices=1)))) == pytest.approx(1, abs=0.1)
    with pytest.raises(BadInput, match="quanta"):
        own_scan(None).prepare(law="poisson")


def test_flat_and_dark_fields_give_the_same_image_as_photons() -> None:
    scan = own_scan(1e5)
    gain, offset = 0.5 + torch.rand(57, generator=generator_for(8)), 40.0
    detector = replace(
        scan,
        projections=scan.projections * gain + offset,
        flat=(1e5 * gain + offset).expand(1, 3, 57),
        dark=torch.full((1, 2, 57), offset),
    )
    plain, corrected = scan.prepare(), detector.prepare()
    torch.testing.assert_close(corrected.likelihood.y, plain.likelihood.y, atol=2e-3, rtol=2e-3)


def test_emission_counts_keep_their_law_and_get_a_brightness() -> None:
    activity = (body(slices=1).image + 1000).clamp(min=0) / 1000
    geometry = ParallelBeam2D(angles=even_angles(60), n_bins=57, bin_spacing=PIXEL)
    expected = 5 * CTOperator(geometry, (N, N), (PIXEL, PIXEL))(activity)
    counts = torch.poisson(expected, generator_for(4))
    scan = CTScan(grid=body(slices=1).grid, projections=counts, geometry=geometry, stored="emission")
    problem = scan.prepare()
    assert isinstance(problem.likelihood, Poisson)
    seen = float((expected > 1).double().mean())  # empty rays count nothing
    assert float(problem.likelihood.chi2(5 * activity / problem.scale)) == pytest.approx(seen, abs=0.06)
    with pytest.raises(BadInput, match="negative counts"):
        replace(scan, projections=counts - 3).prepare()


@pytest.mark.parametrize("given", [None, "find", 30.25])
def test_the_axis_is_found_or_given(given: float | str | None) -> None:
    volume = body(slices=1)
    moved = ParallelBeam2D(angles=even_angles(120), n_bins=61, bin_spacing=PIXEL, offset=-0.25 * PIXEL)
    scan = simulate(volume, moved, photons=None)
    unknown = replace(scan, geometry=replace(moved, offset=0.0), header={"rotation_centre": "unknown"})
    problem = unknown.prepare(centre=given)
    assert problem.facts["axis_bin"] == pytest.approx(30.25, abs=0.1)
    assert problem.facts["axis_source"] == ("given" if given == 30.25 else "found")


def test_matrix_and_pixel_keep_the_middle_of_the_image() -> None:
    scan = own_scan(None)
    middle = scan.grid.affine @ [(N - 1) / 2, (N - 1) / 2, 0, 1]
    for settings, shape, size in (({"matrix": 80}, 80, 1.0), ({"pixel": 1.6}, N, 1.6), ({"matrix": 50, "pixel": 1.0}, 50, 1.0)):
        grid = scan.prepare(**settings).grid
        assert grid.shape == (1, shape, shape)
        assert grid.spacing == pytest.approx((3.0, size, size))
        np.testing.assert_allclose(grid.affine @ [(shape - 1) / 2, (shape - 1) / 2, 0, 1], middle, atol=1e-9)


def test_batches_of_slices_share_scale_noise_and_gain() -> None:
    scan = simulate(body(slices=5), beam(body(), views=40), photons=1e5, seed=1)
    whole = scan.prepare()
    one_by_one = list(scan.problems(budget=250_000))
    assert [p.slices for p in one_by_one] == [range(i, i + 1) for i in range(5)]
    assert {(p.scale, p.noise_std, p.gain) for p in one_by_one} == {(whole.scale, whole.noise_std, whole.gain)}
    torch.testing.assert_close(torch.cat([p.likelihood.y for p in one_by_one]), whole.likelihood.y)
    assert one_by_one[3].grid.affine[2, 3] == pytest.approx(5 + 3 * 3.0)


def test_selected_slices_are_those_of_the_whole() -> None:
    scan = simulate(body(slices=4), beam(body(), views=30), photons=1e4, seed=7)
    part = scan.select(slice(2, 4))
    torch.testing.assert_close(part.projections[0:2], scan.projections[2:4])
    assert part.grid.affine[2, 3] == pytest.approx(5 + 2 * 3.0)


def test_some_views_are_those_of_the_whole() -> None:
    scan = simulate(body(), beam(body(), "fan", views=30), photons=1e4)
    part = subsampled(scan, slice(None, None, 3))
    assert part.geometry.shape == (10, scan.geometry.n_bins)
    torch.testing.assert_close(part.projections[0:1], scan.projections[0:1][:, ::3])
    with pytest.raises(BadInput, match="no view"):
        subsampled(scan, slice(0, 0))


def test_a_volume_is_one_problem() -> None:
    volume = body(24, 6)
    scan = simulate(volume, beam(volume, "cone", views=24), photons=None)
    assert isinstance(scan.geometry, ConeBeam)
    problem = scan.prepare(noise_std=0.01)
    assert problem.likelihood.domain == (6, 24, 24)
    found = problem.to_volume(truth(volume)[None])
    torch.testing.assert_close(found.image, volume.image, atol=1e-3, rtol=0)
    relative = problem.likelihood.residual(truth(volume)[None]).norm() / problem.likelihood.y.norm()
    assert float(relative) < 0.03


def test_views_without_angles_are_refused() -> None:
    scan = own_scan(None)
    with pytest.raises(BadInput, match="60 views.*59 angles|59 angles"):
        replace(scan, geometry=scan.geometry.subset(slice(59)))


def test_units_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match="736 m|another unit"):
        FanBeam2D(angles=even_angles(8, 6.28), n_bins=736, bin_spacing=1000.0, dso=595, dsd=1085)
    with pytest.raises(BadInput, match="degrees"):
        ParallelBeam2D(angles=np.arange(180.0), n_bins=8, bin_spacing=1)
    with pytest.raises(BadInput, match="dsd"):
        FanBeam2D(angles=even_angles(8), n_bins=8, bin_spacing=1, dso=595, dsd=490)


def test_dead_readings_are_refused_or_told() -> None:
    scan = own_scan(1e4)
    with pytest.raises(BadInput, match="view"):
        replace(scan, projections=torch.where(torch.arange(60)[:, None] == 7, torch.zeros(()), scan.projections)).prepare()
    with pytest.raises(BadInput, match="NaN"):
        replace(scan, projections=torch.where(torch.arange(60)[:, None] == 7, torch.nan, scan.projections)).prepare()
    few = scan.projections.clone()
    few[:, ::9, ::8] = -3.0
    problem = replace(scan, projections=few).prepare()
    assert any("not measured" in text for text in problem.facts["warnings"])


def test_a_truncated_object_is_told() -> None:
    scan = own_scan(None)
    cut = replace(scan, geometry=replace(scan.geometry, n_bins=21), projections=scan.projections[..., 18:39])
    assert any("field of view" in text for text in cut.prepare(noise_std=0.01).facts["warnings"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise_std", -1.0), ("photons", 0), ("matrix", 2.5), ("law", "gauss"), ("nan", "skip"), ("centre", "middle"), ("model_error", -1)],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=name):
        own_scan(1e4).prepare(**{name: value})
    with pytest.raises(BadInput, match="no setting"):
        own_scan(1e4).prepare(photon=1e4)


def test_an_image_that_is_not_in_hu_is_not_projected() -> None:
    volume = body()
    with pytest.raises(BadInput, match="HU"):
        simulate(replace(volume, image=volume.image + 1000, units="arbitrary"))
