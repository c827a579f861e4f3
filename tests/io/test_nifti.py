"""NIfTI: round trips that keep position, spacing and numbers; other programs agree; broken files are one error."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import program
from placed_volumes import DIRECTIONS, placed

from medrecon.errors import BadInput, MedreconError, NotSupported, OutputExists
from medrecon.io import nifti
from medrecon.volume import Grid, volume_of


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_volume_comes_back_in_its_place(tmp_path: Path, name: str, suffix: str) -> None:
    volume = placed(name)
    nifti.write(volume, tmp_path / f"a{suffix}")
    back = nifti.read(tmp_path / f"a{suffix}")
    assert torch.equal(back.image, volume.image)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    assert back.orientation == "known"


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 1, 8), (2, 5, 1)])
def test_thin_volumes_keep_their_shape(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = placed(shape=shape)
    nifti.write(volume, tmp_path / "a.nii")
    assert torch.equal(nifti.read(tmp_path / "a.nii").image, volume.image)


def test_nibabel_finds_the_marked_voxel_where_the_grid_says(tmp_path: Path) -> None:
    volume = placed()
    volume.image[3, 7, 11] = 5000.0
    nifti.write(volume, tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    voxel = np.unravel_index(np.asarray(image.dataobj).argmax(), image.shape)
    np.testing.assert_allclose((image.affine @ [*voxel, 1])[:3], (volume.affine @ [11, 7, 3, 1])[:3], atol=1e-4)
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    assert image.header.get_xyzt_units() == ("mm", "sec")


def test_complex_image_is_magnitude_unless_asked(tmp_path: Path) -> None:
    volume = placed()
    volume = replace(volume, image=torch.polar(volume.image, volume.image / 40))
    nifti.write(volume, tmp_path / "m.nii")
    nifti.write(volume, tmp_path / "c.nii", complex=True)
    torch.testing.assert_close(nifti.read(tmp_path / "m.nii").image, volume.image.abs())
    assert torch.equal(nifti.read(tmp_path / "c.nii").image, volume.image)


@pytest.mark.parametrize(("modality", "units"), [("CT", "HU"), ("MR", "arbitrary"), ("MR", "Hz")])
def test_our_files_say_what_the_numbers_are(tmp_path: Path, modality: str, units: str) -> None:
    nifti.write(placed(modality=modality, units=units), tmp_path / "a.nii")
    back = nifti.read(tmp_path / "a.nii")
    assert (back.modality, back.units) == (modality, units)
    other = nifti.read(tmp_path / "a.nii", modality="CT")
    assert (other.modality, other.units) == ("CT", "HU")


def test_leading_axis_becomes_the_fourth_of_nifti(tmp_path: Path) -> None:
    volume = placed()
    volume = replace(volume, image=torch.stack([volume.image, 2 * volume.image]))
    nifti.write(volume, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").shape == (16, 13, 5, 2)
    assert torch.equal(nifti.read(tmp_path / "a.nii").image, volume.image)


def test_unknown_orientation_is_said_and_stays_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = volume_of(torch.rand(3, 4, 5), (3.0, 1.0, 0.5))
    with caplog.at_level(logging.WARNING, "medrecon"):
        nifti.write(volume, tmp_path / "a.nii")
    assert "orientation" in caplog.text
    fields = nibabel.load(tmp_path / "a.nii").header
    assert bytes(fields["descrip"].tobytes()).startswith(b"ORIENTATION UNKNOWN")
    assert fields["qform_code"] == fields["sform_code"] == 2
    back = nifti.read(tmp_path / "a.nii")
    assert (back.orientation, back.spacing) == ("unknown", volume.spacing)


def test_tilted_stack_has_no_qform_and_keeps_its_shear(tmp_path: Path) -> None:
    volume = placed("axial")
    affine = volume.affine.copy()
    affine[:3, 2] = 0.0, 0.8, 2.9
    nifti.write(replace(volume, grid=Grid(volume.grid.shape, affine)), tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").header["qform_code"] == 0
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").affine, affine, atol=1e-5)


def test_long_axis_makes_nifti_2(tmp_path: Path) -> None:
    nifti.write(placed(shape=(1, 1, 40000)), tmp_path / "a.nii")
    assert isinstance(nibabel.load(tmp_path / "a.nii"), nibabel.Nifti2Image)
    assert nifti.read(tmp_path / "a.nii").grid.shape == (1, 1, 40000)


def test_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        nifti.write(placed(), tmp_path / folder / "x.nii.gz")
    assert (tmp_path / "a/x.nii.gz").read_bytes() == (tmp_path / "b/x.nii.gz").read_bytes()


def test_no_patient_in_header_or_sidecar(tmp_path: Path) -> None:
    facts = {"PatientName": "Doe^Jane", "PatientID": "77-1234", "EchoTime": 12.5, "MagneticFieldStrength": 3.0}
    provenance = {
        "inputs": [{"name": "doe_jane.h5", "sha256": "ab"}],
        "method": "dds",
        "settings": {"maps": "doe_maps.npy"},
        "source": "doe.h5",
    }
    files = nifti.write(placed(facts=facts, provenance=provenance), tmp_path / "a.nii", sidecar=True, anonymous=True)
    assert files == [tmp_path / "a.nii", tmp_path / "a.json"]
    content = b"".join(file.read_bytes() for file in files).lower()
    assert b"doe" not in content
    assert b"77-1234" not in content
    files = nifti.write(placed(facts=facts, provenance=provenance), tmp_path / "b.nii", sidecar=True)
    assert json.loads(files[1].read_text())["EchoTime"] == 0.0125
    assert b"77-1234" not in files[1].read_bytes()


@pytest.mark.parametrize(("sform", "qform", "place"), [(1, 1, "s"), (0, 1, "q"), (0, 0, None)])
def test_sform_comes_before_qform_before_unknown(tmp_path: Path, sform: int, qform: int, place: str | None) -> None:
    of_s, of_q = np.diag([2.0, 3, 4, 1]), np.diag([5.0, 6, 7, 1])
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.set_sform(of_s, sform)
    image.set_qform(of_q, qform)
    image.to_filename(tmp_path / "a.nii")
    volume = nifti.read(tmp_path / "a.nii")
    assert volume.orientation == ("known" if place else "unknown")
    if place:
        np.testing.assert_allclose(volume.affine, {"s": of_s, "q": of_q}[place])


def test_singular_sform_is_not_believed(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([5.0, 6, 7, 1]))
    image.set_qform(np.diag([5.0, 6, 7, 1]), 1)
    image.header["sform_code"] = 1
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), None, image.header).to_filename(tmp_path / "a.nii")
    assert nifti.read(tmp_path / "a.nii").spacing == (7.0, 6.0, 5.0)


def test_stored_integers_are_scaled_by_slope_and_intercept(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").get_fdata().T
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").numpy(), expected, rtol=1e-6)


def test_lengths_in_metres_become_mm(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([1e-3, 2e-3, 3e-3, 1]))
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "a.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").spacing, (3, 2, 1), rtol=1e-6)


def test_colour_image_is_refused_by_name(tmp_path: Path) -> None:
    colour = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(colour, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(NotSupported, match="colour"):
        nifti.read(tmp_path / "a.nii")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_nothing_is_left_behind(tmp_path: Path, bad: float) -> None:
    volume = placed()
    volume.image[1, 2, 3] = bad
    with pytest.raises(BadInput, match=r"\(1, 2, 3\)"):
        nifti.write(volume, tmp_path / "a.nii")
    assert not list(tmp_path.iterdir())


def test_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("mine")
    with pytest.raises(OutputExists):
        nifti.write(placed(), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_text() == "mine"
    nifti.write(placed(), tmp_path / "a.nii", force=True)
    assert nifti.read(tmp_path / "a.nii").grid.shape == placed().grid.shape


def test_header_alone_knows_shape_and_place(tmp_path: Path) -> None:
    nifti.write(placed(), tmp_path / "a.nii.gz")
    known = nifti.header(tmp_path / "a.nii.gz")
    assert known.image.is_meta
    assert tuple(known.image.shape) == (5, 13, 16)
    np.testing.assert_allclose(known.affine, placed().affine, atol=1e-5)


def _huge(file: Path) -> None:
    image = nibabel.Nifti2Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    image.to_filename(file)
    content = bytearray(file.read_bytes())
    content[16 + 8 : 16 + 32] = np.array([1 << 40] * 3, "<i8").tobytes()
    file.write_bytes(bytes(content))


def _truncated(file: Path) -> None:
    nifti.write(placed(), file)
    file.write_bytes(file.read_bytes()[:-1000])


def _truncated_gzip(file: Path) -> None:
    nifti.write(placed(), file.with_name("b.nii.gz"))
    file.write_bytes(file.with_name("b.nii.gz").read_bytes()[:-500])


def _bomb(file: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30000, 30000, 30000))
    file.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(1 << 20)))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda file: file.write_bytes(b""), "a.nii"),
        (lambda file: file.write_bytes(b"not an image" * 100), "a.nii"),
        (lambda file: file.write_bytes(b"\x1f\x8b" + b"junk" * 200), "a.nii.gz"),
        (_huge, "a.nii"),
        (_truncated, "a.nii"),
        (_truncated_gzip, "a.nii.gz"),
        (_bomb, "a.nii.gz"),
    ],
)
def test_broken_file_is_one_error_with_its_name(tmp_path: Path, make: object, name: str) -> None:
    make(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(MedreconError, match=name):
        nifti.read(tmp_path / name)


@pytest.mark.peer
@pytest.mark.parametrize("name", DIRECTIONS)
def test_other_programs_read_what_we_write(tmp_path: Path, name: str) -> None:
    nifti.write(placed(name), tmp_path / "a.nii.gz")
    checked = subprocess.run(
        [program("nifti_tool"), "-check_hdr", "-check_nim", "-infiles", tmp_path / "a.nii.gz"], capture_output=True, text=True
    )
    assert "GOOD" in checked.stdout + checked.stderr
    asked = [program("mrinfo"), "-quiet", "-transform", tmp_path / "a.nii.gz"]
    transform = np.loadtxt(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines())
    # mrinfo brings the axes nearest to RAS: its columns are ours, reordered and turned, so the directions span the same lines.
    ours = placed(name).affine[:3, :3] / np.linalg.norm(placed(name).affine[:3, :3], axis=0)
    overlap = np.abs(ours.T @ transform[:3, :3])
    np.testing.assert_allclose(overlap.max(axis=1), 1, atol=1e-4)
