"""The whole line from scan to volume: every method, reproducibility, plans, what the log says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medrecon
from medrecon.errors import BadInput, NotSupported
from medrecon.physics.mri.scan import MRIScan
from medrecon.prior import StationaryGaussian, store
from medrecon.recon.pipeline import Reconstruction, plan, reconstruct
from medrecon.recon.recipes import METHODS
from medrecon.volume import Volume
from tests.conftest import ROOT, shared
from tests.physics.mri.scans import AFFINE, head, lines, scan

SHAPE = (3, 64, 64)


def smooth_prior(shape: tuple[int, int] = (64, 64), *, field: str = "complex") -> StationaryGaussian:
    """Images of a 1/f amplitude spectrum, about as bright as a scan in prior units."""
    ky, kx = (torch.fft.fftfreq(n) * n for n in shape)
    spectrum = 1 / (1 + ky[:, None] ** 2 + kx**2)
    spectrum = 0.09 * spectrum / spectrum.mean()
    return StationaryGaussian(torch.zeros(shape, dtype=torch.complex64 if field == "complex" else torch.float32), spectrum)


def loaded(source: MRIScan) -> MRIScan:
    return replace(source, kspace=source.kspace[0 : source.n_slices])


@pytest.fixture(scope="module")
def source() -> MRIScan:
    return loaded(scan(SHAPE, mask=lines(64, every=3, centre=16), noise_std=0.02))


@pytest.fixture(scope="module")
def truth(source: MRIScan) -> Tensor:
    simulated = scan(SHAPE).kspace
    return torch.stack([simulated.object_image(z) for z in range(3)])  # type: ignore[attr-defined]


def error(image: Tensor, reference: Tensor) -> float:
    return float((image.abs() - reference.abs()).norm() / reference.norm())


@pytest.mark.parametrize(
    ("method", "settings", "most"),
    [
        ("zero_filled", {}, 0.25),
        ("rss", {}, 0.25),
        ("sense", {"steps": 10}, 0.2),
        ("l1_wavelet", {"steps": 30}, 0.15),
        ("tv", {"steps": 50}, 0.12),
        ("dds", {"steps": 12}, 0.2),
        ("dds", {"steps": 12, "preset": "paper"}, 0.3),
        ("dds", {"preset": "fast"}, 0.2),
    ],
)
def test_methods_give_the_head(source: MRIScan, truth: Tensor, method: str, settings: dict[str, Any], most: float) -> None:
    prior = {"prior": smooth_prior()} if "prior" in METHODS[method].needs else {}
    result = reconstruct(source, method, **prior, **settings)
    assert tuple(result.volume.image.shape) == SHAPE
    assert error(result.volume.image, truth) < most


COSTLY: dict[str, dict[str, Any]] = {
    "enkg": {"ensemble": 16, "rollout": 4},
    "dflow": {"steps": 4, "flow_steps": 3},
    **{name: {"steps": 8} for name in ("deqir", "sgm", "mcg")},
}
"""Methods whose steps are many evaluations each, or Krylov spaces on several coils."""

ROUGH = {"enkg": 1.2, "score_mri": 0.6, "dflow": 0.5}
"""Far below convergence in so few steps; the others come within 0.35."""


@pytest.mark.parametrize("method", [name for name, found in METHODS.items() if "prior" in found.needs])
def test_every_method_of_the_table_takes_a_scan_or_says_why_not(source: MRIScan, truth: Tensor, method: str) -> None:
    settings = {"steps": 25, **COSTLY.get(method, {})}
    prior = smooth_prior()
    if {"series", "spectrum"} & set(METHODS[method].needs):
        with pytest.raises(NotSupported, match=method):
            reconstruct(source, method, prior=prior, **settings)
        return
    result = reconstruct(source, method, prior=prior, **settings)
    assert tuple(result.volume.image.shape) == SHAPE
    assert error(result.volume.image, truth) < ROUGH.get(method, 0.35)
    assert result.log["evaluations"] > 0


def test_draws_explain_the_data_down_to_the_noise_and_tell_their_spread(source: MRIScan, truth: Tensor) -> None:
    result = reconstruct(source, "dds", prior=smooth_prior(), samples=4, steps=60)
    assert 0.8 < result.log["chi2"] < 1.25
    assert result.samples is not None
    assert result.std is not None
    assert result.std_complex is not None
    assert tuple(result.samples.shape) == (4, *SHAPE)
    torch.testing.assert_close(result.volume.image, result.samples.mean(0))
    torch.testing.assert_close(result.std.image, result.samples.abs().std(0))
    both = (result.samples.real.var(0) + result.samples.imag.var(0)).sqrt()
    torch.testing.assert_close(result.std_complex, both, rtol=1e-3, atol=1e-6)
    assert result.std.provenance["content"].startswith("standard deviation")


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(source: MRIScan) -> None:
    def run(seed: int) -> Tensor:
        found = reconstruct(source, "dds", prior=smooth_prior(), samples=2, steps=5, seed=seed).samples
        assert found is not None
        return found

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2), atol=1e-3)


@pytest.mark.parametrize("preset", ["mmse", "sample", "paper", "fast"])
def test_batches_of_one_slice_give_the_draws_of_all_at_once(source: MRIScan, preset: str) -> None:
    simulated = scan(SHAPE).kspace
    maps = torch.stack([f * simulated.coil_maps(z) for z, f in enumerate((0.7, 1.0, 1.4))])  # type: ignore[attr-defined]
    arguments: dict[str, Any] = {"prior": smooth_prior(), "samples": 2, "steps": 6, "preset": preset, "maps": maps}
    whole = reconstruct(source, "dds", **arguments)
    each = reconstruct(source, "dds", max_memory=3 << 20, **arguments)
    assert (whole.log["batches"], each.log["batches"]) == (1, 3)
    assert whole.samples is not None
    assert each.samples is not None
    assert float((each.samples - whole.samples).abs().max()) < 1e-5 * float(whole.samples.abs().max())


@pytest.mark.parametrize("method", ["sense", "l1_wavelet", "tv", "zero_filled", "rss"])
def test_classical_images_do_not_depend_on_the_batches(source: MRIScan, method: str) -> None:
    steps = {} if method in ("zero_filled", "rss") else {"steps": 10}
    whole, each = (reconstruct(source, method, max_memory=memory, **steps).volume.image for memory in (None, 1 << 20))
    assert float((each - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_the_shipped_brain_prior_reconstructs(source: MRIScan, truth: Tensor) -> None:
    if "brain" not in store.available():
        pytest.skip("no brain prior is shipped with this copy")
    one = loaded(source.select(slice(1, 2)))
    result = reconstruct(one, "dds", prior="brain", steps=8, average=1)
    assert error(result.volume.image, truth[1:2]) < 0.25
    assert result.log["prior"] == "brain"


def test_the_volume_lies_where_the_scan_says(source: MRIScan) -> None:
    volume = reconstruct(source, "zero_filled").volume
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.orientation == "known"
    part = reconstruct(source.select(slice(1, 3)), "zero_filled").volume
    np.testing.assert_allclose(part.affine[:3, 3], (AFFINE @ [0, 0, 1, 1])[:3])


def test_the_phase_is_kept(source: MRIScan, truth: Tensor) -> None:
    image = reconstruct(source, "sense", maps=torch.stack([scan(SHAPE).kspace.coil_maps(z) for z in range(3)])).volume.image  # type: ignore[attr-defined]
    inside = truth.abs() > 0.5
    assert float((image * truth.conj()).angle()[inside].abs().quantile(0.99)) < 0.25
    # calibrated maps leave a phase that every slice may choose, but only a smooth one
    product = reconstruct(source, "sense").volume.image * truth.conj()
    steps = (product[:, 1:] * product[:, :-1].conj()).angle()[inside[:, 1:] & inside[:, :-1]]
    assert float(steps.abs().median()) < 0.1


def test_the_log_can_be_written_as_json_and_says_where_things_come_from(source: MRIScan) -> None:
    result = reconstruct(source, "tv", steps=5, weight=0.1)
    log = json.loads(json.dumps(result.log))
    assert log["method"] == "tv"
    assert log["settings"]["weight"] == 0.1
    assert log["noise_source"].startswith("noise scan")
    assert log["noise_std"] == pytest.approx(0.02, rel=0.05)
    assert len(log["chi2_per_slice"]) == 3
    assert any("simulated" in warning for warning in log["warnings"])
    provenance = json.loads(json.dumps(dict(result.volume.provenance)))
    assert provenance["settings"] == log["settings"]
    assert provenance["simulated"] is True
    assert "Reconstruction(" in repr(result)


def test_maps_can_be_logged_too(source: MRIScan) -> None:
    result = reconstruct(source, "sense", steps=2, maps=torch.ones(4, 64, 64, dtype=torch.complex64))
    json.dumps(result.log)
    json.dumps(dict(result.volume.provenance))


# refusals


def test_misspelt_names_are_answered_with_the_nearest(source: MRIScan) -> None:
    with pytest.raises(BadInput, match="did you mean 'sense'"):
        reconstruct(source, "sens")
    with pytest.raises(BadInput, match="did you mean 'weight'"):
        reconstruct(source, "tv", wieght=3)
    with pytest.raises(BadInput, match="did you mean 'noise_std'"):
        reconstruct(source, "tv", noise_sd=3)
    with pytest.raises(BadInput, match="did you mean 'paper'"):
        reconstruct(source, "dds", prior=smooth_prior(), preset="papr")
    with pytest.raises(BadInput, match="prior"):
        reconstruct(source, "dds", prior="brian")


def test_what_cannot_be_done_is_refused(source: MRIScan) -> None:
    with pytest.raises(NotSupported, match="no randomness"):
        reconstruct(source, "tv", samples=3)
    with pytest.raises(BadInput, match="at least 1"):
        reconstruct(source, "dds", prior=smooth_prior(), samples=0)
    with pytest.raises(BadInput, match="expected a scan"):
        reconstruct(Volume(head(SHAPE), source.grid), "sense")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="noise_std="):
        reconstruct(source, "dds", prior=smooth_prior(), noise_std=0)


def test_a_prior_of_real_images_is_refused(source: MRIScan) -> None:
    with pytest.raises(BadInput, match="complex"):
        reconstruct(source, "dds", prior=smooth_prior(field="real"), steps=2)


def test_a_prior_that_has_seen_another_body_part_is_warned_of(source: MRIScan) -> None:
    prior = smooth_prior()
    prior.domain_name = "brain"

    def warnings(part: str) -> list[str]:
        found: list[str] = reconstruct(replace(source, study={"BodyPartExamined": part}), "dds", prior=prior, steps=2).log["warnings"]
        return found

    assert any("KNEE" in warning and "brain" in warning for warning in warnings("KNEE"))
    assert not any("has seen" in warning for warning in warnings("HEAD"))


# progress and plans


def test_progress_reads_and_then_solves_without_going_back(source: MRIScan) -> None:
    told: list[tuple[int, int, str]] = []
    reconstruct(source, "sense", steps=7, max_memory=2 << 20, progress=lambda *step: told.append(step))
    phases = {text: [(done, total) for done, total, other in told if other == text] for text in ("reading", "sense")}
    assert [text for _, _, text in told] == ["reading"] * len(phases["reading"]) + ["sense"] * len(phases["sense"])
    for steps in phases.values():
        assert steps == sorted(steps)
        assert len({total for _, total in steps}) == 1
        assert steps[-1][0] == steps[-1][1]


def test_an_iteration_that_converges_early_is_told_as_done(source: MRIScan) -> None:
    told: list[tuple[int, int, str]] = []
    reconstruct(source, "sense", steps=50, tolerance=0.1, progress=lambda *step: told.append(step))
    assert told[-1][:2] == (150, 150)


def test_a_plan_says_what_the_run_will_do(source: MRIScan) -> None:
    found = plan(source, "l1_wavelet", steps=20, max_memory=2 << 20)
    json.dumps(found)
    result = reconstruct(source, "l1_wavelet", steps=20, max_memory=2 << 20)
    assert found["batches"] == result.log["batches"]
    assert found["image"] == list(SHAPE)
    assert found["seconds"] >= 0
    maps = torch.ones(3, 4, 64, 64, dtype=torch.complex64)
    assert plan(source, "sense", maps=maps)["slices"] == 3
    assert plan(source, "sense", maps=maps[0], calib=torch.ones(3, 4, 24, 24, dtype=torch.complex64))["slices"] == 3


def test_a_plan_of_a_3d_scan_counts_readout_positions() -> None:
    slices = scan((16, 24, 12)).kspace[0:16]
    kspace = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(slices.movedim(0, 1)[None], -3), dim=-3, norm="ortho"), -3)
    mask = torch.ones(16, 24, 1, dtype=torch.bool)
    volume = MRIScan(grid=scan((16, 24, 12)).grid, kspace=kspace, mask=mask, image_axes=3)
    found = plan(volume, "sense", noise_std=1e-3, max_memory=1 << 19)
    result = reconstruct(volume, "sense", noise_std=1e-3, max_memory=1 << 19)
    assert (found["slices"], found["batches"]) == (12, result.log["batches"])


PEAK = """
import json, resource, sys, torch
torch.set_num_threads(1)
from medrecon.recon.pipeline import plan, reconstruct
from tests.recon.test_pipeline import smooth_prior
from tests.physics.mri.scans import lines, scan
method, settings = sys.argv[1], json.loads(sys.argv[2])
source = scan((6, 224, 224), coils=12, mask=lines(224, every=3, centre=20), noise_std=0.02)
if settings.get("prior") == "smooth":
    settings["prior"] = smooth_prior((224, 224))
