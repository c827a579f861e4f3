"""Priors in files: round trip, what is refused and with which words, and the prior that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import medrecon
from medrecon.errors import BadInput, OutputExists
from medrecon.linop.laws import random
from medrecon.prior import store
from medrecon.prior.network import UNET_FULL
from tests.prior.test_network import noisy_images, small_network, small_prior

FACTS = {
    "network": small_network().settings,
    "field": "complex",
    "domain": "test",
    "sigma_data": 0.3,
    "sigma_range": [0.002, 20.0],
    "error_curve": [[0.1, 0.004], [1.0, 0.04]],
    "kappas": [[8, 0.7], [24, 0.85]],
}


def saved(path: Path, **facts: object) -> Path:
    return store.save(path, small_network().state_dict(), {**FACTS, **facts})


def test_a_prior_comes_back_from_its_file(tmp_path: Path) -> None:
    prior = store.load(saved(tmp_path / "own.safetensors"))
    images = noisy_images(2, 12, 12)
    torch.testing.assert_close(prior.denoise(images, torch.tensor(0.2)), small_prior().denoise(images, torch.tensor(0.2)))
    assert (prior.field, prior.domain_name, prior.data_std, prior.scale(8)) == ("complex", "test", 0.3, 0.7)
    assert float(prior.error(torch.tensor(1.0))) == pytest.approx(0.04)
    assert not any(p.requires_grad for p in prior.parameters())


def test_half_precision_weights_are_computed_with_in_single(tmp_path: Path) -> None:
    path = store.save(tmp_path / "half.safetensors", {k: v.half() for k, v in small_network().state_dict().items()}, FACTS)
    assert store.load(path).denoise(noisy_images(1, 8, 8), torch.tensor(0.2)).dtype == torch.complex64


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = saved(tmp_path / "own.safetensors")
    with pytest.raises(OutputExists):
        store.save(path, {}, FACTS, force=False)


@pytest.mark.parametrize("keep", [0, 4, 100, 1000])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "own.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        store.load(path)


def test_noise_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        store.load(path)


def test_a_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        store.load(tmp_path / "folder.safetensors")


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="without medrecon's metadata"):
        store.load(path)
    save_file({"weight": torch.zeros(3)}, path, {"medrecon": "not json"})
    with pytest.raises(BadInput, match="metadata is not JSON"):
        store.load(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"network": {**FACTS["network"], "widths": [6, 8, 12]}},  # type: ignore[dict-item]
        {"network": {**FACTS["network"], "widths": [10**9, 10**9, 10**9]}},  # type: ignore[dict-item]
        {"network": {**FACTS["network"], "blocks": [10**9, 1, 1]}},  # type: ignore[dict-item]
        {"network": {**FACTS["network"], "colour": "red"}},  # type: ignore[dict-item]
        {"network": {}},
        {"network": 3},
        {"sigma_range": [1]},
        {"sigma_range": ["low", "high"]},
        {"field": "quaternion"},
        {"error_curve": [[1, 2, 3]]},
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        store.load(saved(tmp_path / "own.safetensors", **facts))


def test_metadata_that_is_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.safetensors"
    save_file({"weight": torch.zeros(3)}, path, {"medrecon": json.dumps([1])})
    with pytest.raises(BadInput):
        store.load(path)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'brain'"):
        store.load("brian")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none.safetensors: no such file"):
        store.load(tmp_path / "none.safetensors")


def test_a_prior_of_ones_own_without_a_card_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no model card"):
        store.card(saved(tmp_path / "own.safetensors"))


# The shipped prior.


@pytest.fixture(scope="module")
def brain() -> store.NetworkPrior:
    return medrecon.prior.load("brain")


def slices(count: int = 2, n: int = 64) -> Tensor:
    """Complex images of a few ellipses of even grey under a smooth phase, peak 1: none of them was trained on."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    images = []
    for k in range(count):
        head = ((x / 0.75) ** 2 + (y / 0.9) ** 2 < 1) * 0.5 + ((x / 0.65) ** 2 + (y / 0.8) ** 2 < 1) * 0.2
        inner = ((x - 0.2) / 0.15) ** 2 + ((y + 0.1 * k) / 0.3) ** 2 < 1
        other = ((x + 0.2) / 0.12) ** 2 + ((y + 0.2) / 0.2) ** 2 < 1
        images.append(torch.polar(head - 0.4 * inner + 0.25 * other, 1.0 * y + (0.7 - k) * x + 0.5 * x * y + k))
    return torch.stack(images)


