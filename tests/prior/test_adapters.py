"""Known denoisers, told and asked as networks of every kind are, come back with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior import FromModule, GaussianMixture, Prior, StationaryGaussian, from_deepinverse
from medrecon.prior.jacobian import differentiated
from medrecon.prior.parametrisation import (
    GeometricTime,
    Noising,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
    ddpm_cosine,
    ddpm_linear,
    whole,
)
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import euler

SHAPE = (6, 5)
SIGMAS = (0.02, 0.3, 1.0, 7.0)


def field(dtype: torch.dtype, shape: tuple[int, ...] = SHAPE, gain: float = 1.0, offset: complex = 0.0) -> StationaryGaussian:
    """A Gaussian field of mean about 0.5, in units where x is gain x + offset."""
    mean = 0.5 + 0.2 * random(shape, dtype, "mean")
    frequencies = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in shape), indexing="ij")
    spectrum = 0.3 / (1 + 30 * torch.stack(frequencies).square().sum(0))
    return StationaryGaussian(gain * mean + (offset if dtype.is_complex else offset.real), gain**2 * spectrum.to(mean.real.dtype))


def mixture(dtype: torch.dtype, gain: float = 1.0, offset: complex = 0.0) -> GaussianMixture:
    means = random((2, *SHAPE), dtype, "means")
    return GaussianMixture([0.3, 0.7], gain * means + (offset if dtype.is_complex else offset.real), [0.1 * gain**2, 0.4 * gain**2])


def ddpm_table(kept: np.ndarray) -> np.ndarray:
    total = np.cumprod(kept)
    return np.sqrt((1 - total) / total)


LINEAR = ddpm_table(1 - np.linspace(1e-4, 0.02, 1000))


def cosine_table() -> np.ndarray:
    total = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return ddpm_table(1 - np.minimum(1 - total[1:] / total[:-1], 0.999))


def level_of_step(table: np.ndarray, k: Tensor) -> Tensor:
    return torch.from_numpy(np.exp(np.interp(k.double().numpy(), np.arange(len(table)), np.log(table)))).to(k)


def preserved(sigma: Tensor) -> Tensor:
    return 1 / torch.sqrt(1 + sigma**2)


# What the network does with its time: time -> sigma, sigma -> a, written apart from the package.
KINDS: dict[str, tuple[Noising, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exploding": (VarianceExploding(0.002, 80.0), lambda t: t, torch.ones_like),
    "exploding in time": (GeometricTime(0.01, 50.0), lambda t: 0.01 * 5000**t, torch.ones_like),
    "preserving": (VariancePreserving(), lambda t: torch.sqrt(torch.expm1(0.5 * 19.9 * t**2 + 0.1 * t)), preserved),
    "linear steps": (ddpm_linear(), partial(level_of_step, LINEAR), preserved),
    "cosine steps": (ddpm_cosine(), partial(level_of_step, cosine_table()), preserved),
    "flow": (RectifiedFlow(), lambda t: t / (1 - t), lambda sigma: 1 - sigma / (1 + sigma)),
}


def answers(clean: Tensor, seen: Tensor, a: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Everything that a network can predict of x_t = a x + s e, from E[x]."""
    s = a * sigma
    noise = (seen - a * clean) / s
    return {
        "clean": clean,
        "noise": noise,
        "score": (a * clean - seen) / s**2,
        "v": a * noise - s * clean,
        "flow": noise - clean,
        "velocity": clean - noise,
    }


