"""Training from files, end to end: archives and folders in, weights and card out, no subject on both sides."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medrecon.errors import BadInput
from medrecon.prior import store
from medrecon.prior.losses import OBJECTIVES
from medrecon.prior.network import NETWORKS
from medrecon.prior.units import HOUNSFIELD
from medrecon.study import measures
from medrecon.study import train as study
from medrecon.study.images import ImageSet, read_images, with_phase
from medrecon.study.patches import Patches
from medrecon.study.train import TrainingRun, cost, train_from_files
from medrecon.tensors import bright_level

SMALL = {"widths": (4, 6), "blocks": (1, 1), "embedding": 8}


def pictures(count: int, seed: int, n: int = 24) -> np.ndarray:
    """Smooth positive images (count, n, n)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    centres = rng.uniform(-0.4, 0.4, (count, 2, 1, 1))
    return (100 * np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 0.2)).astype(np.float32)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    subjects = np.repeat(["anna", "bert", "carl", "odd-1", "odd-2"], 3)
    np.savez_compressed(path, images=pictures(15, 0), subject=subjects)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nifti").mkdir()
    for k, name in enumerate(("dora.nii.gz", "emil.nii")):
        nibabel.save(nibabel.Nifti1Image(pictures(4, 10 + k).transpose(2, 1, 0), np.eye(4)), tmp_path / "nifti" / name)
    return tmp_path / "nifti"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "unet_full", SMALL)
    monkeypatch.setattr(measures, "CURVE_SIGMAS", np.geomspace(0.01, 20, 4))


def order(out: Path, *data: Path, **settings: object) -> TrainingRun:
    return replace(TrainingRun(data, out, iterations=4, batch=2, patch=16, domain="test", licence="CC0", precision="float32"), **settings)  # type: ignore[arg-type]


