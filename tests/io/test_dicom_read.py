"""DICOM in: grouped, sorted, rescaled and placed by what the headers say, whatever the files are called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from conftest import program, shared
from numpy.typing import NDArray
from placed_volumes import assert_same_place, by_dcm2niix, canonical, placed
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from medrecon.errors import BadInput, NotSupported
from medrecon.io import dicom_read, dicom_write, nifti
from medrecon.io.patient_frame import planes_of
from medrecon.volume import Volume

Change = Callable[[Dataset, int], None]


def series(folder: Path, change: Change | None = None, volume: Volume | None = None) -> Volume:
    """A written series whose headers were changed one by one: change(data set, index)."""
    volume = volume or placed("axial", spacing=(3.0, 1.1, 0.9))
    for index, file in enumerate(dicom_write.write(volume, folder)):
        dataset = pydicom.dcmread(file)
        if change is not None:
            change(dataset, index)
        dataset.save_as(file)
    return volume


def stored(folder: Path) -> NDArray[np.int64]:
    return np.array([pydicom.dcmread(file).pixel_array for file in sorted(folder.glob("*.dcm"))]).astype(np.int64)


def without_mapping(dataset: Dataset) -> None:
    del dataset.RealWorldValueMappingSequence


def test_order_comes_from_positions_not_names_or_numbers(tmp_path: Path) -> None:
    def shuffled(dataset: Dataset, index: int) -> None:
        dataset.InstanceNumber = (3 * index) % 5

    volume = series(tmp_path / "s", shuffled)
    for index, file in enumerate(sorted((tmp_path / "s").iterdir())):
        file.rename(file.with_name(f"{(index * 2) % 5}-{index}"))
    torch.testing.assert_close(dicom_read.read(tmp_path / "s").image, volume.image, atol=2e-3, rtol=0)


def test_other_files_and_links_out_of_the_folder_are_passed_over(tmp_path: Path) -> None:
    series(tmp_path / "s")
    series(tmp_path / "other", volume=placed("coronal"))
    (tmp_path / "s" / "notes.txt").write_text("no image")
    (tmp_path / "s" / "link").symlink_to(tmp_path / "other" / "00001.dcm")
    assert dicom_read.read(tmp_path / "s").grid.shape == (5, 13, 16)


def test_several_series_are_listed_and_one_is_chosen_by_number_or_uid(tmp_path: Path) -> None:
    series(tmp_path / "s" / "a")
    other = series(tmp_path / "s" / "b", volume=placed("coronal", shape=(4, 9, 8)))
    with pytest.raises(BadInput, match=r"several image series(.|\n)*1: (.|\n)*2: ") as error:
        dicom_read.read(tmp_path / "s")
    uid = pydicom.dcmread(tmp_path / "s/b/00001.dcm").SeriesInstanceUID
    number = next(line.split(":")[0].strip() for line in str(error.value).splitlines() if uid in line)
    for choice in (number, int(number), uid):
        assert dicom_read.read(tmp_path / "s", series=choice).grid.shape == other.grid.shape
    for choice in ("3", 0, "1.2.3"):
        with pytest.raises(BadInput, match="none of these"):
            dicom_read.read(tmp_path / "s", series=choice)


@pytest.mark.parametrize(
    "apart",
    [
        lambda dataset, index: setattr(dataset, "EchoTime", 10 + 10 * (index % 2)),
        lambda dataset, index: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "MP"[index % 2]]),
        lambda dataset, index: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", ["AXIAL", "LOCALIZER"][index % 2]]),
        lambda dataset, index: setattr(dataset, "PixelSpacing", [1, 1 + index % 2]),
    ],
)
def test_echoes_components_localisers_and_spacings_never_share_a_volume(tmp_path: Path, apart: Change) -> None:
    series(tmp_path / "s", apart)
    with pytest.raises(BadInput, match="several image series"):
        dicom_read.read(tmp_path / "s")


def test_missing_slice_is_named_and_filled_only_when_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = series(tmp_path / "s")
    (tmp_path / "s" / "00003.dcm").unlink()
    with pytest.raises(BadInput, match=r"slice 3 of 5 is missing between 00002\.dcm .* and 00004\.dcm .*; spacing is 3 mm"):
        dicom_read.read(tmp_path / "s")
    with caplog.at_level(logging.WARNING, "medrecon"):
        back = dicom_read.read(tmp_path / "s", allow_gaps=True)
    assert "slice 3 of 5" in caplog.text
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)
    torch.testing.assert_close(back.image[[0, 1, 3, 4]], volume.image[[0, 1, 3, 4]], atol=2e-3, rtol=0)
    assert (back.image[2] == back.image.min()).all()


def test_rounded_positions_are_no_gap_and_uneven_ones_are_refused(tmp_path: Path) -> None:
    def moved(by: float) -> Change:
        def change(dataset: Dataset, index: int) -> None:
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, y, f"{float(z) + by * (index == 2):.6f}"]

        return change

    series(tmp_path / "rounded", moved(0.004))
    assert dicom_read.read(tmp_path / "rounded").spacing[0] == pytest.approx(3.0)
    series(tmp_path / "uneven", moved(0.5))
    with pytest.raises(BadInput, match="unevenly spaced: 3.5 mm"):
        dicom_read.read(tmp_path / "uneven")


def test_slices_beside_the_line_are_refused(tmp_path: Path) -> None:
    def aside(dataset: Dataset, index: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [float(x) + (index == 2), y, z]

    series(tmp_path / "s", aside)
    with pytest.raises(BadInput, match=r"00003\.dcm lies 1 mm beside"):
        dicom_read.read(tmp_path / "s")


def test_doubled_slice_names_both_files(tmp_path: Path) -> None:
    series(tmp_path / "s")
    (tmp_path / "s" / "copy.dcm").write_bytes((tmp_path / "s" / "00002.dcm").read_bytes())
    with pytest.raises(BadInput, match=r"00002\.dcm and copy\.dcm lie at the same place"):
        dicom_read.read(tmp_path / "s")


def test_tilted_gantry_stays_a_shear(tmp_path: Path) -> None:
    def tilted(dataset: Dataset, index: int) -> None:
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, round(y + 0.7 * index, 6), z]

    volume = series(tmp_path / "s", tilted)
    back = dicom_read.read(tmp_path / "s")
    np.testing.assert_allclose(back.affine[:3, 2], volume.affine[:3, 2] + [0, -0.7, 0], atol=1e-6)
    np.testing.assert_allclose(back.affine[:3, :2], volume.affine[:3, :2], atol=1e-6)


def test_spacing_of_a_stack_comes_from_positions_not_from_thickness(tmp_path: Path) -> None:
    series(tmp_path / "s", lambda dataset, _: setattr(dataset, "SliceThickness", 1.0))
    assert dicom_read.read(tmp_path / "s").spacing[0] == pytest.approx(3.0)
    single = dicom_read.read(tmp_path / "s" / "00002.dcm")
    assert single.spacing[0] == pytest.approx(3.0)
    np.testing.assert_allclose((single.affine @ [0, 0, 0, 1])[:3], (placed("axial").affine @ [0, 0, 1, 1])[:3], atol=1e-6)


def test_rescale_is_applied_slice_by_slice(tmp_path: Path) -> None:
    def scaled(dataset: Dataset, index: int) -> None:
        without_mapping(dataset)
        dataset.RescaleSlope, dataset.RescaleIntercept = index + 1, -10 * index

    series(tmp_path / "s", scaled)
    index = np.arange(5)[:, None, None]
    np.testing.assert_allclose(dicom_read.read(tmp_path / "s").numpy(), stored(tmp_path / "s") * (index + 1.0) - 10 * index, rtol=1e-6)


def test_unused_bits_are_cut_and_the_sign_is_extended(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2047], [-1, -2048, 5]])

    def twelve_bits(dataset: Dataset, index: int) -> None:
        without_mapping(dataset)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
        dataset.PixelData = ((numbers & 0xFFF) | 0xA000).astype("<u2").tobytes()

    series(tmp_path / "s", twelve_bits, placed("axial", shape=(1, 2, 3)))
    np.testing.assert_array_equal(dicom_read.read(tmp_path / "s").numpy()[0], numbers)


def test_padding_takes_the_lowest_number_inside(tmp_path: Path) -> None:
    def padded(dataset: Dataset, index: int) -> None:
        dataset.PixelPaddingValue = -2000
        dataset["PixelPaddingValue"].VR = "SS"
        dataset.RescaleIntercept = -24
        dataset.PixelData = np.array([[-2000, -900, 40], [-1000, -2000, 60]], "<i2").tobytes()

    series(tmp_path / "s", padded, placed("axial", shape=(1, 2, 3), modality="CT"))
    np.testing.assert_array_equal(dicom_read.read(tmp_path / "s").numpy()[0], [[-1024, -924, 16], [-1024, -1024, 36]])


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    def inverted(dataset: Dataset, index: int) -> None:
        without_mapping(dataset)
        dataset.PhotometricInterpretation, dataset.BitsStored, dataset.HighBit = "MONOCHROME1", 10, 9
        dataset.PixelData = np.array([[0, 1023, 3]], "<u2").tobytes()

    series(tmp_path / "s", inverted, placed("axial", shape=(1, 1, 3)))
    np.testing.assert_array_equal(dicom_read.read(tmp_path / "s").numpy()[0], [[1023, 0, 1020]])


def test_rle_compressed_series_reads_like_the_plain_one(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", lambda dataset, _: dataset.compress(RLELossless, generate_instance_uid=False))
    assert pydicom.dcmread(tmp_path / "s/00001.dcm").file_meta.TransferSyntaxUID == RLELossless
    torch.testing.assert_close(dicom_read.read(tmp_path / "s").image, volume.image, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dataset, _: setattr(dataset, "PhotometricInterpretation", "PALETTE COLOR"), "colour"),
        (lambda dataset, _: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
        (lambda dataset, _: setattr(dataset, "ModalityLUTSequence", [Dataset()]), "lookup table"),
        (lambda dataset, _: delattr(dataset, "ImagePositionPatient"), "no position"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, change: Change, words: str) -> None:
    series(tmp_path / "s", change)
    with pytest.raises(NotSupported, match=words):
        dicom_read.read(tmp_path / "s")


def test_image_without_position_has_an_unknown_orientation(tmp_path: Path) -> None:
    def unplaced(dataset: Dataset, index: int) -> None:
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient

    series(tmp_path / "s", unplaced, placed("axial", shape=(1, 5, 6)))
    back = dicom_read.read(tmp_path / "s")
    assert back.orientation == "unknown"
    np.testing.assert_allclose(back.spacing, (3.0, 1.1, 0.9))


def enhanced(file: Path, volume: Volume, times: int = 1, one_slope: bool = False) -> NDArray[np.uint16]:
    """An enhanced MR file whose frames are not in spatial order and (unless `one_slope`) differ in it; numbers (time, z, y, x)."""
    (single,) = dicom_write.write(
        replace(volume, image=volume.image[:1], grid=volume.grid.crop((0, 0, 0), (1, *volume.grid.shape[1:]))), file
    )
    dataset = pydicom.dcmread(single)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RealWorldValueMappingSequence", "SliceThickness"):
        delattr(dataset, keyword)
    del dataset.SpacingBetweenSlices
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    planes, depth = planes_of(volume.grid), volume.grid.shape[0]
    numbers = np.arange(times * volume.image.numel(), dtype=np.uint16).reshape(times, *volume.grid.shape)
    measures, orientation, shared_groups = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(planes.spacing), 3
    orientation.ImageOrientationPatient = [*planes.row.round(12), *planes.column.round(12)]
    shared_groups.PixelMeasuresSequence, shared_groups.PlaneOrientationSequence = [measures], [orientation]
    order = [(time, z) for time in range(times) for z in np.roll(np.arange(depth), 2)]
    groups = []
    for time, z in order:
        content, position, values, group = Dataset(), Dataset(), Dataset(), Dataset()
        content.TemporalPositionIndex, content.InStackPositionNumber, content.StackID = time + 1, int(z) + 1, "1"
        position.ImagePositionPatient = list(planes.positions[z].round(9))
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2 if one_slope else int(z) + 1, 0, "US"
        group.FrameContentSequence, group.PlanePositionSequence, group.PixelValueTransformationSequence = [content], [position], [values]
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared_groups], groups
    dataset.NumberOfFrames = len(order)
    dataset.PixelData = np.array([numbers[time, z] for time, z in order]).astype("<u2").tobytes()
    dataset.save_as(single)
    return numbers


@pytest.mark.parametrize("times", [1, 3])
def test_enhanced_frames_are_sorted_by_position_and_scaled_one_by_one(tmp_path: Path, times: int) -> None:
    volume = placed("oblique")
    numbers = enhanced(tmp_path / "s", volume, times)
    back = dicom_read.read(tmp_path / "s")
    slopes = np.arange(1, 6)[:, None, None]
    np.testing.assert_array_equal(back.numpy(), (numbers * slopes).squeeze())
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)


def test_header_alone_knows_shape_place_and_facts(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", volume=placed("axial", facts={"EchoTime": 12.5}))
    known = dicom_read.header(tmp_path / "s")
    assert known.image.is_meta
    assert known.grid.shape == volume.grid.shape
    assert known.facts["EchoTime"] == 12.5
    np.testing.assert_allclose(known.affine, volume.affine, atol=1e-6)


def test_digest_of_a_series_does_not_depend_on_names(tmp_path: Path) -> None:
    series(tmp_path / "s")
    first = dicom_read.read(tmp_path / "s").provenance["inputs"][0]["sha256"]
    for index, file in enumerate(sorted((tmp_path / "s").iterdir())):
        file.rename(file.with_name(f"{9 - index}"))
    (tmp_path / "s").rename(tmp_path / "t")
    assert dicom_read.read(tmp_path / "t").provenance["inputs"][0]["sha256"] == first


@pytest.mark.peer
def test_dcm2niix_agrees_on_enhanced_images(tmp_path: Path) -> None:
    """One slope for all frames, since dcm2niix does not look at the others."""
    enhanced(tmp_path / "s", placed("oblique"), one_slope=True)
    ours, theirs = canonical(dicom_read.read(tmp_path / "s")), by_dcm2niix(tmp_path / "s", tmp_path / "theirs")
    assert_same_place(ours, theirs, values=1e-6)
    np.testing.assert_allclose(np.asarray(ours.dataobj), np.asarray(theirs.dataobj), rtol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["fruit_mr", "headphantom_ct"])
def test_real_series_is_where_dcm2niix_puts_it_before_and_after_conversion(tmp_path: Path, name: str) -> None:
    folder = shared("data", "dicom", name)
    program("dcm2niix")
    volume = dicom_read.read(folder)
    theirs = by_dcm2niix(folder, tmp_path / "theirs")
    assert_same_place(canonical(volume), theirs, values=1e-6)
    nifti.write(volume, tmp_path / "a.nii")
    assert_same_place(canonical(nifti.read(tmp_path / "a.nii")), theirs, values=1e-6)
    dicom_write.write(volume, tmp_path / "again")
    assert_same_place(canonical(volume), by_dcm2niix(tmp_path / "again", tmp_path / "theirs_again"), values=1e-4)
    assert pydicom.dcmread(tmp_path / "again" / "00001.dcm").file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
