"""The demo scan and downloads, against a server on this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput, MedreconError, MissingExtra, OutputExists
from medrecon.files import sha256
from medrecon.io import fastmri
from medrecon.physics.mri.scan import MRIScan
from medrecon.study import demo

CONTENT = b"raw data" * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest's output is for the tests."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "scan.bin").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def listed(tmp_path: Path, url: str, checksum: str = SUM) -> Path:
    file = tmp_path / "registry.toml"
    file.write_text(f'[one]\nurl = "{url}"\nfile = "one.bin"\nsha256 = "{checksum}"\nlicence = "CC0"\nwhat = "a test"\n')
    return file


def test_the_demo_scan_is_a_brain_in_its_place_and_the_same_each_time(tmp_path: Path) -> None:
    if find_spec("nilearn") is None:
        pytest.skip("the extra medrecon[demo] is not installed")
    path = demo.demo_scan(tmp_path / "a")
    scan = fastmri.read(path)
    assert isinstance(scan, MRIScan)
    assert tuple(scan.kspace.shape) == (8, 8, 224, 224)
    assert scan.simulated
    assert scan.noise is not None
    assert scan.mask is not None
    assert scan.mask.numel() / int(scan.mask.sum()) == pytest.approx(4, rel=0.1)
    assert scan.study["BodyPartExamined"] == "BRAIN"
    assert scan.grid.axis_codes == "RAS"
    assert scan.grid.spacing == (5.0, 1.0, 1.0)
    assert np.linalg.solve(scan.grid.affine, [0, 0, 0, 1])[2] == pytest.approx(1)  # the anterior commissure is in slice 1
    assert demo.demo_scan(tmp_path / "a") == path  # found, not made again
    again = fastmri.read(demo.demo_scan(tmp_path / "b"))
    assert isinstance(again, MRIScan)
    assert torch.equal(again.kspace[0:8], scan.kspace[0:8])
    assert sha256(path) == sha256(tmp_path / "b" / path.name)


def test_finding_the_template_does_not_import_nilearn() -> None:
    if find_spec("nilearn") is None:
        pytest.skip("the extra medrecon[demo] is not installed")
    code = "import sys; from medrecon.study import demo; demo._template(); sys.exit('nilearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_file_of_that_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / demo.NAME).write_text("mine")
    with pytest.raises(OutputExists):
        demo.demo_scan(tmp_path)
    assert (tmp_path / demo.NAME).read_text() == "mine"


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"medrecon\[demo\]"):
        demo.demo_scan(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_registry_of_the_repository_is_complete() -> None:
    for name, entry in demo.registry().items():
        assert entry["url"].startswith("https://"), name
        assert {"url", "file", "sha256", "licence", "what", "format"} <= set(entry), name
        assert len(entry["sha256"]) in (0, 64), name


def test_a_download_is_checked_and_kept(tmp_path: Path, server: str) -> None:
    file = listed(tmp_path, f"{server}/scan.bin")
    path = demo.download("one", tmp_path / "out", registry_file=file)
    assert path.read_bytes() == CONTENT
    assert demo.download("one", tmp_path / "out", registry_file=file, offline=True) == path  # no second download


def test_a_download_with_another_checksum_is_not_kept(tmp_path: Path, server: str) -> None:
    file = listed(tmp_path, f"{server}/scan.bin", "0" * 64)
    with pytest.raises(BadInput, match="another sha256"):
        demo.download("one", tmp_path / "out", registry_file=file)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_an_entry_without_a_checksum_needs_one_from_the_user(tmp_path: Path, server: str) -> None:
    file = listed(tmp_path, f"{server}/scan.bin", "")
    with pytest.raises(BadInput, match="sha256 is not known"):
        demo.download("one", tmp_path, registry_file=file)
    assert demo.download("one", tmp_path / "out", registry_file=file, checksum=SUM).read_bytes() == CONTENT


def test_no_network_is_said_in_one_line(tmp_path: Path) -> None:
    file = listed(tmp_path, "http://127.0.0.1:9/scan.bin")
    with pytest.raises(MedreconError, match="cannot be reached"):
        demo.download("one", tmp_path / "out", registry_file=file)
    with pytest.raises(MedreconError, match="downloads are off"):
        demo.download("one", tmp_path / "out", registry_file=file, offline=True)


def test_a_file_that_the_server_lacks_is_said(tmp_path: Path, server: str) -> None:
    with pytest.raises(MedreconError, match="the server refused"):
        demo.download("one", tmp_path / "out", registry_file=listed(tmp_path, f"{server}/absent.bin"))


def test_an_unknown_name_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'one'"):
        demo.download("onne", tmp_path, registry_file=listed(tmp_path, "http://127.0.0.1:9/x"))


def test_a_broken_registry_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[one]\nurl = 'x'\n")
    with pytest.raises(BadInput, match="lacks file"):
        demo.registry(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("[one\n")
    with pytest.raises(BadInput, match="cannot be read as a registry"):
        demo.registry(tmp_path / "r.toml")