class Known(nn.Module):
    """A closed-form denoiser in the clothes of a network of 1 or 2 channels."""

    def __init__(self, prior: Prior, predicts: str, level: Callable[[Tensor], Tensor], amplitude: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.prior, self.predicts, self.level, self.amplitude = prior, predicts, level, amplitude
        self.times: list[Tensor] = []

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        self.times.append(time)
        seen = torch.complex(image[:, 0], image[:, 1]) if image.shape[1] == 2 else image[:, 0]
        sigma = self.level(time).reshape(-1, *[1] * (seen.ndim - 1))
        a = self.amplitude(sigma)
        found = answers(self.prior.denoise(seen / a, sigma), seen, a, sigma)[self.predicts]
        return torch.stack([found.real, found.imag], 1) if image.shape[1] == 2 else found[:, None]


def known(kind: str, predicts: str, prior: Prior) -> tuple[Known, Noising]:
    noising, level, amplitude = KINDS[kind]
    return Known(prior, predicts, level, amplitude), noising


def same(found: Prior, truth: Prior, dtype: torch.dtype, tolerance: float, shape: tuple[int, ...] = SHAPE) -> None:
    """Equal to within `tolerance` of what denoising changes, at every level of both."""
    for sigma in map(torch.tensor, SIGMAS):
        noisy = 0.5 + random((2, *shape), dtype, "clean") + sigma * random((2, *shape), dtype, "noise")
        expected = truth.denoise(noisy, sigma)
        assert found.denoise(noisy, sigma).dtype == dtype
        assert float((found.denoise(noisy, sigma) - expected).abs().max()) < tolerance * float((noisy - expected).abs().max())


@pytest.mark.parametrize("predicts", ["clean", "noise", "score", "v", "flow", "velocity"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_known_denoiser_gives_the_same_numbers_whatever_it_is_told_and_predicts(kind: str, predicts: str) -> None:
    module, noising = known(kind, predicts, field(torch.float64))
    same(FromModule(module, predicts=predicts, noising=noising), field(torch.float64), torch.float64, 1e-9)
    module, noising = known(kind, predicts, field(torch.float32))
    # Whole steps are 0.01 apart in ln sigma: single precision resolves them to 1e-4.
    rough = 1e-4 if "steps" in kind or predicts == "score" else 2e-5
    same(FromModule(module, predicts=predicts, noising=noising), field(torch.float32), torch.float32, rough)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [field, mixture])
def test_networks_of_minus_one_to_one_denoise_images_of_zero_to_one(kind: str, make: Callable[..., Prior]) -> None:
    module, noising = known(kind, "noise", make(torch.float64, gain=2.0, offset=-1.0))
    prior = FromModule(module, predicts="noise", noising=noising, gain=2.0, offset=-1.0)
    same(prior, make(torch.float64), torch.float64, 1e-9)
    assert prior.sigma_range == pytest.approx([end / 2 for end in noising.sigma_range])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [field, mixture])
def test_complex_images_are_two_channels_of_one_network(kind: str, make: Callable[..., Prior]) -> None:
    module, noising = known(kind, "v", make(torch.complex128, gain=2.0, offset=-1.0 - 1.0j))
    prior = FromModule(module, predicts="v", noising=noising, field="complex", gain=2.0, offset=-1.0)
    same(prior, make(torch.complex128), torch.complex128, 1e-9)


def test_a_network_of_one_channel_takes_both_parts_of_a_complex_image() -> None:
    module, noising = known("linear steps", "noise", mixture(torch.float64))
    prior = FromModule(module, predicts="noise", noising=noising, field="complex", channels=1)
    noisy, sigma = random((3, 2, *SHAPE), torch.complex128, "noisy"), torch.tensor([0.1, 0.5, 2.0]).reshape(3, 1, 1, 1)
    truth = mixture(torch.float64)
    expected = torch.complex(truth.denoise(noisy.real, sigma), truth.denoise(noisy.imag, sigma))
    torch.testing.assert_close(prior.denoise(noisy, sigma), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_every_image_has_a_noise_level_and_neighbours_of_its_own(dtype: torch.dtype) -> None:
    module, noising = known("preserving", "noise", field(dtype))
    prior = FromModule(module, predicts="noise", noising=noising, field="complex" if dtype.is_complex else "real", images_at_once=4)
    noisy, sigma = random((3, 2, *SHAPE), dtype, "noisy"), torch.tensor([0.1, 0.5, 2.0]).reshape(3, 1, 1, 1)
    together = prior.denoise(noisy, sigma)
    torch.testing.assert_close(together, field(dtype).denoise(noisy, sigma), rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.denoise(noisy[1, 0], sigma[1, 0]), together[1, 0], rtol=0, atol=1e-12)
    assert [len(t) for t in module.times] == [4, 2, 1]


def test_volumes_have_networks_of_three_axes() -> None:
    shape = (4, 6, 5)
    module, noising = known("flow", "flow", field(torch.complex128, shape))
    prior = FromModule(module, predicts="flow", noising=noising, field="complex", image_axes=3)
    same(prior, field(torch.complex128, shape), torch.complex128, 1e-9, shape)


def test_levels_outside_the_range_are_clamped_to_its_ends() -> None:
    module, noising = known("linear steps", "noise", field(torch.float64, gain=2.0, offset=-1.0))
    prior = FromModule(module, predicts="noise", noising=noising, gain=2.0, offset=-1.0)
    noisy = random((2, *SHAPE), torch.float64, "noisy")
    low, high = map(torch.tensor, (float(LINEAR[0]) / 2, float(LINEAR[-1]) / 2))
    for outside, end in ((0.0, low), (0.001, low), (500.0, high)):
        torch.testing.assert_close(prior.denoise(noisy, torch.tensor(outside)), field(torch.float64).denoise(noisy, end), rtol=0, atol=1e-6)
    each = prior.denoise(noisy, torch.tensor([0.001, 1.0]).reshape(2, 1, 1))
    torch.testing.assert_close(each[1], field(torch.float64).denoise(noisy[1], torch.tensor(1.0)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_methods_differentiate_through_it(channels: int, checkpoint: bool) -> None:
    dtype = torch.complex128
    own = dtype if channels == 2 else torch.float64
    module, noising = known("cosine steps", "v", field(own))
    prior = FromModule(module, predicts="v", noising=noising, field="complex", channels=channels, images_at_once=1)
    noisy, v, sigma = random((2, *SHAPE), dtype, "noisy"), random((2, *SHAPE), dtype, "v"), torch.tensor(0.4)
    _, transposed = differentiated(prior, noisy, sigma, checkpoint=checkpoint)
    _, expected = differentiated(field(dtype), noisy, sigma)
    torch.testing.assert_close(transposed(v), expected(v), rtol=0, atol=1e-9)


def test_a_sampler_cannot_tell_it_from_the_prior_that_it_wraps() -> None:
    module, noising = known("linear steps", "noise", mixture(torch.complex128, gain=2.0, offset=-1.0 - 1.0j))
    prior = FromModule(module, predicts="noise", noising=noising, field="complex", gain=2.0, offset=-1.0)
    sigmas = edm_levels(12, 20.0, 0.02)
    start = sigmas[0] * random((3, *SHAPE), torch.complex128, "start")

    def end(steps: Iterator) -> Tensor:
        *_, last = (step for step, _ in zip(steps, sigmas[1:], strict=False))
        return last.x

    with torch.no_grad():
        found, expected = (end(euler(p, start, sigmas, torch.zeros_like)) for p in (prior, mixture(torch.complex128)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_what_a_network_is_told_is_a_function_of_the_time() -> None:
    truth, noisy = field(torch.float64), random((1, *SHAPE), torch.float64, "noisy")
    cases: list[tuple[Noising, Callable, Callable, Callable, str]] = [
        (VarianceExploding(0.002, 80.0), lambda t: t.log() / 4, lambda c: torch.exp(4 * c), torch.ones_like, "clean"),
        (VariancePreserving(), lambda t: 999 * t, lambda c: KINDS["preserving"][1](c / 999), preserved, "noise"),
        (RectifiedFlow(), lambda t: 1 - t, lambda c: (1 - c) / c, KINDS["flow"][2], "velocity"),
    ]
    for noising, told, level, amplitude, predicts in cases:
        prior = FromModule(Known(truth, predicts, level, amplitude), predicts=predicts, noising=noising, told=told)
        torch.testing.assert_close(prior.denoise(noisy, torch.tensor(0.4)), truth.denoise(noisy, torch.tensor(0.4)), rtol=0, atol=1e-9)


def test_whole_steps_are_the_nearest_ones() -> None:
    module, noising = known("linear steps", "noise", field(torch.float64))
    prior = FromModule(module, predicts="noise", noising=noising, told=whole)
    between = torch.tensor(np.exp(0.7 * np.log(LINEAR[300]) + 0.3 * np.log(LINEAR[301])))
    prior.denoise(random((1, *SHAPE), torch.float64, "noisy"), between)
    assert module.times[0].tolist() == [300]
    assert module.times[0].dtype == torch.int64


class Halving(nn.Module):
    """Wants even sizes and half precision, learns variances too: (mean, variance) of the image unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.bfloat16))
        self.sizes: list[tuple[int, ...]] = []
        self.times: list[Tensor] = []

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        assert image.dtype == torch.bfloat16
        assert not self.training
        self.sizes.append(tuple(image.shape))
        self.times.append(time)
        return torch.cat([self.weight * image, torch.full_like(image, 7.0)], 1)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_sizes_are_padded_variances_dropped_and_precision_kept(kind: str) -> None:
    module = Halving()
    prior = FromModule(module, predicts="clean", noising=ddpm_linear(), field=kind, multiple=4)
    noisy = random((2, 7, 9), torch.complex64 if kind == "complex" else torch.float32, "noisy")
    found = prior.denoise(noisy, torch.tensor(150.0))
    assert module.sizes == [(2, 2 if kind == "complex" else 1, 8, 12)]
    torch.testing.assert_close(found, noisy / (1 + 150.0**2) ** 0.5, rtol=0.02, atol=1e-4)
    # 993.95 in bfloat16 would be 992.
    assert float(module.times[0][0]) == pytest.approx(np.interp(np.log(150), np.log(LINEAR), np.arange(1000)), abs=0.01)


def test_facts_of_the_images_are_stated() -> None:
    module, noising = known("exploding", "clean", field(torch.float32))
    prior = FromModule(
        module, predicts="clean", noising=noising, data_std=0.2, domain_name="knee", error_curve=((0.1, 0.004), (1.0, 0.04)), pixel_bytes=10
    )
    assert (prior.data_std, prior.domain_name, prior.workspace(20, 100)) == (0.2, "knee", 8 * 100 * 10)
    assert float(prior.error(torch.tensor(1.0))) == pytest.approx(0.04)
    plain = FromModule(module, predicts="clean", noising=noising, data_std=0.2)
    assert float(plain.error(torch.tensor(0.2))) == pytest.approx(0.02)


@pytest.mark.parametrize(("kind", "gain", "offset"), [("real", 1.0, 0.0), ("complex", 0.5, 0.5 + 0.5j)])
def test_a_denoiser_of_deepinverse_sees_images_of_zero_to_one(kind: str, gain: float, offset: complex) -> None:
    dtype = torch.complex128 if kind == "complex" else torch.float64
    denoiser = Known(mixture(dtype, gain, offset), "clean", lambda sigma: sigma, torch.ones_like)
    prior = from_deepinverse(denoiser, (0.001, 10.0), field=kind)
    same(prior, mixture(dtype), dtype, 1e-9)
    assert prior.sigma_range == pytest.approx((0.001 / gain, 10.0 / gain))


@pytest.mark.peer
@pytest.mark.parametrize("channels", [1, 2])
def test_deepinverses_own_denoiser_is_called_as_it_wants(channels: int) -> None:
    try:
        from deepinv.models import DRUNet
    except (ImportError, RuntimeError):
        pytest.skip("deepinv is not installed, or its torchvision is of another torch")
    torch.manual_seed(0)
    drunet = DRUNet(channels, channels, nc=[4, 4, 4, 4], nb=1, pretrained=None)
    prior = from_deepinverse(drunet, (0.002, 1.0), field="complex", channels=channels, gain=1.0, offset=0.0)
    noisy, sigma = random((2, 40, 32), torch.complex64, "noisy"), torch.tensor([0.1, 0.3]).reshape(2, 1, 1)
    with torch.no_grad():
        both = torch.stack([noisy.real, noisy.imag], 1)
        levels = sigma.flatten().repeat_interleave(2 // channels)
        expected = drunet(both.reshape(-1, channels, 40, 32), levels).reshape(both.shape)
        torch.testing.assert_close(prior.denoise(noisy, sigma), torch.complex(expected[:, 0], expected[:, 1]), rtol=0, atol=1e-5)


class Answers(nn.Module):
    """Returns what it is made with."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor, time: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"predicts": "eps"}, "predicts = 'eps'.*noise"),
        ({"predicts": "nose"}, "did you mean 'noise'"),
        ({"field": "quaternion"}, "real or complex"),
        ({"channels": 3}, "channels = 3"),
        ({"channels": 2}, "takes 1"),
        ({"gain": 0.0}, "gain = 0.0"),
        ({"error_curve": ((0.1, 0.2),)}, "at least two"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FromModule(Answers(None), **{"predicts": "clean", "noising": VarianceExploding(0.01, 1.0), **settings})


def test_wrong_images_and_wrong_answers_are_refused() -> None:
    def prior(answer: object) -> FromModule:
        return FromModule(Answers(answer), predicts="clean", noising=VarianceExploding(0.01, 1.0))

    noisy, sigma = torch.zeros(2, *SHAPE), torch.tensor(0.1)
    with pytest.raises(BadInput, match="complex"):
        prior(torch.zeros(2, 1, *SHAPE)).denoise(noisy + 0j, sigma)
    with pytest.raises(BadInput, match="tuple"):
        prior((torch.zeros(2, 1, *SHAPE),)).denoise(noisy, sigma)
    with pytest.raises(BadInput, match="multiple=8"):
        prior(torch.zeros(2, 3, *SHAPE)).denoise(noisy, sigma)
    with pytest.raises(BadInput, match="multiple=8"):
        prior(torch.zeros(2, 1, 6, 4)).denoise(noisy, sigma)


def test_the_example_of_the_guide_pads_denoises_and_cuts() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "priors.md"
    names: dict[str, Any] = {}
    (block,) = [part.split("```")[0] for part in guide.read_text("utf-8").split("```python\n")[1:] if "FromModule" in part.split("```")[0]]
    exec(block, names)
    assert names["clean"].shape == (3, 100, 90)