def test_weights_and_card_come_out(archive: Path, folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    run = order(tmp_path / "own.safetensors", archive, folder, exclude=["odd*"], validate=["carl"])
    path = train_from_files(run, lambda done, total, text: steps.append((done, total)))
    assert steps == [(k, 4) for k in range(1, 5)]
    prior = store.load(path)
    images = 0.3 * torch.randn(1, 20, 20, dtype=torch.complex64)
    assert bool(torch.isfinite(prior.denoise(images, torch.tensor(0.1)).abs()).all())
    assert (prior.field, prior.domain_name) == ("complex", "test")
    facts = prior.card
    assert facts["training subjects"] == "anna, bert, dora, emil"
    assert facts["training images"] == "14"
    assert facts["validation subjects"] == "carl"
    assert facts["never seen"] == "odd-1, odd-2"
    text = store.card(path)
    assert "licence**: CC0" in text
    assert "medrecon train images.npz nifti -o own.safetensors" in text
    assert not path.with_suffix(".checkpoint").exists()


def test_the_command_in_the_card_is_the_run(archive: Path, tmp_path: Path) -> None:
    from medrecon.cli.main import app

    run = order(tmp_path / "own.safetensors", archive, exclude=["odd*"], validate=["carl"])
    import shlex

    import typer.main

    _, name, *arguments = shlex.split(run.command())
    parsed = typer.main.get_command(app).commands[name].make_context(name, arguments).params  # type: ignore[attr-defined]
    assert (parsed["iterations"], parsed["batch"], parsed["patch"]) == (4, 2, 16)
    assert list(parsed["exclude"]) == ["odd*"]
    assert list(parsed["validate"]) == ["carl"]


def test_without_a_choice_no_subject_is_on_both_sides(archive: Path, tmp_path: Path) -> None:
    card = store.load(train_from_files(order(tmp_path / "own.safetensors", archive))).card
    learnt, checked = (set(card[key].split(", ")) for key in ("training subjects", "validation subjects"))
    assert learnt.isdisjoint(checked)
    assert learnt | checked == {"anna", "bert", "carl", "odd-1", "odd-2"}
    assert checked


def test_too_few_subjects_are_validated_on_themselves_and_the_card_says_so(folder: Path, tmp_path: Path) -> None:
    card = store.load(train_from_files(order(tmp_path / "own.safetensors", folder, field="real"))).card
    assert card["validation subjects"] == "dora, emil (trained on as well)"


def test_the_same_run_gives_the_same_weights_and_other_images_are_refused(archive: Path, tmp_path: Path) -> None:
    whole = train_from_files(order(tmp_path / "whole.safetensors", archive))

    def end(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    ended = order(tmp_path / "ended.safetensors", archive)
    study_plan = study.Plan
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(study, "Plan", lambda *a, **k: study_plan(*a, **k, every=2))
        with pytest.raises(KeyboardInterrupt):
            train_from_files(ended, end)
        assert ended.out.with_suffix(".checkpoint").exists()
        for other in ({"exclude": ["bert"]}, {"batch": 3}, {"patch": 8}, {"field": "real"}, {"seed": 1}):
            with pytest.raises(BadInput, match="made with other settings"):
                train_from_files(replace(ended, **other))
        found = train_from_files(ended)
    a, b = (store.load(path).network.state_dict() for path in (whole, found))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_goes_on_from_given_weights(archive: Path, tmp_path: Path) -> None:
    first = train_from_files(order(tmp_path / "first.safetensors", archive))
    second = train_from_files(order(tmp_path / "second.safetensors", archive, init=first, learning_rate=0.0))
    a, b = (store.load(path) for path in (first, second))
    assert a.sigma_data == b.sigma_data
    torch.testing.assert_close(a.network.state_dict(), b.network.state_dict())
    with pytest.raises(BadInput, match="cannot start one of real images"):
        train_from_files(order(tmp_path / "third.safetensors", archive, init=first, field="real"))


def test_the_global_random_state_is_left_alone(archive: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train_from_files(order(tmp_path / "own.safetensors", archive, iterations=1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"exclude": ["ana"]}, "did you mean 'anna'"),
        ({"validate": ["x*"]}, r"no subject 'x\*'"),
        ({"exclude": ["*"]}, "every subject is excluded"),
        ({"validate": ["*"]}, "every subject is set apart"),
        ({"exclude": ["anna"], "validate": ["anna"]}, "no subject 'anna'"),
        ({"field": "quaternion"}, "expected complex or real"),
        ({"out": Path("weights.pt")}, "ends so"),
    ],
)
def test_what_cannot_be_trained_is_refused(archive: Path, tmp_path: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        train_from_files(replace(order(tmp_path / "own.safetensors", archive), **settings))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.checkpoint"))


def test_images_are_scaled_by_their_own_percentile(archive: Path, folder: Path) -> None:
    images = read_images([archive, folder])
    assert len(images) == 23
    assert sorted(set(images.subjects)) == ["anna", "bert", "carl", "dora", "emil", "odd-1", "odd-2"]
    for image in images.images:
        assert float(np.quantile(image.astype(np.float32), 0.995)) == pytest.approx(1, abs=2e-3)
        assert image.dtype == np.float16


def test_a_dicom_folder_is_one_subject_whatever_its_files_are_called(tmp_path: Path) -> None:
    import medrecon

    volume = medrecon.Volume(torch.from_numpy(pictures(3, 0)), medrecon.volume.Grid((3, 24, 24), np.eye(4)))
    medrecon.write(volume, tmp_path / "data" / "patient.7")
    for k, file in enumerate(sorted((tmp_path / "data" / "patient.7").iterdir())):
        file.rename(file.with_name(f"IM{k:04d}"))
    images = read_images([tmp_path / "data"])
    assert images.subjects == ["patient.7"] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": np.full((2, 4, 4), np.nan)}, "NaN or infinity"),
        ({"images": np.ones((4, 4))}, r"expected numbers \(n, y, x\)"),
        ({"images": np.ones((2, 4, 4)), "subject": np.array(["a"])}, "one name each"),
        ({"images": np.array([["a"]])}, "expected numbers"),
        ({"images": np.array([object()])}, "not a readable archive"),
        ({"images": np.zeros((2, 4, 4))}, "no image found"),
    ],
)
def test_archives_without_usable_images_are_refused(tmp_path: Path, content: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=words):
        read_images([tmp_path / "a.npz"])


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(BadInput, match="not a readable archive"):
        read_images([tmp_path / "a.npz"])
    with pytest.raises(BadInput, match="no such file"):
        read_images([tmp_path / "none.npz"])


