"""Simulated k-space: energy, noise, geometry, laziness, determinism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import ifft
from medrecon.physics.mri.prescription import turned, with_matrix
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.simulate import SimulatedSlices, simulate, undersample
from medrecon.physics.phantom import ellipse_image, shepp_logan
from medrecon.tensors import fastmri_crop
from medrecon.volume import Grid, Volume

AFFINE = np.array([[-0.9, 0.05, 0.1, 80.0], [0.04, 1.1, -0.2, -60.0], [0.02, 0.1, 3.0, 20.0], [0, 0, 0, 1.0]])


def head(shape: tuple[int, int, int] = (4, 48, 40)) -> Volume:
    """An asymmetric phantom whose slices differ, at an oblique place."""
    plane = ellipse_image(shepp_logan(), (shape[1], shape[2])).float().clamp_min(0)
    image = torch.stack([(z + 1) / shape[0] * plane for z in range(shape[0])])
    image[:, 3:6, 4:9] += 0.5  # a landmark near the corner
    return Volume(image, Grid(shape, AFFINE), facts={"PatientID": "phantom"})


def rss(scan: MRIScan) -> Tensor:
    """fastMRI's target of the whole scan, (z, y, x)."""
    images = fastmri_crop(ifft(scan.kspace[0 : scan.n_slices], (-2, -1)), scan.crop or scan.matrix)
    return images.abs().square().sum(1).sqrt()


@pytest.mark.parametrize("oversampling", [1.0, 1.6, 2.0])
@pytest.mark.parametrize("shape", [(2, 48, 40), (2, 45, 37)])
def test_rss_of_noise_free_kspace_is_the_volume_in_its_place(shape: tuple[int, int, int], oversampling: float) -> None:
    volume = head(shape)
    scan = simulate(volume, coils=5, noise_std=0, oversampling=oversampling)
    assert scan.matrix == (shape[1], round(shape[2] * oversampling))
    assert torch.allclose(rss(scan), volume.image, atol=2e-6)
    assert np.array_equal(scan.grid.affine, volume.affine)
    assert scan.simulated
    assert scan.noise is None


def test_coil_maps_are_smooth_distinct_and_of_unit_norm() -> None:
    scan = simulate(head((5, 64, 64)), coils=8)
    assert isinstance(scan.kspace, SimulatedSlices)
    maps = scan.kspace.coil_maps(0)
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(64, 64), atol=1e-5)
    assert maps.diff(dim=-1).abs().max() < 0.2
    gram = torch.einsum("cyx,dyx->cd", maps, maps.conj()) / 64**2
    assert torch.linalg.cond(gram) < 1e4
    assert not torch.allclose(maps, scan.kspace.coil_maps(2), atol=1e-3)


def test_noise_has_the_level_asked_for_and_the_covariance_of_the_noise_scan() -> None:
    volume = head((3, 96, 96))
    noisy = simulate(volume, coils=6, noise_std=0.1, seed=3)
    clean = simulate(volume, coils=6, noise_std=0, seed=3)
    noise = (noisy.kspace[0:3] - clean.kspace[0:3]).transpose(0, 1).flatten(1)
    assert noise.real.std() == pytest.approx(0.1, rel=0.02)
    assert noise.imag.std() == pytest.approx(0.1, rel=0.02)
    covariance = noise @ noise.mH / noise.shape[1]
    assert noisy.noise is not None
    samples = noisy.noise.samples
    measured = samples @ samples.mH / samples.shape[1]
    assert (covariance - measured).norm() / covariance.norm() < 0.05
    assert covariance[0, 1].abs() > 0.1 * covariance[0, 0].abs()


def test_snr_is_the_ratio_of_signal_to_noise_in_kspace() -> None:
    scan = simulate(head((2, 64, 48)), coils=4, snr_db=15, oversampling=2)
    clean = simulate(head((2, 64, 48)), coils=4, noise_std=0, oversampling=2)
    signal = clean.kspace[0:2].abs().square().mean().sqrt()
    noise = scan.header["noise_std"] * math.sqrt(2)
    assert 20 * math.log10(float(signal) / noise) == pytest.approx(15, abs=0.01)


def test_a_slice_is_the_same_alone_in_a_batch_and_in_a_selection() -> None:
    scan = simulate(head(), coils=4, seed=5)
    whole = scan.kspace[0:4]
    assert torch.equal(scan.kspace[2:3][0], whole[2])
    part = simulate(head(), coils=4, seed=5, slices=slice(1, 3))
    assert torch.equal(part.kspace[0:2], whole[1:3])
    assert np.allclose(part.grid.affine[:3, 3], AFFINE[:3, 3] + AFFINE[:3, 2])
    assert not torch.equal(simulate(head(), coils=4, seed=6).kspace[0:1], whole[0:1])
    assert scan.kspace[2:2].shape == (0, *scan.kspace.shape[1:])


