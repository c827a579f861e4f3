"""From scan to problem: noise, scale, maps, leakage, odd files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import medrecon
from medrecon.errors import BadInput, NotSupported
from medrecon.linop.fourier import fft, ifft
from medrecon.linop.laws import random
from medrecon.physics.mri.masks import poisson_disc
from medrecon.physics.mri.scan import MRIScan, NoiseScan
from medrecon.physics.mri.simulate import undersample
from medrecon.physics.scan import Problem
from medrecon.tensors import fastmri_crop
from medrecon.volume import Grid
from tests.conftest import GOLDEN
from tests.physics.mri.scans import head, lines, scan


def image_of(source: MRIScan, method: str = "sense", **settings: Any) -> Tensor:
    return medrecon.reconstruct(source, method, **settings).volume.image


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def loaded(source: MRIScan, factor: float = 1.0) -> MRIScan:
    """The scan with its k-space in memory, times a factor; its noise scan too."""
    noise = None if source.noise is None else NoiseScan(source.noise.samples * factor, source.noise.bandwidth_ratio)
    return replace(source, kspace=source.kspace[0 : source.n_slices] * factor, noise=noise)


# noise


def test_whitened_noise_has_unit_variance_and_is_uncorrelated() -> None:
    quiet = scan((6, 64, 48), noise_std=1e-3, noise_correlation=0.6)
    noise = quiet.kspace.noise_factor @ random((4, 6 * 64 * 48), torch.complex64, "n")  # type: ignore[attr-defined]
    blank = replace(quiet, kspace=noise.reshape(4, 6, 64, 48).movedim(0, 1) + 1e-9)
    problem = blank.prepare(maps=torch.ones(4, 64, 48, dtype=torch.complex64))
    y = problem.likelihood.y.movedim(1, 0).reshape(4, -1).to(torch.complex128)  # type: ignore[attr-defined]
    covariance = y @ y.mH / y.shape[1] / 2
    assert float((covariance - torch.eye(4)).abs().max()) < 0.05
    raw = noise.to(torch.complex128) @ noise.to(torch.complex128).mH / noise.shape[1] / 2
    assert float(raw[0, 1].abs() / raw[0, 0].abs()) > 0.4


def test_the_noise_level_is_measured_estimated_or_given() -> None:
    source = scan((4, 96, 96), mask=lines(96), noise_std=0.1)
    measured = source.prepare()
    assert measured.noise_std == pytest.approx(0.1, rel=0.03)
    assert measured.facts["noise_source"].startswith("noise scan")
    estimated = replace(source, noise=None).prepare()
    assert estimated.noise_std == pytest.approx(0.1, rel=0.1)
    assert estimated.facts["noise_source"].startswith("estimated")
    given = source.prepare(noise_std=0.05)
    assert (given.noise_std, given.facts["noise_source"]) == (0.05, "given")


def test_a_noise_scan_of_another_bandwidth_is_rescaled() -> None:
    source = scan(noise_std=0.02)
    assert source.noise is not None
    wide = replace(source, noise=NoiseScan(source.noise.samples * 2, bandwidth_ratio=0.25))
    assert wide.prepare().noise_std == pytest.approx(source.prepare().noise_std, rel=1e-5)


def test_chi2_of_the_truth_is_one() -> None:
    source = scan((2, 64, 48), mask=lines(64), noise_std=0.05)
    maps = torch.stack([source.kspace.whole.coil_maps(z) for z in range(2)])  # type: ignore[attr-defined]
    truth = torch.stack([source.kspace.whole.object_image(z) for z in range(2)])  # type: ignore[attr-defined]
    problem = source.prepare(maps=maps)
    torch.testing.assert_close(problem.likelihood.chi2(truth / problem.scale), torch.ones(2), atol=0.03, rtol=0)


def test_data_without_noise_run_where_no_noise_is_needed_and_ask_elsewhere() -> None:
    source = replace(scan(noise_std=0.0), noise=None)
    silent = replace(source, kspace=torch.where(lines(32, every=99), source.kspace[0:3], 0), mask=lines(32, every=99))
    problem = silent.prepare(noise_std=0)
    assert problem.noise_std == 0
    with pytest.raises(BadInput, match="noise_std="):
        image_of(silent, "tv", noise_std=0, steps=1)
    constant = replace(
        silent, kspace=torch.ones(1, 4, 32, 24, dtype=torch.complex64), mask=None, grid=source.grid.crop((0, 0, 0), (1, 32, 24))
    )
    problem = constant.prepare(maps=torch.ones(4, 32, 24, dtype=torch.complex64))
    assert problem.noise_std == 0
    assert any("noise" in warning for warning in problem.facts["warnings"])


# scale


@pytest.mark.parametrize("factor", [1000.0, 1e-7])
@pytest.mark.parametrize("method", ["sense", "l1_wavelet", "rss"])
def test_the_image_scales_with_kspace(factor: float, method: str) -> None:
    source = scan(mask=lines(32), noise_std=0.02)
    steps = {"sense": {"steps": 10}, "l1_wavelet": {"steps": 10}}.get(method, {})
    plain, scaled = image_of(loaded(source), method, **steps), image_of(loaded(source, factor), method, **steps)
    assert distance(scaled / factor, plain) < 1e-4
    estimated = replace(loaded(source, factor), noise=None)
    assert distance(image_of(estimated, method, **steps) / factor, image_of(replace(loaded(source), noise=None), method, **steps)) < 1e-4


def test_scale_and_noise_are_of_the_volume_whatever_the_batches() -> None:
    source = loaded(scan((5, 32, 24), mask=lines(32), noise_std=0.02))
    source = replace(source, noise=None)
    whole = source.prepare()
    each = list(source.problems(1 << 18, "cpu"))
    assert [p.slices for p in each] == [range(z, z + 1) for z in range(5)]
    assert {(p.scale, p.noise_std) for p in each} == {(whole.scale, whole.noise_std)}
    back = torch.cat([p.likelihood.back for p in each])  # type: ignore[attr-defined]
    torch.testing.assert_close(back, whole.likelihood.back)  # type: ignore[attr-defined]
    assert [p.grid.affine.tolist() for p in each] == [source.grid.crop((z, 0, 0), (1, 32, 24)).affine.tolist() for z in range(5)]


def test_the_scale_is_the_brightness_of_the_image_over_the_priors_ratio() -> None:
    source = scan((3, 64, 48), noise_std=1e-4)
    asked: list[int | None] = []

    def kappa(lines: int | None) -> float:
        asked.append(lines)
        return 0.5

    problem = source.prepare(kappa=kappa)
    assert asked == [24]
    bright = float(head((3, 64, 48)).quantile(0.995))
    assert problem.scale * 0.5 == pytest.approx(bright, rel=0.3)  # truncation overshoots at sharp edges


# leakage


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("method", ["sense", "zero_filled", "rss", "tv"])
def test_unsampled_kspace_cannot_leak_into_the_image(rubbish: float, method: str) -> None:
    mask = lines(32)
    clean = loaded(scan(mask=mask, noise_std=0.02))
    dirty = replace(clean, kspace=torch.where(mask, clean.kspace, torch.tensor(rubbish, dtype=torch.complex64)))
    for source in (clean, replace(clean, noise=None)):
        settings = {} if method in ("zero_filled", "rss") else {"steps": 3}
        expected = image_of(source, method, **settings)
        assert torch.equal(image_of(replace(dirty, noise=source.noise), method, **settings), expected)


def test_unsampled_kspace_of_a_2d_mask_cannot_leak_either() -> None:
    mask = poisson_disc((32, 24), 2, calib=12, seed=1)
    clean = loaded(scan(mask=mask, noise_std=0.02))
    dirty = replace(clean, kspace=torch.where(mask, clean.kspace, torch.tensor(float("nan"), dtype=torch.complex64)))
    assert torch.equal(image_of(dirty, steps=3), image_of(clean, steps=3))


# calibration


def test_a_small_or_missing_centre_is_named_with_its_size_and_the_way_out() -> None:
    source = scan(noise_std=0.02)
    for centre, size in ((4, "5 x 24"), (0, "0 x 0|1 x 24")):
        mask = lines(32, every=3, centre=centre)
        if centre == 0:
            mask[15:18] = False
        with pytest.raises(BadInput, match=rf"measures ({size}).*--set calib=.*--set maps="):
            image_of(undersample(source, mask), steps=1)


def test_given_maps_are_used_for_every_slice_or_each() -> None:
    source = loaded(scan(mask=lines(32, every=3, centre=2), noise_std=1e-3))
    truth = scan().kspace.coil_maps  # type: ignore[attr-defined]
    each = torch.stack([truth(z) for z in range(3)])
    found = image_of(source, maps=each)
    assert distance(found.abs(), head()) < 0.05
    same = image_of(source, maps=each[:1])
    assert torch.allclose(same[0], found[0], rtol=1e-3, atol=1e-3)
    assert torch.equal(image_of(source, maps=each[0]), same)
    assert torch.equal(image_of(source, maps=each, max_memory=1 << 18), found)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 4, 30, 24), "another matrix"), ((3, 5, 32, 24), "5 coils"), ((2, 4, 32, 24), "2 slices"), ((32, 24), "another matrix")],
)
def test_maps_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        image_of(scan(mask=lines(32)), maps=torch.ones(shape, dtype=torch.complex64))


def test_a_reference_scan_calibrates_like_the_full_data() -> None:
    full = loaded(scan((3, 48, 40), noise_std=1e-3))
    sparse = undersample(full, lines(48, every=3, centre=2))
    reference = full.kspace[0:3][:, :, 12:36, 8:32]  # 24 x 24 around the centre
    expected = full.prepare().likelihood.A.operator.maps  # type: ignore[attr-defined]
    for source, settings in ((sparse, {"calib": reference}), (replace(sparse, calib=reference), {})):
        maps = source.prepare(**settings).likelihood.A.operator.maps  # type: ignore[attr-defined]
        torch.testing.assert_close(maps, expected, atol=1e-4, rtol=0)
    one = sparse.prepare(calib=reference[1:2]).likelihood.A.operator.maps  # type: ignore[attr-defined]
    torch.testing.assert_close(one[0], expected[1], atol=1e-4, rtol=0)
    part = replace(sparse, calib=reference).select(slice(1, 3)).prepare().likelihood.A.operator.maps  # type: ignore[attr-defined]
    torch.testing.assert_close(part, expected[1:], atol=1e-4, rtol=0)


def test_a_reference_scan_with_readout_oversampling_covers_the_same_field_of_view() -> None:
    full = loaded(scan((2, 48, 40), noise_std=1e-3, oversampling=2))
    assert full.matrix == (48, 80)
    sparse = undersample(full, lines(48, every=3, centre=2))
    expected = full.prepare().likelihood.A.operator.maps  # type: ignore[attr-defined]
    inside = head((2, 48, 40))[:, None] > 0
    for width in (80, 50):
        reference = full.kspace[0:2][:, :, 12:36, 40 - width // 2 : 40 + width // 2]
        maps = sparse.prepare(calib=reference).likelihood.A.operator.maps  # type: ignore[attr-defined]
        assert float((maps - expected).abs().masked_select(inside).max()) < 0.02


def test_reference_scans_that_do_not_fit_are_refused() -> None:
    source = scan(mask=lines(32, every=3, centre=2))
    with pytest.raises(BadInput, match="scan's 4 coils"):
        image_of(source, calib=torch.ones(3, 5, 24, 24, dtype=torch.complex64))
    with pytest.raises(BadInput, match="3 slices or 1"):
        image_of(source, calib=torch.ones(2, 4, 24, 24, dtype=torch.complex64))
    with pytest.raises(BadInput, match="NaN"):
        image_of(source, calib=torch.full((3, 4, 24, 24), float("nan"), dtype=torch.complex64))


# bad data


def test_nan_is_named_by_slice_and_coil() -> None:
    source = loaded(scan(mask=lines(32), noise_std=0.02))
    source.kspace[1, 2, 16, 5] = float("inf")
    with pytest.raises(BadInput, match="slice 1, coil 2"):
        image_of(source)
    with pytest.raises(BadInput, match="slice 1, coil 2"):
        image_of(replace(source, noise=None))


def test_nan_zero_takes_the_line_as_not_acquired() -> None:
    source = loaded(scan(mask=lines(32), noise_std=1e-3))
    maps = torch.stack([scan().kspace.coil_maps(z) for z in range(3)])  # type: ignore[attr-defined]
    damaged = replace(source, kspace=source.kspace.clone())
    damaged.kspace[1, 2, 10, 5] = float("nan")
    result = medrecon.reconstruct(damaged, "sense", nan="zero", maps=maps)
    assert any("1 readout lines taken as not acquired" in warning for warning in result.log["warnings"])
    image, whole = result.volume.image, image_of(source, maps=maps)
    torch.testing.assert_close(image[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=1e-4)
    assert distance(image[1].abs(), head()[1]) < 0.05  # zeros taken as data would cost more
    assert result.log["chi2"] < 2
    pixel = undersample(loaded(scan(noise_std=1e-3)), poisson_disc((32, 24), 1.5, calib=12, seed=1))
    pixel = loaded(pixel)
    pixel.kspace[0, 0, 16, 12] = float("nan")
    assert bool(torch.isfinite(image_of(pixel, nan="zero", steps=3)).all())


def test_empty_masks_and_empty_data_are_errors() -> None:
    source = loaded(scan())
    with pytest.raises(BadInput, match="mask is empty"):
        image_of(replace(source, mask=torch.zeros(32, 1, dtype=torch.bool)))
    zero = torch.zeros(3, 4, 32, 24, dtype=torch.complex64)
    with pytest.raises(BadInput, match="mask is empty"):
        image_of(replace(source, kspace=zero, mask=None))
    for noise in (source.noise, None):
        with pytest.raises(BadInput, match="no image to reconstruct"):
            image_of(replace(source, kspace=zero, noise=noise))


@pytest.mark.parametrize("mask", [torch.ones(32, dtype=torch.bool), torch.ones(32, 1), torch.ones(30, 1, dtype=torch.bool)])
def test_masks_without_their_true_rank_are_refused(mask: Tensor) -> None:
    with pytest.raises(BadInput, match="true rank"):
        image_of(replace(loaded(scan()), mask=mask))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -1.0}, "noise_std = -1"),
        ({"noise_std": "loud"}, "expected a number"),
        ({"calib_size": 2}, "out of range"),
        ({"sets": 1.5}, "whole number"),
        ({"nan": "ignore"}, "error or zero"),
        ({"combine": "sum"}, "maps or rss"),
        ({"whiten": 1}, "true or false"),
        ({"virtual_coil": 4}, "did you mean 'virtual_coils'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        scan().prepare(**settings)


# kinds of scans


def test_one_coil_needs_no_maps() -> None:
    source = scan(coils=1, noise_std=1e-3)
    assert distance(image_of(source).abs(), head()) < 0.02
    assert image_of(undersample(source, lines(32)), "zero_filled").shape == (3, 32, 24)


def test_virtual_coils_keep_the_image() -> None:
    source = scan((2, 48, 40), coils=8, mask=lines(48), noise_std=1e-3)
    result = medrecon.reconstruct(source, "sense", virtual_coils=6)
    assert result.log["calibration"]["energy_kept"] > 0.99
    assert distance(result.volume.image.abs(), image_of(source).abs()) < 0.05
    with pytest.raises(BadInput, match="root sum of squares"):
        image_of(source, "rss", virtual_coils=6)


def test_two_map_sets_give_one_image() -> None:
    source = scan((2, 48, 40), mask=lines(48, centre=24), noise_std=1e-3)
    for method in ("sense", "zero_filled"):
        image = image_of(source, method, sets=2)
        assert image.shape == (2, 48, 40)
        assert not image.is_complex()
    assert distance(image_of(source, sets=2), head((2, 48, 40))) < 0.15


def test_a_2d_poisson_mask_is_reconstructed() -> None:
    source = scan((1, 64, 48), coils=6, mask=poisson_disc((64, 48), 2.5, calib=16, seed=3), noise_std=1e-3)
    assert source.prepare().likelihood.A.operator.axes == (-2, -1)  # type: ignore[attr-defined]
    assert distance(image_of(source).abs(), head((1, 64, 48))) < 0.12


def volume_scan(shape: tuple[int, int, int], mask: Tensor | None = None, noise_std: float = 0.0) -> tuple[MRIScan, Tensor]:
    """3-D k-space (1, coil, z, y, x) and the complex truth (z, y, x)."""
    slices = scan(shape, coils=5, noise_std=noise_std).kspace
    whole = slices[0 : shape[0]].movedim(0, 1)[None]  # (1, coil, z, y, x), still an image along z
    truth = torch.stack([slices.object_image(z) for z in range(shape[0])])  # type: ignore[attr-defined]
    kspace = fft(whole, (-3,))
    mask = torch.ones(shape[0], shape[1], 1, dtype=torch.bool) if mask is None else mask
    kspace = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    return MRIScan(grid=scan(shape).grid, kspace=kspace, mask=mask, image_axes=3), truth


def test_a_fully_sampled_3d_scan_gives_the_truth_in_its_place() -> None:
    source, truth = volume_scan((12, 20, 16))
    result = medrecon.reconstruct(source, "sense", noise_std=1e-4, max_memory=1 << 17)
    assert result.log["batches"] > 2
    assert result.volume.image.shape == (12, 20, 16)
    np.testing.assert_array_equal(result.volume.affine, source.grid.affine)
    assert distance(result.volume.image.abs(), truth.abs()) < 0.02
    assert distance(image_of(source, "rss", noise_std=1e-4), truth.abs()) < 1e-5


def test_a_3d_scan_with_gaps_along_both_phase_encodings_is_reconstructed() -> None:
    mask = poisson_disc((24, 32), 2, calib=18, seed=2)[..., None]
    source, truth = volume_scan((24, 32, 8), mask, noise_std=1e-3)
    maps = torch.stack([scan((24, 32, 8), coils=5).kspace.coil_maps(z) for z in range(24)], 1)  # type: ignore[attr-defined]
    assert distance(image_of(source, maps=maps), truth) < 0.05
    assert torch.equal(image_of(source, maps=maps[None], max_memory=1 << 17), image_of(source, maps=maps))
    assert distance(image_of(source).abs(), truth.abs()) < 0.2
    problems = list(source.problems(1 << 17))
    columns = [p.grid.affine[:3, 3].tolist() for p in problems]
    assert columns == [source.grid.crop((0, 0, p.slices.start), (1, 1, 1)).affine[:3, 3].tolist() for p in problems]


def test_a_3d_scan_is_cropped_along_readout_and_phase() -> None:
    source, truth = volume_scan((12, 20, 16))
    grid = source.grid.crop((0, 3, 4), (12, 14, 8))
    image = image_of(replace(source, crop=(14, 8), grid=grid), noise_std=1e-4)
    assert distance(image.abs(), truth[:, 3:17, 4:12].abs()) < 0.03


def test_3d_kspace_that_cannot_be_split_is_refused() -> None:
    source, _ = volume_scan((6, 12, 10))
    with pytest.raises(NotSupported, match="along the readout"):
        image_of(replace(source, mask=torch.rand(6, 12, 10) < 0.5))
    with pytest.raises(NotSupported, match="2 volumes"):
        image_of(replace(source, kspace=source.kspace[0:1].expand(2, -1, -1, -1, -1)), noise_std=1e-3)


@pytest.mark.parametrize("encoded", [(64, 36), (63, 37)])
def test_readout_oversampling_is_cropped_before_solving(encoded: tuple[int, int]) -> None:
    nx, ny = encoded
    source = loaded(scan((2, ny, nx), noise_std=1e-3, mask=lines(ny)))
    cropped = replace(source, crop=(32, 32), grid=source.grid.crop((0, (ny - 32) // 2, (nx - 32) // 2), (2, 32, 32)))
    maps = torch.stack([scan((2, ny, nx)).kspace.coil_maps(z) for z in range(2)])  # type: ignore[attr-defined]
    problem = cropped.prepare(maps=maps)
    assert problem.likelihood.domain == (ny, 32)
    whole = image_of(source, maps=maps, steps=60, tolerance=1e-7)
    image = image_of(cropped, maps=maps, steps=60, tolerance=1e-7)
    assert distance(image, fastmri_crop(whole, (32, 32))) < 1e-4
    points = replace(cropped, mask=poisson_disc((ny, nx), 1.5, calib=12, seed=0))
    assert image_of(points, maps=maps, steps=2).shape == (2, 32, 32)


@pytest.mark.parametrize("name", ["file9000001.h5", "file_brain_AXFLAIR_203_9000002.h5"])
def test_rss_is_the_target_that_fastmri_stores(name: str) -> None:
    path = GOLDEN / "mri" / "fastmri_files" / name
    with h5py.File(path) as file:
        target = torch.from_numpy(file["reconstruction_rss"][()]).mT
    image = image_of(medrecon.read(path), "rss")
    assert image.shape == target.shape
    assert distance(image, target) < 1e-5


def test_the_readout_is_transformed_back_once() -> None:
    source = loaded(scan(noise_std=1e-3))
    problem: Problem = source.prepare(combine="rss", whiten=False)
    hybrid = ifft(source.kspace[0:3], (-1,)).unsqueeze(-3)
    torch.testing.assert_close(problem.likelihood.y * problem.noise_std, hybrid, rtol=1e-4, atol=1e-6)


def test_an_unplaced_scan_stays_unplaced() -> None:
    source = replace(loaded(scan(noise_std=1e-3)), grid=Grid.unplaced((3, 32, 24), (3, 2, 1)))
    assert medrecon.reconstruct(source, "rss").volume.orientation == "unknown"