@pytest.mark.parametrize("shape", [(24, 24), (10, 40), (5, 5)])
@pytest.mark.parametrize("field", ["complex", "real"])
def test_patches_have_one_size_for_images_of_any(shape: tuple[int, int], field: str) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float16)
    patches = Patches(ImageSet([image], ["anna"], ["mr"]), 16, 8, field)
    batch = patches(np.random.default_rng(1))
    assert batch.shape == (8, 2 if field == "complex" else 1, 16, 16)
    assert torch.equal(batch, patches(np.random.default_rng(1)))
    assert 0 < float(batch.abs().amax()) <= 1.2 * 1.15


def test_a_synthetic_phase_keeps_the_magnitude() -> None:
    image = pictures(1, 3)[0]
    torch.testing.assert_close(with_phase(image, 5).abs(), torch.from_numpy(image), atol=1e-4, rtol=1e-4)


def test_kappa_of_a_full_centre_is_the_brightness_of_the_images_in_their_unit(archive: Path) -> None:
    images = read_images([archive])
    plain = [torch.from_numpy(image.astype(np.float32)) for image in images.images]
    expected = np.mean([float(bright_level(image) / image.flatten().quantile(0.995)) for image in plain])
    assert measures.kappa(images, 24) == pytest.approx(expected, abs=0.02)  # the phase moves values across the edge of the foreground
    assert measures.kappa(images, 3) < measures.kappa(images, 8) < 1.01 * expected


def test_the_card_repeats_its_numbers(archive: Path, tmp_path: Path) -> None:
    path = train_from_files(order(tmp_path / "own.safetensors", archive))
    facts = store.metadata(path)
    rows = re.findall(r"^\| ([\d.e-]+) \| ([\d.e-]+) \|$", store.card(path), re.M)
    assert [float(a) for a, _ in rows] == pytest.approx([s for s, _ in facts["error_curve"]], rel=1e-3)
    assert [float(b) for _, b in rows] == pytest.approx([e for _, e in facts["error_curve"]], rel=1e-3)


def test_the_course_is_written_while_it_trains_and_goes_on_after_an_end(archive: Path, tmp_path: Path) -> None:
    def end(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    run = order(tmp_path / "own.safetensors", archive, iterations=6, report_every=2, validate=["carl"])
    with pytest.raises(KeyboardInterrupt):
        train_from_files(run, end)
    with Image.open(tmp_path / "own.png") as picture:
        assert picture.size == (3 * 24, 3 * 24)  # noisy, denoised and clean at three noise levels
    texts: list[str] = []
    train_from_files(run, lambda done, total, text: texts.append(text))
    rows = list(csv.DictReader((tmp_path / "own.csv").open()))
    assert [row["iteration"] for row in rows] == ["2", "4", "6"]
    assert all(10 < float(row["psnr_0.1"]) < 60 for row in rows)
    assert "PSNR 0.02: " in texts[-1]


def test_looking_at_the_course_does_not_change_the_weights(archive: Path, tmp_path: Path) -> None:
    a, b = (train_from_files(order(tmp_path / f"{n}.safetensors", archive, report_every=n)) for n in (0, 1))
    a, b = (store.load_network(path).network.state_dict() for path in (a, b))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "0.csv").exists()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains(archive: Path, tmp_path: Path, objective: str) -> None:
    path = train_from_files(order(tmp_path / "own.safetensors", archive, objective=objective, modality="mr", field="real"))
    assert store.metadata(path)["card"]["objective"] == objective
    assert all(np.isfinite(error) for _, error in store.metadata(path)["error_curve"])


