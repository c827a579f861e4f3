"""DICOM series out: valid for other programs, in the right place, the same numbers, no patient where none is wanted."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from conftest import program
from placed_volumes import DIRECTIONS, assert_same_place, by_dcm2niix, canonical, placed

from medrecon.errors import BadInput, NotSupported, OutputExists
from medrecon.io import dicom_read, dicom_write
from medrecon.volume import Volume, volume_of

FACTS = {
    "PatientName": "Doe^Jane",
    "PatientID": "77-1234",
    "PatientBirthDate": "1970-02-03",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.840.99.1",
    "FrameOfReferenceUID": "1.2.840.99.2",
    "StudyDate": "2020-01-02",
    "StudyTime": "12:03:04.5",
    "BodyPartExamined": "BRAIN",
    "RepetitionTime": 500.0,
    "EchoTime": 12.5,
    "MagneticFieldStrength": 2.89,
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Prisma",
}


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]


@pytest.mark.parametrize("name", DIRECTIONS)
def test_series_comes_back_in_its_place_with_its_numbers(tmp_path: Path, name: str) -> None:
    volume = placed(name)
    files = dicom_write.write(volume, tmp_path / "series")
    assert [file.name for file in files] == [f"{k:05d}.dcm" for k in range(1, 6)]
    back = dicom_read.read(tmp_path / "series")
    step = float(volume.image.max()) / 65535
    ours, theirs = canonical(volume), canonical(back)
    assert_same_place(ours, theirs, values=1e-4, mm=1e-6)
    assert np.abs(np.asarray(ours.dataobj) - np.asarray(theirs.dataobj)).max() <= 0.51 * step
    assert (back.orientation, back.units, back.modality) == ("known", "arbitrary", "MR")


@pytest.mark.parametrize("shape", [(1, 7, 9), (4, 9, 7), (2, 1, 3)])
def test_odd_sizes_and_single_slices_keep_spacing(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = placed("axial", shape=shape, spacing=(2.5, 0.3, 1.7))
    dicom_write.write(volume, tmp_path / "series")
    back = dicom_read.read(tmp_path / "series")
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)
    assert back.grid.shape == shape


def test_worked_example_of_the_geometry(tmp_path: Path) -> None:
    """20 degrees about y, spacing .75 .75 3, matrix 320 x 256 x 24, centre voxel at LPS (3, -12.5, 40): numbers computed by hand."""
    affine = np.array([[-0.704769, 0, -1.02606, 122.07584], [0, -0.75, 0, 108.5], [-0.256515, 0, 2.819078, 47.213483], [0, 0, 0, 1]])
    volume = placed(shape=(24, 6, 8))
    volume = replace(volume, grid=replace(volume.grid, affine=affine))
    dicom_write.write(volume, tmp_path / "series")
    first, *_, last = headers(tmp_path / "series")
    np.testing.assert_allclose(first.ImageOrientationPatient, [0.9396926, 0, -0.3420201, 0, 1, 0], atol=2e-6)
    np.testing.assert_allclose(first.ImagePositionPatient, [-122.0758397, -108.5, 47.2134829], atol=2e-5)
    np.testing.assert_allclose(last.ImagePositionPatient, [-98.4764498, -108.5, 112.0522737], atol=1e-4)
    np.testing.assert_allclose(first.PixelSpacing, [0.75, 0.75], atol=2e-6)


def test_pixel_spacing_says_rows_first(tmp_path: Path) -> None:
    dicom_write.write(placed("axial", spacing=(3.0, 1.1, 0.9)), tmp_path / "series")
    np.testing.assert_allclose(headers(tmp_path / "series")[0].PixelSpacing, [1.1, 0.9], atol=1e-12)


def test_complex_image_is_written_as_magnitude(tmp_path: Path) -> None:
    volume = placed("axial")
    dicom_write.write(replace(volume, image=torch.polar(volume.image, volume.image)), tmp_path / "series")
    back = dicom_read.read(tmp_path / "series")
    torch.testing.assert_close(back.image, volume.image, atol=2e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e7])
def test_quantisation_error_is_at_most_half_a_step_of_the_slope_as_written(tmp_path: Path, scale: float) -> None:
    volume = placed("axial")
    volume = replace(volume, image=(volume.image - 50) * scale)
    dicom_write.write(volume, tmp_path / "series")
    mapping = headers(tmp_path / "series")[0].RealWorldValueMappingSequence[0]
    error = (dicom_read.read(tmp_path / "series").image.double() - volume.image.double()).abs().max()
    assert error <= mapping.RealWorldValueSlope / 2 * (1 + 1e-6) + 1e-7 * scale * 200


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_constant_image_keeps_its_value(tmp_path: Path, value: float) -> None:
    dicom_write.write(replace(placed("axial"), image=torch.full((5, 13, 16), value)), tmp_path / "series")
    torch.testing.assert_close(dicom_read.read(tmp_path / "series").image, torch.full((5, 13, 16), value))


def test_ct_is_stored_in_hounsfield_units(tmp_path: Path) -> None:
    volume = replace(placed("axial", modality="CT", units="HU"), image=placed("axial").image * 20 - 1000)
    dicom_write.write(volume, tmp_path / "series")
    assert headers(tmp_path / "series")[0].RescaleType == "HU"
    back = dicom_read.read(tmp_path / "series")
    torch.testing.assert_close(back.image, volume.image.round())
    assert (back.units, back.modality) == ("HU", "CT")


def test_times_come_back_as_a_leading_axis(tmp_path: Path) -> None:
    volume = placed("axial")
    volume = replace(volume, image=torch.stack([volume.image, 2 * volume.image, volume.image + 1]))
    dicom_write.write(volume, tmp_path / "series")
    torch.testing.assert_close(dicom_read.read(tmp_path / "series").image, volume.image, atol=5e-3, rtol=0)


def test_facts_of_the_scan_are_in_the_header_in_dicom_form(tmp_path: Path) -> None:
    dicom_write.write(placed(facts=FACTS), tmp_path / "series")
    first = headers(tmp_path / "series")[0]
    assert (first.PatientName, first.PatientID, first.PatientBirthDate, first.StudyTime) == ("Doe^Jane", "77-1234", "19700203", "120304.5")
    assert (first.StudyInstanceUID, first.FrameOfReferenceUID, first.BodyPartExamined) == ("1.2.840.99.1", "1.2.840.99.2", "BRAIN")
    assert (float(first.RepetitionTime), float(first.EchoTime)) == (500, 12.5)
    assert first.ImageType[0] == "DERIVED"
    assert first.Manufacturer == "medrecon"
    assert first.ContributingEquipmentSequence[1].Manufacturer == "SIEMENS"
    back = dicom_read.read(tmp_path / "series")
    assert back.facts["RepetitionTime"] == 500.0
    assert back.facts["PatientName"] == "Doe^Jane"


def test_fact_that_does_not_fit_is_left_out_and_named_without_its_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medrecon"):
        dicom_write.write(
            placed(facts={"PatientBirthDate": "yesterday", "StudyID": "x" * 40, "EchoTime": [2.0, 4.0], "Trajectory": "spiral"}),
            tmp_path / "series",
        )
    assert "EchoTime, PatientBirthDate, StudyID" in caplog.text
    assert "yesterday" not in caplog.text


def test_anonymous_series_names_nobody(tmp_path: Path) -> None:
    volume = placed(facts=FACTS, provenance={"inputs": [{"name": "doe_jane.h5", "sha256": "ab"}], "method": "dds"})
    files = dicom_write.write(volume, tmp_path / "series", anonymous=True)
    content = b"".join(file.read_bytes() for file in files).lower()
    for word in (b"doe", b"77-1234", b"1970", b"1.2.840.99"):
        assert word not in content
    assert headers(tmp_path / "series")[0].PatientIdentityRemoved == "YES"


def test_series_joins_the_study_of_a_reference(tmp_path: Path) -> None:
    dicom_write.write(placed(facts=FACTS), tmp_path / "reference")
    dicom_write.write(placed(), tmp_path / "series", like=tmp_path / "reference")
    first = headers(tmp_path / "series")[0]
    assert (first.StudyInstanceUID, first.PatientID, first.FrameOfReferenceUID) == ("1.2.840.99.1", "77-1234", "1.2.840.99.2")
    assert first.SeriesInstanceUID != headers(tmp_path / "reference")[0].SeriesInstanceUID
    with pytest.raises(BadInput, match="exclude"):
        dicom_write.write(placed(), tmp_path / "other", like=tmp_path / "reference", anonymous=True)


def test_converted_series_names_the_images_it_was_made_from(tmp_path: Path) -> None:
    dicom_write.write(placed("axial"), tmp_path / "one")
    dicom_write.write(dicom_read.read(tmp_path / "one"), tmp_path / "two")
    for old, new in zip(headers(tmp_path / "one"), headers(tmp_path / "two"), strict=True):
        assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID != new.SOPInstanceUID


def test_uids_depend_on_the_result_and_not_on_the_place_it_is_written_to(tmp_path: Path) -> None:
    provenance = {"inputs": [{"name": "scan.h5", "sha256": "ab"}], "method": "dds", "seed": 0, "seconds": 1.5}
    later = {**provenance, "inputs": [{"name": "renamed.h5", "sha256": "ab"}], "seconds": 2.5}
    dicom_write.write(placed(provenance=provenance), tmp_path / "a" / "one")
    dicom_write.write(placed(provenance=later), tmp_path / "two")
    for one in (tmp_path / "a/one").iterdir():
        assert (tmp_path / "two" / one.name).read_bytes() == one.read_bytes()
    dicom_write.write(placed(provenance={**provenance, "seed": 1}), tmp_path / "three")
    names = [{header.SOPInstanceUID for header in headers(tmp_path / folder)} for folder in ("two", "three")]
    assert not names[0] & names[1]
    assert all(len(name) <= 44 and name.startswith("2.25.") for name in names[0] | names[1])
    # One scan, two results: two series of one study.
    assert headers(tmp_path / "two")[0].StudyInstanceUID == headers(tmp_path / "three")[0].StudyInstanceUID
    assert headers(tmp_path / "two")[0].SeriesInstanceUID != headers(tmp_path / "three")[0].SeriesInstanceUID


def test_map_of_the_deviation_is_not_taken_for_the_image(tmp_path: Path) -> None:
    provenance = {"inputs": [{"name": "scan.h5", "sha256": "ab"}], "method": "dds"}
    dicom_write.write(placed(provenance=provenance), tmp_path / "image")
    dicom_write.write(placed(provenance={**provenance, "content": "standard deviation of |image|"}), tmp_path / "std")
    image, std = headers(tmp_path / "image")[0], headers(tmp_path / "std")[0]
    assert "standard deviation" in std.SeriesDescription
    assert "standard deviation" in std.DerivationDescription
    assert std.SeriesNumber != image.SeriesNumber
    assert std.SeriesInstanceUID != image.SeriesInstanceUID
    assert std.StudyInstanceUID == image.StudyInstanceUID


def test_unknown_orientation_is_said_and_stays_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = volume_of(placed().image, (3.0, 1.1, 0.9), FrameOfReferenceUID="1.2.840.99.2", PatientPosition="HFS")
    with caplog.at_level(logging.WARNING, "medrecon"):
        dicom_write.write(volume, tmp_path / "series")
    assert "orientation" in caplog.text
    first = headers(tmp_path / "series")[0]
    assert first.SeriesDescription.startswith("ORIENTATION UNKNOWN")
    assert first.FrameOfReferenceUID != "1.2.840.99.2"
    assert not first.PatientPosition
    back = dicom_read.read(tmp_path / "series")
    assert back.orientation == "unknown"
    np.testing.assert_allclose(back.spacing, volume.spacing, atol=1e-9)
    torch.testing.assert_close(back.image, volume.image, atol=2e-3, rtol=0)


def test_target_is_refused_without_force_and_replaced_whole_with_it(tmp_path: Path) -> None:
    dicom_write.write(placed(), tmp_path / "series")
    with pytest.raises(OutputExists):
        dicom_write.write(placed(), tmp_path / "series")
    dicom_write.write(placed(shape=(2, 13, 16)), tmp_path / "series", force=True)
    assert len(list((tmp_path / "series").iterdir())) == 2


def test_force_never_replaces_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"thesis\.txt"):
        dicom_write.write(placed(), tmp_path / "home", force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, written = pydicom.Dataset.save_as, []

    def full_disk(dataset: pydicom.Dataset, file: Path, **options: object) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(file)
        whole(dataset, file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pydicom.Dataset, "save_as", full_disk)
    with pytest.raises(BadInput, match="disk is full"):
        dicom_write.write(placed(), tmp_path / "series")
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


def test_nan_and_foreign_modalities_are_refused(tmp_path: Path) -> None:
    volume = placed()
    with pytest.raises(NotSupported, match="US"):
        dicom_write.write(replace(volume, modality="US"), tmp_path / "series")
    with pytest.raises(NotSupported, match=r"\(2, 2, 5, 13, 16\)"):
        dicom_write.write(replace(volume, image=volume.image.expand(2, 2, 5, 13, 16)), tmp_path / "series")
    volume.image[0, 0, 0] = torch.nan
    with pytest.raises(BadInput, match="NaN"):
        dicom_write.write(volume, tmp_path / "series")
    assert not list(tmp_path.iterdir())


def _valid(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        report = subprocess.run([program("dciodvfy"), file], capture_output=True, text=True)
        lines = (report.stdout + report.stderr).splitlines()
        assert not [line for line in lines if line.startswith(("Error", "Abort"))]


@pytest.mark.peer
@pytest.mark.parametrize("facts", [{}, FACTS, {"BodyPartExamined": "KNEE"}, {"BodyPartExamined": "KNEE", "Laterality": "L"}])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_dciodvfy_finds_no_error(tmp_path: Path, facts: dict[str, object], modality: str) -> None:
    dicom_write.write(placed(facts=facts, modality=modality, shape=(2, 7, 9)), tmp_path / "series")
    _valid(tmp_path / "series")


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_other_forms(tmp_path: Path) -> None:
    dicom_write.write(volume_of(torch.rand(2, 7, 9)), tmp_path / "unknown")
    dicom_write.write(placed(facts=FACTS, shape=(2, 7, 9)), tmp_path / "anonymous", anonymous=True)
    dicom_write.write(dicom_read.read(tmp_path / "anonymous"), tmp_path / "converted")
    volume = placed(shape=(1, 7, 9))
    dicom_write.write(Volume(torch.stack([volume.image] * 2), volume.grid), tmp_path / "times")
    for folder in ("unknown", "anonymous", "converted", "times"):
        _valid(tmp_path / folder)


@pytest.mark.peer
@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_dcm2niix_puts_every_voxel_where_we_do(tmp_path: Path, name: str, modality: str) -> None:
    volume = placed(name, modality=modality)
    dicom_write.write(volume, tmp_path / "series")
    tolerance = 1e-4 if modality == "MR" else 0.6 / float(volume.image.max())
    assert_same_place(canonical(volume), by_dcm2niix(tmp_path / "series", tmp_path / "theirs"), values=tolerance)
