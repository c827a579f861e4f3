"""CT images out: DICOM that other programs take and read as the same Hounsfield units in the same place; NIfTI too."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from conftest import program, shared
from placed_volumes import DIRECTIONS, assert_same_place, by_dcm2niix, canonical, placed

from medrecon import io
from medrecon.errors import BadInput, NotSupported
from medrecon.volume import Grid, Volume

FACTS = {
    "PatientName": "Doe^Jane",
    "PatientID": "77-1234",
    "StudyInstanceUID": "1.2.840.99.1",
    "FrameOfReferenceUID": "1.2.840.99.2",
    "BodyPartExamined": "CHEST",
    "PatientPosition": "FFS",
    "KVP": 120.0,
    "Manufacturer": "SIEMENS",
}


def ct(name: str = "oblique", **rest: Any) -> Volume:
    """A volume in HU from air to bone, without symmetry."""
    volume = placed(name, **rest)
    image = volume.image - volume.image.min()
    return replace(volume, image=image / image.max() * 4095 - 1024 + 0.3, units="HU", modality="CT")


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]


def test_hounsfield_units_are_stored_as_scanners_store_them(tmp_path: Path) -> None:
    volume = ct(facts=FACTS)
    io.write(volume, tmp_path / "series")
    for z, dataset in enumerate(headers(tmp_path / "series")):
        assert (dataset.SOPClassUID, dataset.Modality) == ("1.2.840.10008.5.1.4.1.1.2", "CT")
        assert (dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType) == (1, -1024, "HU")
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation) == (16, 16, 15, 1)
        stored = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns)
        assert np.abs(stored - 1024.0 - volume.numpy()[z]).max() <= 0.5
        assert dataset.KVP == 120


@pytest.mark.parametrize("name", DIRECTIONS)
def test_ct_comes_back_in_its_place_with_whole_hounsfield_units(tmp_path: Path, name: str) -> None:
    volume = ct(name)
    io.write(volume, tmp_path / "series")
    back = io.read(tmp_path / "series")
    assert isinstance(back, Volume)
    assert (back.units, back.modality, back.orientation) == ("HU", "CT", "known")
    ours, theirs = canonical(replace(volume, image=volume.image.round())), canonical(back)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
    assert_same_place(ours, theirs, values=1e-9, mm=1e-6)


def test_the_whole_range_of_signed_numbers_is_kept_and_more_is_clipped(tmp_path: Path) -> None:
    values = torch.tensor([-33792.0, -1024.0, -1000.4, -0.6, 0.5, 31743.0, 4e4, -4e4]).reshape(1, 2, 4)
    io.write(Volume(values, Grid.unplaced((1, 2, 4)), "HU", "CT"), tmp_path / "series")
    expected = [-33792.0, -1024.0, -1000.0, -1.0, 0.0, 31743.0, 31743.0, -33792.0]
    assert io.read(tmp_path / "series").image.flatten().tolist() == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("facts", [FACTS, {}, {**FACTS, "BodyPartExamined": "KNEE", "Laterality": "L"}])
@pytest.mark.parametrize("orientation", ["known", "unknown"])
@pytest.mark.parametrize("shape", [(3, 12, 16), (1, 5, 7)])
def test_validator_finds_no_error_and_no_warning(
    tmp_path: Path, facts: dict[str, Any], orientation: str, shape: tuple[int, int, int]
) -> None:
    validator = program("dciodvfy")
    volume = ct(shape=shape, facts=facts)
    io.write(replace(volume, grid=replace(volume.grid, orientation=orientation)), tmp_path / "series")
    for file in (tmp_path / "series").iterdir():
        said = subprocess.run([validator, str(file)], capture_output=True, text=True, check=False)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if "DICOMDIR" not in line]
        bad = [line for line in lines if line.startswith(("Error", "Abort")) or (line.startswith("Warning") and facts)]
        assert not bad, bad


def test_another_converter_sees_the_same_volume(tmp_path: Path) -> None:
    volume = ct("oblique", shape=(6, 12, 16))
    io.write(volume, tmp_path / "series")
    theirs = by_dcm2niix(tmp_path / "series", tmp_path / "theirs")
    assert_same_place(canonical(replace(volume, image=volume.image.round())), theirs, values=1e-6)
    assert float(np.asarray(theirs.dataobj).min()) == pytest.approx(float(volume.image.round().min()))


def test_nifti_holds_the_same_hounsfield_units(tmp_path: Path) -> None:
    volume = ct("oblique")
    io.write(volume, tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, volume.numpy())  # type: ignore[attr-defined]
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-4)  # type: ignore[attr-defined]
    assert image.header.get_xyzt_units()[0] == "mm"  # type: ignore[attr-defined]
    assert int(image.header["sform_code"]) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(("image", "error"), [(torch.full((1, 2, 2), torch.nan), BadInput), (torch.zeros(2, 1, 2, 2), NotSupported)])
def test_images_that_are_no_ct_series_are_refused(tmp_path: Path, image: torch.Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        io.write(Volume(image, Grid.unplaced((1, 2, 2)), "HU", "CT"), tmp_path / "series")
    assert not list(tmp_path.iterdir())


def test_an_unplaced_image_says_so_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = ct(shape=(2, 4, 4))
    with caplog.at_level(logging.WARNING, "medrecon"):
        io.write(replace(volume, grid=Grid.unplaced((2, 4, 4), (2.0, 0.7, 0.7))), tmp_path / "series")
    assert "orientation" in caplog.text
    assert headers(tmp_path / "series")[0].SeriesDescription.startswith("ORIENTATION UNKNOWN")


def test_real_scanner_images_survive_the_round_trip(tmp_path: Path) -> None:
    found = io.read(shared("data", "dicom", "headphantom_ct"))
    assert isinstance(found, Volume)
    io.write(found, tmp_path / "series")
    back = io.read(tmp_path / "series")
    assert isinstance(back, Volume)
    torch.testing.assert_close(back.image, found.image.round(), rtol=0, atol=0)
    np.testing.assert_allclose(back.affine, found.affine, atol=1e-6)
