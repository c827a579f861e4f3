"""The tutorials run from the first cell to the last, and become notebooks."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import medrecon
from medrecon.prior import store
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "build_notebooks"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_holds_the_code_of_its_script(script: Path, notebooks: Path) -> None:
    found = json.loads((notebooks / f"{script.stem}.ipynb").read_text("utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    code = [cell["source"] for cell in found["cells"] if cell["cell_type"] == "code"]
    assert ast.dump(ast.parse("\n".join(code))) == ast.dump(ast.parse(script.read_text("utf-8")))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in found["cells"] if cell["cell_type"] == "code")
    assert found["cells"][0]["cell_type"] == "markdown"
    assert found["cells"][0]["source"].startswith("# ")


def test_the_way_to_an_own_prior_takes_ten_cells(notebooks: Path) -> None:
    cells = json.loads((notebooks / "own_prior.ipynb").read_text("utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown"] + ["code"] * 10


@pytest.mark.slow
def test_a_folder_of_dicom_becomes_a_prior_and_a_scan_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDRECON_TUTORIAL_FOLDER", str(tmp_path))
    monkeypatch.setenv("MEDRECON_TUTORIAL_ITERATIONS", "8")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names = runpy.run_path(str(ROOT / "docs" / "tutorials" / "own_prior.py"))
    assert len(list((tmp_path / "dicom").iterdir())) == 5
    card = store.load_network(tmp_path / "own.safetensors").card
    assert card["training subjects"] == "patient_0, patient_1, patient_2"
    assert card["never seen"] == "patient_4"
    assert names["checked"].passed
    assert 0.8 < names["result"].log["chi2"] < 1.25
    assert names["psnr"]["own prior"] > names["psnr"]["l1_wavelet"] + 1
    written = medrecon.read(tmp_path / "result")
    assert isinstance(written, medrecon.Volume)
    assert written.grid.shape == names["truth"].grid.shape
    assert written.facts["PatientID"] == "P4"
    assert "<html" in (tmp_path / "report.html").read_text("utf-8")