expected = plan(source, method, **settings)["peak_bytes"]
reconstruct(source, method, **settings)
print(json.dumps({"expected": expected, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rss", {}),
        ("sense", {"steps": 3}),
        ("tv", {"steps": 3}),
        ("dds", {"steps": 3, "samples": 8, "preset": "sample", "prior": "smooth"}),
        ("dds", {"steps": 2, "samples": 4, "preset": "sample", "prior": "brain"}),
    ],
)
def test_the_planned_peak_of_memory_is_what_the_run_takes(method: str, settings: dict[str, Any]) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, method, json.dumps(settings)], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["peak"] == pytest.approx(found["expected"], rel=0.25)


# real data and real files


def brain() -> MRIScan:
    found = medrecon.read(shared("data", "mr_brain8ch_undersampled_ksp.npy"))
    assert isinstance(found, MRIScan)
    return found


def test_a_real_brain_looks_the_same_by_sense_and_by_wavelets() -> None:
    source = brain()
    sense = reconstruct(source, "sense", steps=15).volume.image.abs()
    wavelet = reconstruct(source, "l1_wavelet", steps=40).volume.image.abs()
    correlation = torch.corrcoef(torch.stack([sense.flatten(), wavelet.flatten()]))[0, 1]
    assert float(correlation) >= 0.9


