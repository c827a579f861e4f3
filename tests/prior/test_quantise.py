"""Weights in 8 bits: near the original, a quarter of the memory, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.laws import random
from medrecon.prior.jacobian import differentiated
from medrecon.prior.network import UNet
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.quantise import IntegerLayer, quantised, rounded
from medrecon.prior.store import load
from tests.prior.test_network import noisy_images, small_prior


def weight_bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("field", ["complex", "real"])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 1.0])
def test_the_error_is_below_two_percent_of_the_noise(field: str, sigma: float) -> None:
    prior, level = small_prior(field), torch.tensor(sigma)
    noisy = noisy_images(2, 32, 32)
    noisy = noisy if field == "complex" else noisy.real.contiguous()
    difference = quantised(prior).denoise(noisy, level) - prior.denoise(noisy, level)
    rms = float(difference.abs().square().mean().sqrt()) / sigma
    assert 0 < rms < 0.02


def test_the_shipped_prior_keeps_its_promise_in_8_bits() -> None:
    prior = load("brain")
    light = quantised(prior)
    assert weight_bytes(light) < 0.27 * weight_bytes(prior)
    smooth = torch.linspace(0, 3, 48).sin()[:, None] * torch.linspace(0.5, 2.5, 48).cos() * torch.ones((), dtype=torch.complex64)
    for sigma in (0.02, 0.1, 1.0):
        noisy, level = (smooth + sigma * random(smooth.shape, torch.complex64, "noise"))[None], torch.tensor(sigma)
        difference = light.denoise(noisy, level) - prior.denoise(noisy, level)
        assert float(difference.abs().square().mean() / 2) ** 0.5 < 0.02 * sigma


def test_the_original_is_untouched_and_facts_are_forwarded() -> None:
    prior, noisy = small_prior(error_curve=((0.1, 0.004), (1.0, 0.04))), noisy_images(1, 16, 16)
    before = prior.denoise(noisy, torch.tensor(0.2))
    light = quantised(prior)
    assert torch.equal(prior.denoise(noisy, torch.tensor(0.2)), before)
    assert not any(isinstance(m, IntegerLayer) for m in prior.modules())
    assert (light.field, light.sigma_range, light.data_std) == (prior.field, prior.sigma_range, prior.data_std)
    torch.testing.assert_close(light.error(torch.tensor(0.3)), prior.error(torch.tensor(0.3)))


def test_the_first_and_last_layer_and_the_noise_level_stay_as_they_are() -> None:
    prior = small_prior()
    network = quantised(prior).prior.network
    for name in ("stem.weight", "head.weight", "level.0.weight", "level.2.weight"):
        assert torch.equal(network.get_parameter(name), prior.network.get_parameter(name))
    assert all(b.dtype == torch.int8 for name, b in network.named_buffers() if name.endswith("integers"))
    kinds = {type(m) for name, m in network.named_modules() if name.split(".")[0] not in ("level", "stem", "head")}
    assert not kinds & {nn.Conv2d, nn.ConvTranspose2d, nn.Linear}


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), torch.randn(2, 4, 5, 5)),
        (nn.Linear(5, 3, bias=False), torch.randn(2, 5)),
    ],
)
def test_layers_compute_what_they_did(layer: nn.Module, image: torch.Tensor) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = layer

    prior = NetworkPrior(Single(), field="real", sigma_data=1.0, sigma_range=(0.1, 1.0))
    integer = quantised(prior, keep=()).prior.network.only
    assert isinstance(integer, IntegerLayer)
    expected = layer(image).detach()
    torch.testing.assert_close(integer(image), expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    exact = (integer.integers * integer.steps).float()
    layer.weight.data.copy_(exact)
    torch.testing.assert_close(integer(image), layer(image))


def test_rounding_is_no_worse_than_without_clipping_and_better_with_an_outlier() -> None:
    weight = random((5, 400), torch.float32, "weight")
    weight[0, 0] = 12.0
    for bits in (4, 8):
        integers, steps = rounded(weight, 0, bits)
        top = 2 ** (bits - 1) - 1
        plain = weight.abs().amax(1, keepdim=True) / top
        found = (integers * steps - weight).square().mean(1)
        unclipped = ((weight / plain).round() * plain - weight).square().mean(1)
        assert bool((found <= unclipped * 1.0001).all())
        assert int(integers.abs().max()) <= top
        if bits == 4:
            assert bool(found[0] < 0.9 * unclipped[0])


def test_a_channel_of_zeros_stays_zero() -> None:
    integers, steps = rounded(torch.zeros(2, 3), 0, 8)
    assert torch.equal(integers * steps, torch.zeros(2, 3))


def test_what_cannot_be_quantised_is_refused() -> None:
    prior = small_prior()
    with pytest.raises(NotSupported, match="cannot be differentiated"):
        differentiated(quantised(prior), noisy_images(1, 8, 8), torch.tensor(0.1))
    with pytest.raises(BadInput, match="bits = 16"):
        quantised(prior, 16)
    with pytest.raises(BadInput, match="no part tail"):
        quantised(prior, keep=("tail",))
    with pytest.raises(BadInput, match="no network weights"):
        quantised(quantised(prior))  # type: ignore[arg-type]
    assert isinstance(prior.network, UNet)
