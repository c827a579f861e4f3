"""A prior's check: exact denoisers pass, broken ones do not, and any image comes into the prior's units."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medrecon
from medrecon.errors import BadInput
from medrecon.prior import StationaryGaussian
from medrecon.prior.denoiser import Prior
from medrecon.prior.units import DECIBEL, HOUNSFIELD, RELATIVE, Units
from medrecon.prior.wrapped import Wrapped
from medrecon.study import check as study
from medrecon.study.check import SIGMAS, PriorCheck, check, in_prior_units, phase_error, psnr, sure_identity
from medrecon.tensors import generator_for, unit_noise
from medrecon.volume import volume_of

SHAPE = (48, 40)


def gaussian(field: str = "complex") -> StationaryGaussian:
    ky, kx = (torch.fft.fftfreq(n) * n for n in SHAPE)
    spectrum = 1 / (1 + ky[:, None] ** 2 + kx**2)
    mean = torch.zeros(SHAPE, dtype=torch.complex64 if field == "complex" else torch.float32)
    return StationaryGaussian(mean, 0.09 * spectrum / spectrum.mean())


def drawn(prior: StationaryGaussian, count: int = 4) -> Tensor:
    like = torch.zeros(count, *SHAPE, dtype=torch.complex64 if prior.field == "complex" else torch.float32)
    return prior.sample(unit_noise(like.shape, like.dtype, generator_for(0, "images")))


class Bent(Wrapped):
    """A denoiser that is not one: the answer is scaled, or depends on the phase."""

    def __init__(self, prior: Prior, factor: float = 1.0, bend: float = 0.0) -> None:
        super().__init__(prior)
        self.factor, self.bend = factor, bend

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        found = self.factor * self.prior.denoise(noisy, sigma)
        return torch.complex(found.real, (1 - self.bend) * found.imag) if self.bend else found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """BM3D takes seconds an image; where it is not installed nothing else changes."""
    monkeypatch.setattr(study, "bm3d_is_here", lambda: False)


def checked(prior: Prior, images: Tensor) -> PriorCheck:
    return check(prior, "own", list(images), "drawn from the prior")


@pytest.mark.parametrize("field", ["complex", "real"])
def test_the_exact_denoiser_of_its_own_images_passes(field: str) -> None:
    prior = gaussian(field)
    found = checked(prior, drawn(prior))
    assert found.passed
    assert [level.sigma for level in found.levels] == list(SIGMAS)
    for level in found.levels:
        assert level.sure == pytest.approx(1, abs=0.05)
        assert level.prior >= level.tv - 0.1
        assert level.prior == pytest.approx(level.card, abs=0.5)
        assert level.noisy == pytest.approx(-20 * np.log10(level.sigma), abs=0.2)
        assert (level.phase is None) == (field == "real")
        assert (level.phase or 0) < 1e-5
    assert found.warnings == []


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("field", ["complex", "real"])
def test_the_sure_identity_is_that_of_the_spectrum(field: str, sigma: float) -> None:
    """For images of power p and D = g u: E = mean((1 - g)^2 (p + s^2) / s^2 + g), whatever g is."""
    prior = gaussian(field)
    clean = drawn(prior, 8)
    noisy = clean + sigma * unit_noise(clean.shape, clean.dtype, generator_for(1, "noise"))
    power = prior.spectrum.double()
    for factor, tolerance in ((1.0, 0.02), (0.8, 0.1)):  # what shrinking costs lies in few low frequencies
        bent = Bent(prior, factor)
        gain = factor * power / (power + sigma**2)
        expected = float(((1 - gain) ** 2 * (power + sigma**2) / sigma**2 + gain).mean())
        denoised = bent.denoise(noisy, torch.tensor(sigma))
        assert sure_identity(bent, noisy, denoised, sigma, 0) == pytest.approx(expected, rel=tolerance)


def test_a_denoiser_that_shrinks_or_knows_the_phase_does_not_pass() -> None:
    prior = gaussian()
    images = drawn(prior)
    shrunk = checked(Bent(prior, 0.8), images)
    assert not shrunk.passed
    assert any("SURE" in text and "0.02" in text for text in shrunk.warnings)
    assert any("total variation denoises better" in text for text in shrunk.warnings)
    assert any("out of its domain" in text for text in shrunk.warnings)
    real = checked(Bent(prior, bend=0.6), images)
    assert not real.passed
    assert any("global phase" in text for text in real.warnings)


def test_the_phase_error_is_the_share_that_does_not_turn() -> None:
    prior = Bent(gaussian(), bend=1.0)
    noisy = drawn(gaussian()).abs().to(torch.complex64)
    quarter = phase_error(prior, noisy, prior.denoise(noisy, torch.tensor(0.1)), 0.1, angle=float(np.pi / 2))
    assert quarter == pytest.approx(1, abs=1e-4)


def test_the_numbers_are_json_and_the_picture_is_a_png() -> None:
    from PIL import Image

    prior = gaussian()
    found = checked(prior, drawn(prior, 1))
    facts = json.loads(json.dumps(found.facts()))
    assert facts["levels"][2]["sigma"] == 0.1
    assert facts["levels"][2]["bm3d"] is None
    picture = Image.open(io.BytesIO(found.picture()))
    assert picture.format == "PNG"
    assert picture.height > picture.width


def test_bm3d_stands_beside_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm3d")
    monkeypatch.setattr(study, "bm3d_is_here", lambda: True)
    monkeypatch.setattr(study, "SIGMAS", (0.1,))
    prior = gaussian("real")
    (level,) = checked(prior, drawn(prior, 1)).levels
    assert level.bm3d is not None
    assert level.noisy + 0.5 < level.bm3d < level.prior


def test_psnr_counts_each_component() -> None:
    clean = torch.zeros(1, 4, 4, dtype=torch.complex64)
    assert psnr(clean + complex(0.1, 0.1), clean) == pytest.approx(20, abs=1e-4)
    assert psnr(clean.real + 0.1, clean.real) == pytest.approx(20, abs=1e-4)


# images of any file in the prior's units


def slices(count: int = 2) -> np.ndarray:
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    disc = (x**2 + y**2 < 0.5) * (1 + 0.3 * x)
    return np.stack([(k + 1) * 100 * disc for k in range(count)]).astype(np.float32)


def of_units(units: Units, field: str) -> Prior:
    prior = gaussian(field)
    prior.units = units
    return prior


@pytest.mark.parametrize("kind", ["npy", "npz", "nii.gz", "dicom", "png"])
@pytest.mark.parametrize("field", ["complex", "real"])
def test_magnitudes_of_any_format_are_scaled_slice_by_slice(tmp_path: Path, kind: str, field: str) -> None:
    target = tmp_path / f"image.{kind}"
    if kind == "png":
        from PIL import Image

        Image.fromarray(slices(1)[0].astype(np.uint8)).save(target)
    else:
        medrecon.write(volume_of(slices()), tmp_path / "series" if kind == "dicom" else target)
    images, words = in_prior_units(of_units(RELATIVE, field), tmp_path / "series" if kind == "dicom" else target)
    for image in images:
        assert image.is_complex() == (field == "complex")
        assert float(image.abs().quantile(0.995)) == pytest.approx(1, abs=0.01)
        assert float(image.abs().min()) == 0
    assert ("synthetic phase" in words) == (field == "complex")


def test_a_complex_image_keeps_its_own_phase(tmp_path: Path) -> None:
    image = slices() * np.exp(0.7j)
    np.savez(tmp_path / "a.npz", image=image.astype(np.complex64))
    (first, _), words = in_prior_units(of_units(RELATIVE, "complex"), tmp_path / "a.npz")
    assert float(first.angle()[first.abs() > 0.1].mean()) == pytest.approx(0.7, abs=1e-4)
    assert "complex image" in words
    real, _ = in_prior_units(of_units(RELATIVE, "real"), tmp_path / "a.npz")
    assert not real[0].is_complex()


def test_hounsfield_units_and_grey_levels_have_their_own_scale(tmp_path: Path) -> None:
    np.save(tmp_path / "ct.npy", np.where(slices(1) > 0, 40.0, -1000.0).astype(np.float32))
    (image,), words = in_prior_units(of_units(HOUNSFIELD, "real"), tmp_path / "ct.npy")
    assert sorted(set(image.flatten().tolist())) == pytest.approx([0, 0.52], abs=1e-3)
    assert "ct" in words
    np.save(tmp_path / "us.npy", np.where(slices(1) > 0, 255, 51).astype(np.uint8))
    (image,), _ = in_prior_units(of_units(DECIBEL, "real"), tmp_path / "us.npy")
    assert sorted(set(image.flatten().tolist())) == pytest.approx([0.2, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("array", "units", "words"),
    [
        (np.zeros((4, 4)), RELATIVE, "no image found"),
        (np.full((4, 4), np.nan), RELATIVE, "NaN"),
        (np.ones((2, 3, 8, 8), np.complex64), RELATIVE, "raw mri data"),
        (np.full((1, 8, 8), np.nan * 1j), RELATIVE, "raw mri data|NaN"),
        (np.ones((8, 8)), HOUNSFIELD, "Hounsfield"),
        (np.array(["a"]), RELATIVE, "image is"),
    ],
)
def test_images_that_a_prior_cannot_be_checked_on_are_refused(tmp_path: Path, array: np.ndarray, units: Any, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadInput, match=words):
        in_prior_units(of_units(units, "complex" if units == RELATIVE else "real"), tmp_path / "a.npy")