@pytest.mark.slow
def test_draws_of_a_real_brain_explain_its_data() -> None:
    if "brain" not in store.available():
        pytest.skip("no brain prior is shipped with this copy")
    result = reconstruct(brain(), "dds", samples=2, preset="sample")
    assert 0.8 <= result.log["chi2"] <= 1.25


def test_from_image_to_kspace_file_to_dicom_and_nifti_everything_keeps_its_place(tmp_path: Path) -> None:
    from medrecon.io.fastmri import write_scan

    write_scan(scan((3, 48, 40), mask=lines(48, centre=24), noise_std=0.01), tmp_path / "scan.h5")
    result: Reconstruction = medrecon.reconstruct(medrecon.read(tmp_path / "scan.h5"), "sense")
    medrecon.write(result.volume.magnitude, tmp_path / "image.nii.gz")
    medrecon.write(result.volume, tmp_path / "series")
    expected = centre_of_mass(head((3, 48, 40)), AFFINE)
    for path in ("image.nii.gz", "series"):  # either format may turn its axes: the place in mm must stay
        back = medrecon.read(tmp_path / path)
        assert isinstance(back, Volume)
        np.testing.assert_allclose(centre_of_mass(back.magnitude.image, back.affine), expected, atol=0.3)


def centre_of_mass(image: Tensor, affine: np.ndarray) -> np.ndarray:
    """Of the squared image, in mm."""
    weight = (image.double() ** 2).numpy()
    z, y, x = (float((weight * index).sum() / weight.sum()) for index in np.indices(weight.shape))
    place: np.ndarray = (affine @ [x, y, z, 1])[:3]
    return place
