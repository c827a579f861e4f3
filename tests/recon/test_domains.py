"""Which prior "auto" takes for a scan, what it says about it, and when a prior is out of its domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medrecon.errors import NotSupported
from medrecon.physics.mri.scan import MRIScan
from medrecon.prior import store
from medrecon.recon.domains import automatic, foreign
from medrecon.recon.pipeline import plan, reconstruct
from tests.physics.mri.scans import lines, scan
from tests.prior.test_store import saved
from tests.recon.test_pipeline import smooth_prior


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the shipped priors, and none of the user's own."""
    monkeypatch.setattr(store, "WEIGHTS", tmp_path / "shipped")
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "home"))
    (tmp_path / "shipped").mkdir()
    return tmp_path / "shipped"


def put(shelf: Path, *names: str, field: str = "complex") -> None:
    for name in names:
        saved(shelf / f"{name}.safetensors", domain=name, field=field)


def of(part: str) -> MRIScan:
    found = scan((2, 32, 24), mask=lines(32), noise_std=0.02)
    return replace(found, kspace=found.kspace[0:2], study={"BodyPartExamined": part} if part else {})


@pytest.mark.parametrize(
    ("there", "part", "chosen"),
    [
        (("brain", "mr", "generic"), "HEAD", "brain"),
        (("brain", "mr", "generic"), "", "brain"),
        (("brain", "mr", "generic"), "heart", "mr"),
        (("brain", "mr", "generic"), "KNEE", "generic"),
        (("brain", "mr"), "KNEE", "mr"),
        (("mr", "generic"), "HEAD", "mr"),
        (("brain", "generic"), "HEART", "generic"),
        (("generic",), "", "generic"),
        (("brain",), "KNEE", "brain"),
    ],
)
def test_auto_is_the_nearest_prior_at_hand_that_knows_the_body_part(shelf: Path, there: tuple[str, ...], part: str, chosen: str) -> None:
    put(shelf, *there)
    name, words = automatic(of(part))
    assert name == chosen
    assert repr(chosen) in words
    assert ", ".join(there) in words
    assert (part.upper() or "not stated") in words


def test_auto_takes_complex_priors_only_for_mri_and_says_when_there_is_none(shelf: Path) -> None:
    put(shelf, "mr", field="real")
    put(shelf, "ct")
    with pytest.raises(NotSupported, match="no prior is shipped for mri"):
        automatic(of("HEAD"))
    put(shelf, "generic")
    assert automatic(of("HEAD"))[0] == "generic"


def test_a_users_own_prior_of_that_name_is_found(shelf: Path, tmp_path: Path) -> None:
    put(tmp_path / "home" / "priors", "mr")
    assert automatic(of(""))[0] == "mr"
    assert "mr" in store.available()


def test_the_log_and_the_plan_say_which_prior_was_chosen_and_why(shelf: Path) -> None:
    put(shelf, "brain", "mr")
    log = reconstruct(of("HEART"), "dds", steps=2).log
    assert log["prior"] == "mr"
    assert log["prior_choice"] == "prior 'mr' chosen for this mri scan (HEART); at hand: brain, mr"
    assert not any("has seen" in text for text in log["warnings"])
    assert plan(of("HEAD"), "dds", steps=2)["prior"] == "brain"
    assert reconstruct(of("HEART"), "dds", steps=2, prior="brain").log["prior_choice"] is None
    assert any("HEART" in text for text in reconstruct(of("HEART"), "dds", steps=2, prior="brain").log["warnings"])
    assert reconstruct(of(""), "sense", steps=2).log["prior_choice"] is None


@pytest.mark.parametrize(
    ("domain", "part", "warned"),
    [
        ("brain", "KNEE", "KNEE"),
        ("brain", "SKULL", ""),
        ("brain", "", ""),
        ("mr", "LIVER", ""),
        ("mr", "FOOT", "FOOT"),
        ("generic", "FOOT", ""),
        ("any", "FOOT", ""),
        ("knee", "KNEE", ""),
        ("knee", "HEAD", "HEAD"),
        ("ct", "", "this scan is mri"),
        ("ultrasound", "HEAD", "this scan is mri"),
    ],
)
def test_a_prior_out_of_its_domain_is_warned_of(domain: str, part: str, warned: str) -> None:
    prior = smooth_prior()
    prior.domain_name = domain
    found = foreign(prior, "x", of(part))
    assert len(found) == bool(warned)
    assert warned in "".join(found)


def test_kspace_times_a_thousand_is_the_image_times_a_thousand() -> None:
    """With a prior, whose range the data are brought to and back."""
    source = of("")
    assert source.noise is not None
    louder = replace(source, kspace=source.kspace * 1000, noise=replace(source.noise, samples=source.noise.samples * 1000))
    for settings in ({"preset": "mmse"}, {"preset": "sample", "samples": 2}, {"preset": "paper"}):
        prior = smooth_prior((32, 24))
        plain, scaled = (reconstruct(x, "dds", prior=prior, steps=8, **settings).volume.image for x in (source, louder))  # type: ignore[arg-type]
        assert float((scaled / 1000 - plain).norm() / plain.norm()) < 1e-4
        assert bool(torch.isfinite(plain.abs()).all())


def test_a_demo_prior_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"field": "complex", "domain": "brain", "card": {"label": "demo: 0.9 dB above BM3D"}}
    monkeypatch.setattr(store, "available", lambda: {"brain": facts})
    assert automatic(of("BRAIN"))[1].startswith("demo prior 'brain' chosen")
    monkeypatch.setattr(store, "available", lambda: {"brain": {**facts, "card": {}}})
    assert automatic(of("BRAIN"))[1].startswith("prior 'brain' chosen")
