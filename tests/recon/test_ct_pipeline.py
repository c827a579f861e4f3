"""From CT data to volumes: every kind of method on one small scan, and the whole way through files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct.circular import ParallelBeam2D, even_angles
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.ct.simulate import beam, simulate
from medrecon.prior.handcrafted import TotalVariationPrior
from medrecon.tensors import generator_for
from medrecon.volume import Grid, Volume

N = 32


def body(slices: int = 2) -> Volume:
    """Water with bone in air; HU; placed in a patient."""
    place = torch.arange(N) - (N - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    image = torch.full((N, N), -1000.0)
    image[torch.hypot(x, y) < 0.4 * N] = 0.0
    image[torch.hypot(x - 4, y + 3) < 0.12 * N] = 600.0
    stack = torch.stack([image + 30 * k * (image > -500) for k in range(slices)])
    affine = np.array([[-2.0, 0, 0, 31], [0, -2.0, 0, 47], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    return Volume(stack, Grid(tuple(stack.shape), affine), "HU", "CT", {"BodyPartExamined": "CHEST"})


def error(found: Volume, truth: Volume) -> float:
    """Root mean square, HU."""
    return float((found.image - truth.image).square().mean().sqrt())


@pytest.mark.parametrize("kind", ["parallel", "fan", "cone"])
def test_filtered_backprojection_gives_hu(kind: str) -> None:
    volume = body(6 if kind == "cone" else 2)
    scan = simulate(volume, beam(volume, kind, views=120), photons=None)
    found = medrecon.reconstruct(scan, "fbp").volume
    assert (found.units, found.modality) == ("HU", "CT")
    np.testing.assert_allclose(found.affine, volume.affine)
    middle = found.image[len(found.image) // 2]
    inside = middle[18:24, 8:14]  # water, far from the bone and from edges
    expected = float(volume.image[len(found.image) // 2, 20, 10])
    assert float(inside.mean()) == pytest.approx(expected, abs=12 if kind == "cone" else 8)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("cgls", {"steps": 20}), ("sirt", {"steps": 60}), ("os_sart", {"steps": 8}), ("pwls", {"steps": 20})],
)
def test_iterations_without_a_prior_are_better_than_backprojection_of_few_views(method: str, settings: dict[str, float]) -> None:
    volume = body()
    scan = simulate(volume, beam(volume, views=15), photons=1e6, seed=2)
    plain = error(medrecon.reconstruct(scan, "fbp").volume, volume)
    assert error(medrecon.reconstruct(scan, method, **settings).volume, volume) < 0.99 * plain


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("tv", {"strength": 0.1}),
        ("dds", {"steps": 12}),
        ("pnp_admm", {"steps": 12}),
        ("diffpir", {"steps": 12}),
        ("dps", {"steps": 80}),
        ("ddnm", {"steps": 12}),
        ("dds_3d", {"steps": 12}),
        ("diffusion_mbir", {"steps": 200}),
    ],
)
def test_methods_that_know_images_beat_backprojection_of_few_views(method: str, settings: dict[str, float]) -> None:
    volume = body()
    scan = simulate(volume, beam(volume, views=15), photons=1e6, seed=2)
    plain = error(medrecon.reconstruct(scan, "fbp").volume, volume)
    found = medrecon.reconstruct(scan, method, prior=TotalVariationPrior(field="real"), **settings)
    assert error(found.volume, volume) < 0.8 * plain, (error(found.volume, volume), plain)


def test_few_quanta_by_their_own_law_are_no_worse_than_by_the_logarithm() -> None:
    volume = body(1)
    scan = simulate(volume, beam(volume, views=60), photons=60.0, seed=3)
    settings = {"steps": 15, "prior": TotalVariationPrior(field="real")}
    by_law, by_log = (medrecon.reconstruct(scan, "diffpir", law=law, **settings).volume for law in ("poisson", "gaussian"))
    inside = volume.image[0] == 0
    bias = [abs(float(found.image[0][inside].mean())) for found in (by_law, by_log)]
    assert bias[0] < bias[1]


def test_draws_of_a_real_image_have_a_spread_of_their_own_sign() -> None:
    volume = body(1)
    scan = simulate(volume, beam(volume, views=30), photons=1e4, seed=4)
    found = medrecon.reconstruct(scan, "dds", prior=TotalVariationPrior(field="real"), samples=3, steps=8)
    assert found.std is not None
    assert found.samples is not None
    torch.testing.assert_close(found.std.image, found.samples.std(0) * found.log.get("spread", 1), rtol=0.5, atol=1e-3)
    assert float(found.std.image.max()) < 500  # spread of |HU| would jump where air turns negative


def test_slices_do_not_depend_on_the_memory_at_hand() -> None:
    volume = body(3)
    scan = simulate(volume, beam(volume, views=24), photons=1e5, seed=5)
    settings = {"prior": TotalVariationPrior(field="real"), "steps": 6, "seed": 1}
    whole = medrecon.reconstruct(scan, "dds", **settings)
    parts = medrecon.reconstruct(scan, "dds", max_memory=200_000, **settings)
    assert parts.log["batches"] == 3
    torch.testing.assert_close(parts.volume.image, whole.volume.image, atol=2.0, rtol=0)


def test_the_plan_says_what_a_run_would_take() -> None:
    from medrecon.recon.pipeline import plan

    for kind in ("parallel", "cone"):
        volume = body(4)
        scan = simulate(volume, beam(volume, kind, views=12), photons=None)
        told = plan(scan, "fbp")
        assert told["image"] == [4, N, N]
        assert told["seconds"] >= 0
        assert told["slices"] == (1 if kind == "cone" else 4)


def test_a_complex_prior_and_a_method_for_mri_are_refused_by_name() -> None:
    volume = body(1)
    scan = simulate(volume, beam(volume, views=12), photons=None)
    with pytest.raises(BadInput, match="real"):
        medrecon.reconstruct(scan, "dds", prior="brain")
    with pytest.raises(BadInput, match="no setting 'map_crop'"):
        medrecon.reconstruct(scan, "fbp", map_crop=0.6)


def test_mri_has_no_filtered_backprojection() -> None:
    from medrecon.physics.mri import sense

    A = sense(torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, 1, dtype=torch.bool))
    with pytest.raises(NotSupported, match="filtered backprojection"):
        medrecon.solve(A, A(torch.ones(8, 8, dtype=torch.complex64)), "fbp", noise_std=0.1)


def test_simulate_reconstruct_write_read_keeps_hu_and_place(tmp_path: Path) -> None:
    from medrecon.io.ct_arrays import write_scan

    volume = body(3)
    geometry = ParallelBeam2D(angles=even_angles(180), n_bins=64, bin_spacing=1.5)
    write_scan(simulate(volume, geometry, photons=1e7), tmp_path / "scan.npz")
    result = medrecon.reconstruct(medrecon.read(tmp_path / "scan.npz"), "fbp")
    medrecon.write(result.volume, tmp_path / "series")
    medrecon.write(result.volume, tmp_path / "image.nii.gz")
    series, image = medrecon.read(tmp_path / "series"), medrecon.read(tmp_path / "image.nii.gz")
    assert (series.units, series.modality) == ("HU", "CT")
    for found in (series, image):
        np.testing.assert_allclose(found.affine, volume.affine, atol=1e-4)
        torch.testing.assert_close(found.image.float(), result.volume.image, atol=0.51, rtol=0)
    assert float(series.image[0, 18:24, 8:14].float().mean()) == pytest.approx(0, abs=8)  # water, far from edges


@pytest.mark.parametrize("method", ["mlem", "osem"])
def test_emission_counts_become_an_activity(method: str, tmp_path: Path) -> None:
    activity = (body(1).image + 1000).clamp(min=0) / 1000
    geometry = ParallelBeam2D(angles=even_angles(60), n_bins=48, bin_spacing=2.0)
    expected = 40 * CTOperator(geometry, (N, N), (2.0, 2.0))(activity)
    scan = CTScan(grid=body(1).grid, projections=torch.poisson(expected, generator_for(6)), geometry=geometry, stored="emission")
    found = medrecon.reconstruct(scan, method, steps=20 if method == "mlem" else 4).volume
    inside = activity[0] > 0.5
    assert float(found.image[0][inside].mean()) == pytest.approx(40 * float(activity[0][inside].mean()), rel=0.05)
    assert found.units == "arbitrary"
    medrecon.write(found, tmp_path / "activity.nii.gz")
    torch.testing.assert_close(medrecon.read(tmp_path / "activity.nii.gz").image.float(), found.image)
    with pytest.raises(NotSupported, match="nii"):
        medrecon.write(found, tmp_path / "series")
