"""The measurements of priors: who is held out, how near a sample is to a training slice, what the table says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.prior import store
from tests.conftest import ROOT
from tests.prior.test_store import saved

sys.path.insert(0, str(ROOT / "benchmarks"))

import denoising
import held_out
import prior_samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, subjects in (
        ("test_mr", ["new"] * 3),
        ("train_mr", ["anna_T1w"] * 3 + ["bert_T1w"] * 3),
        ("train_mr_more", ["SC-N-1", "carl"]),
    ):
        smooth = rng.random((len(subjects), 8, 8)).repeat(8, 1).repeat(8, 2)
        np.savez(tmp_path / f"{name}.npz", images=(1000 * smooth).astype(np.uint16), subject=np.array(subjects))
    return tmp_path


def prior_of(folder: Path, domain: str = "brain") -> store.Prior:
    card = {"training subjects": "anna_T1w", "validation subjects": "carl (trained on as well)"}
    return store.load(saved(folder / "brain.safetensors", domain=domain, card=card))


def test_nobody_that_the_prior_has_seen_is_held_out(folder: Path) -> None:
    examples = list(held_out.held_out(folder, prior_of(folder), 8))
    assert {e.name.split("/")[1] for e in examples} == {"new", "bert_T1w"}
    assert {e.group for e in examples} == {"mr, test", "mr, left out"}
    assert all(e.clean.is_complex() and e.clean.shape == (64, 64) for e in examples)
    wide = held_out.held_out(folder, prior_of(folder, "mr"), 8)
    assert {e.name.split("/")[1] for e in wide} == {"new", "bert_T1w", "SC-N-1"}
    images, names = held_out.trained_on(folder, prior_of(folder))
    assert names == ["anna_T1w/0", "anna_T1w/1", "anna_T1w/2"]
    assert images.shape == (3, 64, 64)


def test_a_turned_flipped_and_shifted_copy_is_found(folder: Path) -> None:
    gallery = prior_samples.Gallery(*held_out.trained_on(folder, prior_of(folder)))
    copy = torch.rot90(torch.from_numpy(gallery.images[1]), 1, (0, 1)).flip(-1).roll((5, -9), (0, 1))
    near = gallery.nearest(3 * copy)
    assert near.index == 1
    assert near.correlation == pytest.approx(1, abs=1e-5)
    assert np.isnan(near.of_next)  # there is one person in the gallery
    assert gallery.nearest(copy, "anna").correlation == -1
    other = held_out.trained_on(folder, prior_of(folder))[0][0]
    assert gallery.nearest(torch.from_numpy(np.random.default_rng(9).random((64, 64)).astype(np.float32))).correlation < 0.5
    assert gallery.nearest(torch.from_numpy(other).to(torch.complex64)).index == 0


def test_copies_are_called_by_name() -> None:
    def near(value: float) -> list[prior_samples.Near]:
        return [prior_samples.Near(0, value, value - 0.1)]

    honest = {"unconditional": near(0.7), "from noise": near(0.86), "held out": near(0.85), "other subjects": near(0.9)}
    assert prior_samples.summary(honest)["copies"] == []
    assert prior_samples.summary({**honest, "unconditional": near(0.99)})["copies"] == ["unconditional"]
    assert prior_samples.summary(honest)["correlations"]["held out"]["lead over the next subject"] == 0.1


def test_the_table_says_whether_the_goal_is_reached() -> None:
    def rows(lead: float) -> list[dict[str, object]]:
        values = {"noisy": 20.0, "prior": 30.0 + lead, "tv": 28.0, "nlm": 29.0, "bm3d": 30.0}
        return [{"group": "mr, test", "sigma": s, "method": m, "psnr": v} for s in denoising.SIGMAS for m, v in values.items()]

    timing = {"ms": 100.0}
    assert "reached." in denoising.table("x", rows(1.4), timing)
    text = denoising.table("x", rows(0.5), timing)
    assert "not reached for mr, test at 0.1; mr, test at 0.2; mr, test at 0.5." in text
    assert "| mr, test (1) | 0.02 | 20.00 | 30.50 | 28.00 | 29.00 | 30.00 | +0.50 |" in text


def test_a_sample_does_not_depend_on_how_many_are_drawn(folder: Path) -> None:
    prior = prior_of(folder)
    one, two = (prior_samples.unconditional(prior, n, 32, 3, "cpu") for n in (1, 2))
    assert two.shape == (2, 32, 32)
    assert bool(torch.isfinite(two.abs()).all())
    torch.testing.assert_close(one[0], two[0])
    examples = list(held_out.held_out(folder, prior, 1))
    a, b = (prior_samples.from_images(prior, examples, 0.5, 3, "cpu") for _ in range(2))
    assert torch.equal(a, b)