def test_the_shipped_prior_is_small_and_complex(brain: store.NetworkPrior) -> None:
    assert sum(p.numel() for p in brain.parameters()) <= 4e6
    assert brain.field == "complex"
    assert brain.network.settings["widths"] == list(UNET_FULL["widths"])  # type: ignore[union-attr,index,arg-type]
    assert 0.1 < brain.data_std < 1
    assert 0.5 < brain.scale(8) < brain.scale(24) <= 1
    assert "brain" in medrecon.prior.available()


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_shipped_prior_denoises_much_better_than_the_wiener_filter(brain: store.NetworkPrior, sigma: float) -> None:
    clean = slices()
    noisy = clean + sigma * random(tuple(clean.shape), torch.complex64, "noise")
    spectrum = torch.fft.fft2(clean).abs().square().mean(0) / 2 / clean[0].numel()  # the clean images' own: no other filter is better
    filtered = torch.fft.ifft2(torch.fft.fft2(noisy) * spectrum / (spectrum + sigma**2))
    learnt, linear = (float((image - clean).abs().square().mean()) for image in (brain.denoise(noisy, torch.tensor(sigma)), filtered))
    assert learnt < 0.7 * linear


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_shipped_prior_turns_with_the_phase(brain: store.NetworkPrior, sigma: float) -> None:
    noisy = slices(1) + sigma * random((1, 64, 64), torch.complex64, "noise")
    turn = torch.polar(torch.tensor(1.0), torch.tensor(1.1))
    plain, turned = (brain.denoise(image, torch.tensor(sigma)) for image in (noisy, turn * noisy))
    assert float((turned - turn * plain).norm() / plain.norm()) < 0.15


def test_the_shipped_priors_own_estimate_of_its_error_is_unbiased(brain: store.NetworkPrior) -> None:
    """Stein: E|D - x|^2 = E|u - D|^2 - n sigma^2 + 2 sigma^2 E div D, with the divergence from random differences."""
    clean, sigma = slices(4), 0.1
    noisy = clean + sigma * random(tuple(clean.shape), torch.complex64, "noise")
    denoised = brain.denoise(noisy, torch.tensor(sigma))
    probe, step = random(tuple(clean.shape), torch.complex64, "probe"), 1e-2 * sigma
    moved = brain.denoise(noisy + step * probe, torch.tensor(sigma))
    divergence = ((moved - denoised).conj() * probe).real.sum() / step
    n = 2 * clean.numel()
    predicted = ((noisy - denoised).abs().square().sum() - n * sigma**2 + 2 * sigma**2 * divergence) / n
    assert float(predicted) == pytest.approx(float((denoised - clean).abs().square().sum() / n), abs=0.03 * sigma**2)


def test_the_shipped_priors_error_curve_rises_and_stays_below_the_noise(brain: store.NetworkPrior) -> None:
    sigmas = torch.logspace(-2, 1, 20, dtype=torch.float64)
    errors = brain.error(sigmas)
    assert bool((errors[1:] >= errors[:-1]).all())
    assert bool((errors <= sigmas**2).all())
    assert float(errors[-1]) < 1.5 * brain.data_std**2


def test_the_shipped_prior_has_a_card() -> None:
    if not (store.WEIGHTS / "brain.md").exists():
        pytest.skip("the card is written with the final weights")
    text = medrecon.prior.card("brain")
    for word in ("licence", "Denoising on the validation subjects", "Error curve", "Limits", "command"):
        assert word in text
