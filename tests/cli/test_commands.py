"""The smaller commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import Medrecon, make_image, make_scan, running  # noqa: F401

from medrecon.cli import main


def test_every_command_has_help_and_the_common_flags(medrecon: Medrecon) -> None:
    for function in main.COMMANDS:
        answer = medrecon(function.__name__, "--help")
        assert answer.code == 0
        for flag in ("--json", "--debug", "--quiet", "--config"):
            assert flag in answer.out


def test_no_command_and_a_wrong_command_are_usage_errors(medrecon: Medrecon) -> None:
    assert medrecon().code == 2
    answer = medrecon("recno")
    assert answer.code == 2
    assert "'recon'" in answer.err


def test_version(medrecon: Medrecon) -> None:
    answer = medrecon("--version")
    assert answer.code == 0
    assert answer.out.startswith("medrecon ")


def test_info_explains_a_scan_and_an_image(medrecon: Medrecon, scan_file: Path, image_file: Path) -> None:
    answer = medrecon("info", scan_file, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["result"]["kspace"] == {"slice": 3, "coil": 4, "y": 48, "x": 40}
    answer = medrecon("info", image_file)
    assert answer.code == 0, answer.err
    assert "unknown" in answer.out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "from medrecon.cli.main import main; import sys; sys.argv = ['medrecon', 'methods', '--markdown']; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1


def test_convert_keeps_the_place(medrecon: Medrecon, tmp_path: Path) -> None:
    import nibabel

    affine = np.array([[-2.0, 0, 0, 30], [0, -2, 0, 20], [0, 0, 3, 10], [0, 0, 0, 1]])
    image = np.random.default_rng(0).random((10, 12, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    for source, target in (("a.nii.gz", "series"), ("series", "b.nii.gz")):
        answer = medrecon("convert", tmp_path / source, tmp_path / target)
        assert answer.code == 0, answer.err
    back = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(back.affine, affine, atol=1e-3)
    np.testing.assert_allclose(back.get_fdata(), image, atol=1e-4)


def test_one_of_several_series_is_chosen_by_an_option_of_the_reader(medrecon: Medrecon, tmp_path: Path) -> None:
    import nibabel

    for number in (1, 2):
        image = np.full((4, 5, number + 1), number, np.float32) + np.arange(number + 1)
        nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1, number, 1])), tmp_path / f"{number}.nii.gz")
        assert medrecon("convert", tmp_path / f"{number}.nii.gz", tmp_path / "both" / str(number)).code == 0
    answer = medrecon("convert", tmp_path / "both", tmp_path / "one.nii.gz")
    assert answer.code == 2
    assert "series" in answer.err
    answer = medrecon("convert", tmp_path / "both", tmp_path / "one.nii.gz", "--read", "series=2")
    assert answer.code == 0, answer.err
    assert answer.out == f"wrote {tmp_path / 'one.nii.gz'}\n"
    assert medrecon("info", tmp_path / "both", "--read", "seires=2").err.count("did you mean 'series'") == 1


def test_convert_of_raw_data_points_to_recon(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    answer = medrecon("convert", scan_file, tmp_path / "x.nii.gz")
    assert answer.code == 2
    assert "medrecon recon" in answer.err


def test_simulate_is_the_same_for_the_same_seed(medrecon: Medrecon, image_file: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        answer = medrecon("simulate", image_file, "-o", tmp_path / f"{name}.h5", "--coils", 2, "--seed", seed)
        assert answer.code == 0, answer.err
        with h5py.File(tmp_path / f"{name}.h5") as file:
            found.append(file["kspace"][()])
    assert found[0].shape[:2] == (3, 2)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_simulate_needs_an_image_and_a_known_modality(medrecon: Medrecon, scan_file: Path, image_file: Path, tmp_path: Path) -> None:
    assert "holds raw data already" in medrecon("simulate", scan_file, "-o", tmp_path / "x.h5").err
    assert "expected mri, ct" in medrecon("simulate", image_file, "-o", tmp_path / "x.h5", "--modality", "pet").err
    assert "HU" in medrecon("simulate", image_file, "-o", tmp_path / "x.npz", "--modality", "ct").err


@pytest.mark.parametrize("kind", ["random", "equispaced", "magic", "poisson"])
def test_undersample_keeps_about_the_share_that_was_asked_for(medrecon: Medrecon, scan_file: Path, tmp_path: Path, kind: str) -> None:
    full = scan_file.with_name("full.h5")
    options = ("-R", 3, "--mask", kind, "--center-fraction", 0.1, "--calib", 8)
    answer = medrecon("undersample", full, "-o", tmp_path / "x.h5", *options, "--json")
    assert answer.code == 0, answer.err
    share = answer.json["metrics"]["sampled_fraction"]
    assert 0.2 < share < 0.5
    with h5py.File(tmp_path / "x.h5") as file:
        assert np.isclose((file["kspace"][()] != 0).mean(), share, atol=0.02)


def test_undersample_with_an_unknown_mask_offers_the_nearest(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    answer = medrecon("undersample", scan_file, "-o", tmp_path / "x.h5", "--mask", "equispace")
    assert answer.code == 2
    assert "did you mean 'equispaced'" in answer.err


def scored(folder: Path, names: list[str], key: str, factor: float = 1.0) -> Path:
    folder.mkdir()
    for seed, name in enumerate(names):
        image = np.random.default_rng(seed).random((2, 16, 16), dtype=np.float32)
        with h5py.File(folder / name, "w") as file:
            file[key] = factor * image
    return folder


def test_evaluate_prints_fastmris_numbers(medrecon: Medrecon, tmp_path: Path) -> None:
    target = scored(tmp_path / "t", ["a.h5", "b.h5"], "reconstruction_rss")
    predictions = scored(tmp_path / "p", ["a.h5", "b.h5"], "reconstruction", 0.9)
    answer = medrecon("evaluate", "--target", target, "--predictions", predictions, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["metrics"]["mean"]["nmse"] == pytest.approx(0.01, rel=1e-4)
    assert set(answer.json["result"]) == {"a.h5", "b.h5"}


def test_evaluate_goes_on_past_a_missing_prediction_and_says_so(medrecon: Medrecon, tmp_path: Path) -> None:
    target = scored(tmp_path / "t", ["a.h5", "b.h5"], "reconstruction_rss")
    predictions = scored(tmp_path / "p", ["a.h5"], "reconstruction")
    answer = medrecon("evaluate", "--target", target, "--predictions", predictions)
    assert answer.code == 1
    assert "b.h5" in answer.err
    assert "1 volumes" in answer.out


def test_evaluate_with_nothing_to_score_is_bad_input(medrecon: Medrecon, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert medrecon("evaluate", "--target", tmp_path / "empty", "--predictions", tmp_path).code == 2
    target = scored(tmp_path / "t", ["a.h5"], "reconstruction_rss")
    answer = medrecon("evaluate", "--target", target, "--predictions", tmp_path / "empty")
    assert answer.code == 2
    assert "none of the 1 targets" in answer.err


def test_doctor_finds_this_installation_sound(medrecon: Medrecon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = medrecon("doctor", "--json")
    failures = [check for check in answer.json["result"] if check["status"] == "FAIL"]
    assert failures == []
    assert answer.code == 0
    assert {"torch", "cpu", "write here", "adjoint on cpu"} <= {check["name"] for check in answer.json["result"]}


def test_doctor_fails_when_the_mathematics_is_wrong(medrecon: Medrecon, monkeypatch: pytest.MonkeyPatch) -> None:
    from medrecon.linop.operator import Adjoint

    monkeypatch.setattr(Adjoint, "_forward", lambda self, y: 2 * self.operator._adjoint(y))
    answer = medrecon("doctor")
    assert answer.code == 1
    assert any(line.startswith("adjoint") and "FAIL" in line for line in answer.out.splitlines())


def test_a_broken_check_does_not_end_the_examination(medrecon: Medrecon, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    answer = medrecon("doctor")
    assert answer.code == 1
    assert "OSError: no space" in answer.out
    assert "adjoint" in answer.out


def test_methods_lists_and_explains(medrecon: Medrecon) -> None:
    listed = medrecon("methods")
    assert listed.code == 0
    assert "dds" in listed.out
    one = medrecon("methods", "dds", "--json")
    assert one.json["result"]["dds"]["settings"]
    answer = medrecon("methods", "ddx")
    assert answer.code == 2
    assert "did you mean 'dds'" in answer.err


def test_priors_lists_and_shows_cards(medrecon: Medrecon) -> None:
    answer = medrecon("priors", "--json")
    assert answer.code == 0
    for name in answer.json["result"]:
        card = medrecon("priors", name)
        assert card.code == 0
        assert "licen" in card.out.lower()
    assert medrecon("priors", "nonsense").code == 2


def test_train_refuses_an_existing_output_and_shows_its_command(medrecon: Medrecon, image_file: Path, tmp_path: Path) -> None:
    answer = medrecon("train", image_file, "-o", tmp_path / "p.safetensors", "--iterations", 5, "--dry-run")
    assert answer.code == 0, answer.err
    assert "medrecon train head.npy -o p.safetensors" in answer.out
    (tmp_path / "p.md").write_text("card")
    assert medrecon("train", image_file, "-o", tmp_path / "p.safetensors").code == 2
