"""medrecon priors: lists, cards, checks on one's own image, imports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Medrecon, make_image, make_scan, running  # noqa: F401

from medrecon.study import check as study
from tests.prior.test_store import saved


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(study, "bm3d_is_here", lambda: False)
    monkeypatch.setattr(study, "SIGMAS", (0.1, 0.5))
    return tmp_path


@pytest.fixture
def own(place: Path) -> Path:
    return saved(place / "own.safetensors")


def test_a_check_prints_a_table_and_writes_a_picture_and_numbers(medrecon: Medrecon, own: Path, image_file: Path, place: Path) -> None:
    answer = medrecon("priors", own, "--check", image_file, "-o", place / "out", "--json")
    assert answer.code == 0, answer.err
    found = answer.json["result"]
    assert [level["sigma"] for level in found["levels"]] == [0.1, 0.5]
    assert found["size"] == [48, 40]
    assert "synthetic phase" in found["image"]
    assert sorted(path.name for path in (place / "out").iterdir()) == ["check.json", "check.png"]
    assert json.loads((place / "out" / "check.json").read_text()) == found
    assert (place / "out" / "check.png").read_bytes().startswith(b"\x89PNG")
    text = medrecon("priors", own, "--check", image_file, "--slices", "0:2")
    assert text.code == 0
    for word in ("sigma", "tv dB", "SURE", "phase", "warning: prior 'own'"):
        assert word in text.out + text.err


def test_a_check_is_the_same_for_the_same_seed(medrecon: Medrecon, own: Path, image_file: Path) -> None:
    def levels(seed: int) -> object:
        return medrecon("priors", own, "--check", image_file, "--seed", seed, "--json").json["result"]["levels"]

    assert levels(1) == levels(1) != levels(2)


def test_a_check_replaces_nothing_unasked(medrecon: Medrecon, own: Path, image_file: Path, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "check.png").write_text("mine")
    (place / "out" / "other").write_text("stays")
    arguments = ("priors", own, "--check", image_file, "-o", place / "out")
    assert medrecon(*arguments).code == 2
    assert (place / "out" / "check.png").read_text() == "mine"
    assert medrecon(*arguments, "--force").code == 0
    assert (place / "out" / "other").read_text() == "stays"


def test_bad_input_is_two_and_leaves_nothing(medrecon: Medrecon, own: Path, image_file: Path, scan_file: Path, place: Path) -> None:
    np.save(place / "zero.npy", np.zeros((8, 8)))
    for arguments, words in (
        ((own, "--check", place / "none.npy"), "no such file"),
        ((own, "--check", place / "zero.npy"), "no image found"),
        ((own, "--check", scan_file), "reconstruct it first"),
        ((own, "--check", image_file, "--slices", "7:9"), "selects nothing"),
        (("brian", "--check", image_file), "did you mean 'brain'"),
        (("--check", image_file), "needs the name"),
        ((own, "--import", own), "stands alone"),
        (("--import", place / "zero.npy"), "not a readable safetensors"),
        (("--import", own, "-o", "brain"), "shipped prior"),
    ):
        answer = medrecon("priors", *arguments, "-o", place / "out") if "-o" not in arguments and "--check" in arguments else None
        answer = answer or medrecon("priors", *arguments)
        assert answer.code == 2, arguments
        assert words in answer.err, answer.err
    assert not (place / "out").exists()
    assert not (place / "home").exists()


def test_an_imported_prior_is_listed_checked_and_used_by_name(medrecon: Medrecon, own: Path, image_file: Path, scan_file: Path) -> None:
    answer = medrecon("priors", "--import", own, "-o", "mine")
    assert answer.code == 0, answer.err
    assert "--prior mine" in answer.out
    assert "mine" in medrecon("priors").out
    assert medrecon("priors", "mine", "--check", image_file).code == 0
    assert medrecon("priors", "--import", own, "-o", "mine").code == 2
    assert medrecon("priors", "--import", own, "-o", "mine", "--force").code == 0
    recon = medrecon("recon", scan_file, "-o", own.with_name("x.nii.gz"), "--prior", "mine", "--steps", 2, "--json")
    assert recon.code == 0, recon.err
    assert recon.json["result"]["prior"] == "mine"
