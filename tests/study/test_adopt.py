"""Priors from elsewhere: checked, copied, and found by name from then on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medrecon.errors import BadInput, MedreconError, OutputExists
from medrecon.prior import store
from medrecon.prior.own import own_folder
from medrecon.study.adopt import adopt, adopted_path
from tests.prior.test_diffusers_folder import folder, stand_in  # noqa: F401
from tests.prior.test_store import saved


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_imported_prior_is_found_by_name_with_its_card(tmp_path: Path, home: Path) -> None:
    source = saved(tmp_path / "knee.safetensors")
    source.with_suffix(".md").write_text("# my card")
    written = adopt(source, adopted_path(source, None))
    assert written == [home / "priors" / "knee.safetensors", home / "priors" / "knee.md"]
    assert store.card("knee") == "# my card"
    assert "knee" in store.available()
    source.unlink()
    assert bool(torch.isfinite(store.load("knee").denoise(torch.zeros(1, 16, 16, dtype=torch.complex64), torch.tensor(0.1)).abs()).all())


def test_a_name_is_a_name_and_a_path_a_path(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "from elsewhere.safetensors"
    assert adopted_path(source, "knee") == home / "priors" / "knee.safetensors"
    assert adopted_path(source, "knee.safetensors") == Path("knee.safetensors")
    assert adopted_path(source, str(tmp_path / "x.safetensors")) == tmp_path / "x.safetensors"
    monkeypatch.delenv("MEDRECON_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert own_folder() == tmp_path / "data" / "medrecon" / "priors"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert own_folder() == Path.home() / ".local" / "share" / "medrecon" / "priors"


def test_names_of_shipped_priors_and_no_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="shipped prior"):
        adopted_path(tmp_path / "brain.safetensors", None)
    with pytest.raises(BadInput, match="shipped prior"):
        adopted_path(tmp_path / "a.safetensors", "tv")
    for name in ("", ".x"):
        with pytest.raises(BadInput, match="no name"):
            adopted_path(tmp_path / "a.safetensors", name)


def test_what_cannot_be_loaded_is_not_imported(tmp_path: Path, home: Path) -> None:
    broken = saved(tmp_path / "broken.safetensors", field="quaternion")
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    for source in (broken, noise, tmp_path / "folder", tmp_path / "none.safetensors"):
        with pytest.raises(MedreconError):
            adopt(source, adopted_path(source, "mine"))
    assert not home.exists()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("pipeline", [False, True])
def test_a_folder_of_diffusers_is_taken_in_without_what_else_lies_in_it(tmp_path: Path, home: Path, pipeline: bool) -> None:
    source = folder(tmp_path / "hearts", pipeline=pipeline)
    (source / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(BadInput, match="stays a folder"):
        adopt(source, adopted_path(source, "hearts.safetensors"))
    (written,) = adopt(source, adopted_path(source, None))
    assert written == home / "priors" / "hearts"
    assert not list(written.rglob("*.bin"))
    assert "hearts" in store.available()
    noisy, sigma = torch.randn(1, 8, 6), torch.tensor(0.3)
    torch.testing.assert_close(store.load("hearts").denoise(noisy, sigma), store.load(source).denoise(noisy, sigma))
    with pytest.raises(OutputExists):
        adopt(source, adopted_path(source, None))
    adopt(source, adopted_path(source, None), force=True)
    (tmp_path / "papers").mkdir()
    with pytest.raises(BadInput, match="holds something else"):
        adopt(source, tmp_path / "papers", force=True)


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    source = saved(tmp_path / "knee.safetensors")
    target = adopted_path(source, None)
    adopt(source, target)
    with pytest.raises(OutputExists):
        adopt(source, target)
    adopt(source, target, force=True)
    with pytest.raises(BadInput, match="is the source itself"):
        adopt(target, target, force=True)
    with pytest.raises(BadInput, match="ends so"):
        adopt(source, tmp_path / "x.pt")