def test_a_turned_volume_keeps_each_voxel_in_its_place() -> None:
    sagittal = turned(head((6, 20, 12)), "sagittal")
    codes = sagittal.grid.axis_codes
    assert codes[0] in "AP"
    assert codes[1] in "SI"
    assert codes[2] in "LR"
    volume = head((6, 20, 12))
    for z, y, x in ((0, 0, 0), (1, 4, 6), (5, 19, 11)):
        place = volume.affine @ [x, y, z, 1]
        xn, yn, zn, _ = np.rint(np.linalg.solve(sagittal.affine, place)).astype(int)
        assert sagittal.image[zn, yn, xn] == volume.image[z, y, x]


def test_another_matrix_keeps_the_centre_and_the_mean() -> None:
    volume = head((2, 48, 40))
    small = with_matrix(volume, (24, 20))
    assert small.image.mean().item() == pytest.approx(volume.image.mean().item(), rel=1e-5)
    assert np.allclose(small.affine @ [10, 12, 1, 1], volume.affine @ [20, 24, 1, 1])
    assert small.spacing[1] == pytest.approx(2 * volume.spacing[1])
    large = with_matrix(volume, (96, 80))
    assert torch.allclose(large.image[:, ::2, ::2], volume.image, atol=0.05)


def test_field_of_view_pads_with_air() -> None:
    scan = simulate(head((2, 48, 40)), coils=2, noise_std=0, fov=(64 * 1.1045, 64 * 0.9011))
    assert scan.matrix == (64, 64)
    picture = rss(scan)
    assert picture[:, :8].abs().max() < 1e-5
    place = scan.grid.affine @ [12 + 5, 8 + 4, 0, 1]
    assert np.allclose(place, AFFINE @ [5, 4, 0, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coils": 0}, "coils"),
        ({"oversampling": 0.5}, "oversampling"),
        ({"snr_db": 10, "noise_std": 1.0}, "one of them"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"plane": "axail"}, "did you mean 'axial'"),
        ({"matrix": (2, 2)}, "matrix"),
    ],
)
def test_settings_out_of_range_are_named(change: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        simulate(head(), **change)


def test_an_image_that_is_no_magnitude_image_is_refused() -> None:
    volume = head()
    for bad, words in ((volume.image - 0.5, "magnitude"), (volume.image * math.nan, "NaN"), (volume.image * 0, "zero")):
        with pytest.raises(BadInput, match=words):
            simulate(Volume(bad, volume.grid))


def test_undersampling_keeps_samples_and_leaves_positive_zeros() -> None:
    scan = simulate(head(), coils=3, seed=1)
    mask = torch.rand(48) < 0.4
    mask[20:28] = True
    less = undersample(scan, mask)
    full, cut = scan.kspace[0:4], less.kspace[0:4]
    assert less.mask is not None
    assert less.mask.shape == (48, 1)
    assert torch.equal(cut[..., mask, :], full[..., mask, :])
    removed = torch.view_as_real(cut[..., ~mask, :])
    assert not torch.signbit(removed).any()
    assert not removed.any()
    assert less.noise is scan.noise
    assert less.header["acceleration"] == pytest.approx(48 / int(mask.sum()))
    again = undersample(less, torch.arange(48) < 24)
    assert int(again.mask.sum()) == int(mask[:24].sum())


def test_what_was_not_sampled_changes_nothing() -> None:
    scan = simulate(head(), coils=2, seed=1)
    mask = torch.arange(48) % 3 == 0
    poisoned = torch.where(mask[:, None], scan.kspace[0:4], torch.full((), math.nan, dtype=torch.complex64))
    poisoned_scan = MRIScan(grid=scan.grid, kspace=poisoned)
    assert torch.equal(undersample(poisoned_scan, mask).kspace[0:4], undersample(scan, mask).kspace[0:4])


def test_a_mask_that_does_not_fit_is_refused_with_both_sizes() -> None:
    scan = simulate(head(), coils=2)
    with pytest.raises(BadInput, match=r"\(50, 1\).*\(48, 40\)"):
        undersample(scan, torch.ones(50, dtype=torch.bool))
    with pytest.raises(BadInput, match="no sample"):
        undersample(scan, torch.zeros(48, dtype=torch.bool))