def test_ct_weights_carry_their_units(tmp_path: Path) -> None:
    images = (pictures(6, 0) * 20 - 1000).astype(np.int16)
    np.savez(tmp_path / "ct.npz", images=images, subject=np.repeat(["a", "b", "c"], 2))
    path = train_from_files(order(tmp_path / "ct.safetensors", tmp_path / "ct.npz", modality="ct"))
    prior = store.load(path)
    assert (prior.field, prior.units, prior.scale(24)) == ("real", HOUNSFIELD, 1.0)
    assert "x = (HU + 1000) / 2000, clipped to 0 to 1.5" in store.card(path)
    with pytest.raises(BadInput, match="units HU cannot start one in relative"):
        train_from_files(order(tmp_path / "mr.safetensors", tmp_path / "ct.npz", modality="mr", field="real", init=path))


def test_a_generic_prior_learns_from_all_kinds(archive: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "ct.npz", images=(pictures(3, 0) * 20 - 1000).astype(np.int16), subject=np.array(["x", "y", "z"]))
    path = train_from_files(order(tmp_path / "all.safetensors", archive, tmp_path / "ct.npz", modality="generic", validate=["x", "anna"]))
    assert store.load(path).field == "complex"
    assert store.load(path).scale(8) < store.load(path).scale(32)  # from the magnitudes alone


def test_the_precision_of_the_first_start_holds(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "faster_precision", lambda *arguments: "bfloat16")
    run = order(tmp_path / "own.safetensors", archive, precision="auto")
    with pytest.raises(KeyboardInterrupt):
        train_from_files(run, end)
    monkeypatch.setattr(study, "faster_precision", lambda *arguments: "float32")
    assert store.metadata(train_from_files(run))["card"]["precision"] == "bfloat16 on cpu"
    whole = train_from_files(order(tmp_path / "whole.safetensors", archive, precision="bfloat16"))
    a, b = (store.load_network(path).network.state_dict() for path in (run.out, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_cost_is_said_without_writing(archive: Path, tmp_path: Path) -> None:
    text = cost(order(tmp_path / "own.safetensors", archive, iterations=3600))
    assert "12 images of 4 subjects to learn from, 3 to check on" in text
    seconds, hours = (float(n) for n in re.findall(r"([\d.e-]+) s an iteration, about ([\d.e-]+) h", text)[0])
    assert hours == pytest.approx(seconds, rel=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npz"]


def test_weights_of_another_network_cannot_be_gone_on_with(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_from_files(order(tmp_path / "first.safetensors", archive, iterations=1))
    monkeypatch.setitem(NETWORKS, "large", {**SMALL, "blocks": (1, 2)})
    with pytest.raises(BadInput, match="choose the one that it has"):
        train_from_files(order(tmp_path / "second.safetensors", archive, init=first, network="large"))


def test_what_the_start_has_seen_is_not_called_unseen(archive: Path, tmp_path: Path) -> None:
    first = train_from_files(order(tmp_path / "first.safetensors", archive, iterations=1, exclude=["odd-1"], validate=["carl"]))
    run = order(tmp_path / "second.safetensors", archive, iterations=1, exclude=["odd*"], validate=["carl"], init=first)
    card = store.load_network(train_from_files(run)).card
    assert card["never seen"] == "odd-1"
    assert card["started from"] == "first.safetensors, trained on anna, bert, odd-2"
    store.save(first, store.load_network(first).network.state_dict(), {**store.metadata(first), "card": {}})
    card = store.load_network(train_from_files(replace(run, out=tmp_path / "third.safetensors"))).card
    assert card["never seen"].startswith("odd-1, odd-2 (by this run")
