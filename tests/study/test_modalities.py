"""Kinds of training images: HU, B-mode and magnitudes each keep their own scale and only what may be varied is varied."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medrecon.errors import BadInput
from medrecon.prior import store
from medrecon.prior.units import DECIBEL, HOUNSFIELD, RELATIVE, Units
from medrecon.study.images import ImageSet, read_images
from medrecon.study.modalities import GENERIC, MODALITIES
from medrecon.study.patches import Patches
from medrecon.volume import Grid, Volume

HU = np.array([[-1000, 0], [1000, 2500]], np.int16)


def archive(path: Path, images: np.ndarray, **arrays: np.ndarray) -> Path:
    np.savez(path, images=images, **arrays)
    return path


def body(n: int = 32) -> np.ndarray:
    """A slice in HU: air, a body of water, a rib."""
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    return np.where(x**2 + y**2 < 0.6, np.where(np.abs(x - 0.3) < 0.1, 700, 0), -1000).astype(np.int16)


def test_hounsfield_units_map_to_fixed_numbers(tmp_path: Path) -> None:
    images = read_images([archive(tmp_path / "a.npz", HU[None])], "ct")
    np.testing.assert_array_equal(images.images[0], [[0, 0.5], [1, 1.5]])
    assert images.kinds == ["ct"]


def test_the_contrast_of_a_ct_slice_does_not_depend_on_its_brightest_pixel(tmp_path: Path) -> None:
    metal = body()
    metal[16, 16] = 3000
    plain, bright = read_images([archive(tmp_path / "a.npz", np.stack([body(), metal]))], "ct").images
    assert int((plain != bright).sum()) == 1


def test_dicom_and_nifti_of_ct_give_the_same_images_as_an_archive(tmp_path: Path) -> None:
    import medrecon

    expected = read_images([archive(tmp_path / "a.npz", body()[None])], "ct").images[0]
    nibabel.save(nibabel.Nifti1Image(body().astype(np.float32)[None].transpose(2, 1, 0), np.eye(4)), tmp_path / "a.nii.gz")
    grid = Grid((1, 32, 32), np.eye(4))
    medrecon.write(Volume(torch.from_numpy(body()[None].astype(np.float32)), grid, units="HU", modality="CT"), tmp_path / "series")
    for source in ("a.nii.gz", "series"):
        found = read_images([tmp_path / source], "ct").images[0]
        assert min(np.abs(turned - expected).max() for turned in (found, found[::-1], found[:, ::-1], found[::-1, ::-1])) < 1e-3


def test_grey_levels_map_to_sixty_decibels(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    x = read_images([archive(tmp_path / "a.npz", levels)], "ultrasound").images[0]
    np.testing.assert_allclose(x.ravel(), np.arange(256) / 255, atol=5e-4)
    decibels = DECIBEL.from_prior(torch.from_numpy(x.astype(np.float32)))
    assert (float(decibels.min()), float(decibels.max())) == pytest.approx((-60, 0))


def test_a_png_is_a_picture_of_grey_levels(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "scan.png")
    Image.fromarray(np.stack([levels] * 3, -1)).save(tmp_path / "colour.png")
    grey, colour = (read_images([tmp_path / name], "ultrasound").images[0] for name in ("scan.png", "colour.png"))
    np.testing.assert_allclose(grey.ravel(), np.arange(256) / 255, atol=5e-4)
    np.testing.assert_array_equal(grey, colour)


@pytest.mark.parametrize(
    ("modality", "values", "words"),
    [
        ("ct", np.full((1, 8, 8), 1024.0) + np.eye(8), "not Hounsfield units"),
        ("ct", np.full((1, 8, 8), np.nan), "NaN or infinity"),
        ("ct", np.full((1, 8, 8), 1j), "complex"),
        ("ultrasound", np.full((1, 8, 8), 300), "grey levels of 0 to 255"),
        ("ultrasound", np.full((1, 8, 8), -3.0), "grey levels of 0 to 255"),
        ("ultrasound", np.full((1, 8, 8), 0.5), "grey levels of 0 to 255"),
        ("mri", np.ones((1, 8, 8)), "did you mean 'mr'"),
    ],
)
def test_images_in_another_unit_are_refused(tmp_path: Path, modality: str, values: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_images([archive(tmp_path / "a.npz", values)], modality)


def test_slices_of_air_are_left_out(tmp_path: Path) -> None:
    air = np.full_like(body(), -1000)
    assert len(read_images([archive(tmp_path / "a.npz", np.stack([air, body()]))], "ct")) == 1


def test_generic_training_keeps_the_scale_of_each_kind(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    sources = [
        archive(tmp_path / "ct.npz", HU[None]),
        archive(tmp_path / "mr.npz", np.random.default_rng(0).random((1, 40, 40)) * 4000),
        archive(tmp_path / "us.npz", levels),
    ]
    images = read_images(sources, GENERIC)
    assert images.kinds == ["ct", "mr", "ultrasound"]
    np.testing.assert_array_equal(images.images[0], [[0, 0.5], [1, 1.5]])
    assert float(np.quantile(images.images[1].astype(np.float32), 0.995)) == pytest.approx(1, abs=2e-3)
    assert float(images.images[2].max()) == 1


def patches_of(image: np.ndarray, kind: str, count: int = 64) -> np.ndarray:
    found: np.ndarray = Patches(ImageSet([image.astype(np.float16)], ["a"], [kind]), 8, count, "real")(np.random.default_rng(0)).numpy()[
        :, 0
    ]
    return found


def test_ultrasound_patches_keep_the_beam_direction() -> None:
    """An image that darkens downwards, its left side darker: patches stay darker below and change sides."""
    y, x = np.mgrid[0:8, 0:8]
    found = patches_of(0.9 - 0.08 * y + 0.01 * (x - 7), "ultrasound")
    assert (found[:, 0] > found[:, -1]).all()
    sides = found[:, 0, 0] < found[:, 0, -1]
    assert 10 < int(sides.sum()) < 54


def test_ultrasound_patches_lose_gain_in_decibels_and_keep_the_floor() -> None:
    image = np.tile(np.linspace(0.0, 1.0, 8), (8, 1))
    for patch in patches_of(image, "ultrasound"):
        row = np.sort(patch[0])
        lost = 1 - row[-1]
        assert 0 <= lost <= 0.101  # at most 6 of 60 dB
        np.testing.assert_allclose(row, (np.linspace(0, 1, 8) - lost).clip(0), atol=2e-3)


def test_ct_patches_are_turned_and_scaled_a_little() -> None:
    y, x = np.mgrid[0:8, 0:8]
    image = 0.3 + 0.05 * y + 0.001 * x
    found = patches_of(image, "ct")
    brightest = found.max((1, 2)) / image.max()
    assert 0.949 < brightest.min() < 0.97
    assert 1.03 < brightest.max() < 1.051
    corners = {int(np.argmax(p[[0, 0, -1, -1], [0, -1, 0, -1]])) for p in found}
    assert corners == {0, 1, 2, 3}
    steeper = np.abs(np.diff(found, axis=1)).mean((1, 2)) > np.abs(np.diff(found, axis=2)).mean((1, 2))
    assert 10 < int(steeper.sum()) < 54  # transposed as often as not


@pytest.mark.parametrize("kind", MODALITIES)
def test_patches_of_air_are_redrawn(kind: str) -> None:
    image = np.zeros((64, 64))
    image[24:40, 24:40] = 0.5 + 0.2 * np.random.default_rng(0).random((16, 16))
    empty = np.mean([p.std() <= 1e-6 for p in patches_of(image, kind, 400)])
    chance = 1 - (24 / 57) ** 2  # of a patch without any of the object, were none redrawn
    assert empty == pytest.approx(chance**4, abs=0.08)


def test_volumes_of_one_patient_are_one_subject(tmp_path: Path) -> None:
    for name in ("sub-01_ses-1_T1w.nii", "sub-01_ses-2_T1w.nii", "sub-02_T1w.nii", "other.nii"):
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((8, 8, 1)), np.eye(4)), tmp_path / name)
    subjects = read_images([tmp_path]).subjects
    assert subjects == ["other", "sub-01_ses-1_T1w", "sub-01_ses-1_T1w", "sub-02_T1w"]


def test_series_of_one_dicom_patient_are_one_subject_and_its_number_is_not_told(tmp_path: Path) -> None:
    import medrecon

    for name, number in (("a", "4711"), ("b", "4711"), ("c", "4712"), ("d", "anonymous"), ("e", "anonymous")):
        volume = Volume(torch.rand(1, 8, 8), Grid((1, 8, 8), np.eye(4)), facts={"PatientID": number})
        medrecon.write(volume, tmp_path / name)
    assert read_images([tmp_path]).subjects == ["a", "a", "c", "d", "e"]


@pytest.mark.parametrize("units", [RELATIVE, HOUNSFIELD, DECIBEL])
def test_units_map_there_and_back_and_through_a_file(units: Units) -> None:
    import json

    values = units.from_prior(torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(units.to_prior(values), torch.linspace(0, 1, 5, dtype=torch.float64))
    assert Units.of(json.loads(json.dumps(units.facts()))) == units


def test_weights_from_before_units_were_stored_are_relative() -> None:
    assert store.load("brain").units == RELATIVE
    with pytest.raises(BadInput, match="positive gain"):
        Units("HU", gain=0.0)
