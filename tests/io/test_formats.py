"""The one door: formats found by content or name, options checked, descriptions ready for JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from placed_volumes import assert_same_place, canonical, placed

from medrecon import io
from medrecon.errors import BadInput, OutputExists
from medrecon.volume import Volume, volume_of


@pytest.mark.parametrize("form", io.READERS, ids=lambda form: form.name)
def test_reader_has_what_a_reader_needs(form: io.Format, tmp_path: Path) -> None:
    assert callable(form.module.read)
    assert not form.module.recognises(tmp_path / "absent")
    assert hasattr(form.module, "header") or not form.has_header


@pytest.mark.parametrize("form", io.WRITERS, ids=lambda form: form.name)
def test_writer_has_what_a_writer_needs(form: io.Format) -> None:
    assert callable(form.module.write)
    assert callable(form.module.writes)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.npz", "series", "series.of.mine"])
def test_volume_written_under_any_name_is_read_again(tmp_path: Path, name: str) -> None:
    volume = placed("axial")
    files = io.write(volume, tmp_path / name)
    assert all(file.is_file() for file in files)
    back = io.read(tmp_path / name)
    assert isinstance(back, Volume)
    torch.testing.assert_close(back.image, volume.image, atol=2e-3, rtol=0)


def test_unknown_file_lists_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("a film")
    with pytest.raises(BadInput, match=r"a\.mp4.*NIfTI.*DICOM.*fastMRI.*BART"):
        io.read(tmp_path / "a.mp4")
    with pytest.raises(BadInput, match="no such file"):
        io.read(tmp_path / "b.mp4")


def test_misspelt_option_offers_the_nearest(tmp_path: Path) -> None:
    io.write(placed(), tmp_path / "series")
    with pytest.raises(BadInput, match="did you mean 'series'"):
        io.read(tmp_path / "series", serie=1)
    with pytest.raises(BadInput, match="did you mean 'complex'"):
        io.write(placed(), tmp_path / "a.nii", complx=True)
    assert not (tmp_path / "a.nii").exists()


@pytest.mark.parametrize("name", ["a.nii.gz", "series"])
def test_description_is_json_and_names_no_patient_unless_asked(tmp_path: Path, name: str) -> None:
    io.write(placed("axial", facts={"PatientName": "Doe^Jane", "EchoTime": 12.5}), tmp_path / name)
    found = io.describe(tmp_path / name)
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "volume"
    assert (found["shape"], found["axes"], found["spacing_mm"], found["orientation"]) == (
        [5, 13, 16],
        ["z", "y", "x"],
        [3.0, 1.1, 0.9],
        "LPS",
    )
    assert "Doe" not in str(found)
    if name == "series":
        assert found["facts"]["EchoTime"] == 12.5
        assert io.describe(tmp_path / name, identity=True)["facts"]["PatientName"] == "Doe^Jane"


def test_description_does_not_invent_an_orientation(tmp_path: Path) -> None:
    io.write(volume_of(torch.rand(3, 4, 5)), tmp_path / "a.nii")
    assert io.describe(tmp_path / "a.nii")["orientation"] == "unknown"


def test_conversion_keeps_place_and_numbers_both_ways(tmp_path: Path) -> None:
    volume = placed("oblique")
    io.write(volume, tmp_path / "a.nii.gz")
    io.convert(tmp_path / "a.nii.gz", tmp_path / "series")
    io.convert(tmp_path / "series", tmp_path / "b.nii")
    back = io.read(tmp_path / "b.nii")
    assert isinstance(back, Volume)
    assert_same_place(canonical(volume), canonical(back), values=1e-4)


def test_conversion_refuses_an_existing_target_before_reading(tmp_path: Path) -> None:
    (tmp_path / "b.nii").write_text("mine")
    with pytest.raises(OutputExists):
        io.convert(tmp_path / "absent", tmp_path / "b.nii")
    io.write(placed(), tmp_path / "a.nii")
    io.convert(tmp_path / "a.nii", tmp_path / "b.nii", force=True)
    assert (tmp_path / "b.nii").read_bytes() != b"mine"
