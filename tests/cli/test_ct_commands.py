"""The command line on CT: simulate, info, recon to every kind of file, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from command_line import Medrecon, running  # noqa: F401


@pytest.fixture(scope="module", name="body_file")
def make_body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc of water with a bone, 3 slices of 32 x 32, HU, placed in a patient."""
    y, x = np.mgrid[:32, :32] - 15.5
    image = np.where(np.hypot(x, y) < 13, 0.0, -1000.0)
    image[np.hypot(x - 4, y + 3) < 4] = 700
    path = tmp_path_factory.mktemp("body") / "body.nii.gz"
    volume = np.repeat(image.T[..., None], 3, axis=2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path


@pytest.fixture(name="projections")
def make_projections(medrecon: Medrecon, body_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    answer = medrecon("simulate", body_file, "-o", path, "--modality", "ct", "--views", 90, "--photons", 1e6)
    assert answer.code == 0, answer.err
    return path


def test_from_image_to_projections_to_image(medrecon: Medrecon, projections: Path, body_file: Path, tmp_path: Path) -> None:
    answer = medrecon("recon", projections, "-o", tmp_path / "a.nii.gz", "-o", tmp_path / "series", "-m", "fbp", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["metrics"]["noise_std"] == pytest.approx(1e-3)
    truth, found = (nibabel.load(path) for path in (body_file, tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(found.affine, truth.affine, atol=1e-5)
    assert abs(found.get_fdata()[8:14, 18:24, 1].mean()) < 8  # water, far from the bone
    assert len(list((tmp_path / "series").glob("*.dcm"))) == 3


def test_info_says_what_was_measured(medrecon: Medrecon, projections: Path) -> None:
    found = medrecon("info", projections, "--json").json["result"]
    assert found["modality"] == "CT raw data"
    assert found["projections"]["view"] == 90
    assert found["geometry"] == "ParallelBeam2D"
    assert found["simulated"] is True


@pytest.mark.parametrize("geometry", ["fan", "cone"])
def test_other_beams_are_planned_and_run(medrecon: Medrecon, body_file: Path, tmp_path: Path, geometry: str) -> None:
    path = tmp_path / "scan.npz"
    assert medrecon("simulate", body_file, "-o", path, "--modality", "ct", "--geometry", geometry, "--views", 40, "--photons", 0).code == 0
    plan = medrecon("recon", path, "-o", tmp_path / "x.npy", "-m", "fbp", "--dry-run", "--json")
    assert plan.json["result"]["slices"] == (1 if geometry == "cone" else 3)
    assert not (tmp_path / "x.npy").exists()
    assert medrecon("recon", path, "-o", tmp_path / "x.npy", "-m", "fbp").code == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 32, 32)


def test_a_beamline_file_without_axis_and_bin_size(medrecon: Medrecon, tmp_path: Path) -> None:
    """DataExchange: counts with flat and dark fields; the axis is found, the image has no HU and the command says so."""
    k = np.arange(81) - 44.3
    angles = np.deg2rad(np.arange(0, 180, 2))
    s = k[None] - 9 * np.cos(angles)[:, None]
    line_integrals = 0.1 * np.sqrt(np.clip(18.0**2 - s**2, 0, None))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = (100 + 20000 * np.exp(-line_integrals))[:, None].astype(np.uint16)
        file["exchange/data_white"] = np.full((3, 1, 81), 20100, np.uint16)
        file["exchange/data_dark"] = np.full((2, 1, 81), 100, np.uint16)
        file["exchange/theta"] = np.rad2deg(angles)
    answer = medrecon("recon", tmp_path / "scan.h5", "-o", tmp_path / "x.npy", "-m", "fbp", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["result"]["calibration"]["axis_bin"] == pytest.approx(44.3, abs=0.15)
    assert "HU" in answer.err
    image = np.load(tmp_path / "x.npy")[0]
    rows, columns = np.nonzero(image > image.max() / 2)
    assert np.hypot(columns.mean() - 40 - 9, rows.mean() - 40) < 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"angles": list(np.linspace(0, 3, 89))}, "angles"),
        ({"bin_spacing": 4e3}, "another unit"),
        ({"angles": list(range(90))}, "degrees"),
    ],
)
def test_geometry_that_cannot_be_is_one_line_without_traceback(
    medrecon: Medrecon, projections: Path, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    with np.load(projections) as data:
        arrays = {name: data[name] for name in data.files}
    geometry = {**json.loads(str(arrays["geometry"])), **change}
    np.savez(tmp_path / "bad.npz", **{**arrays, "geometry": np.array(json.dumps(geometry))})
    answer = medrecon("recon", tmp_path / "bad.npz", "-o", tmp_path / "x.npy", "-m", "fbp")
    assert answer.code == 2
    assert told in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "x.npy").exists()


def test_readings_of_nothing_are_refused(medrecon: Medrecon, projections: Path, tmp_path: Path) -> None:
    with np.load(projections) as data:
        arrays = {name: data[name] for name in data.files}
    counts = arrays["data"].copy()
    counts[:, 4] = 0
    np.savez(tmp_path / "bad.npz", **{**arrays, "data": counts})
    answer = medrecon("recon", tmp_path / "bad.npz", "-o", tmp_path / "x.npy", "-m", "fbp")
    assert answer.code == 2
    assert "view(s) 4" in answer.err
