"""The network prior: preconditioning, any size and batch, error curve, intensity scale, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior.channels import from_channels, to_channels
from medrecon.prior.denoiser import Prior
from medrecon.prior.losses import DenoisingLoss, LogNormal
from medrecon.prior.network import NETWORKS, Block, UNet
from medrecon.prior.precision import BFloat16
from medrecon.prior.precondition import NetworkPrior, preconditioned


def small_network(channels: int = 2, *, trained: bool = True) -> UNet:
    """Three levels, a few thousand weights; `trained`: with a head that is not zero."""
    torch.manual_seed(3)
    network = UNet(channels, (6, 8, 10), (1, 1, 1), embedding=16)
    if trained:
        nn.init.normal_(network.head.weight, std=0.05)
    return network.requires_grad_(False)


def small_prior(field: str = "complex", **settings: object) -> NetworkPrior:
    network = small_network(2 if field == "complex" else 1)
    return NetworkPrior(network, field=field, sigma_data=0.3, sigma_range=(0.002, 20.0), **settings)  # type: ignore[arg-type]


def noisy_images(count: int, *shape: int) -> Tensor:
    return 0.3 * random((count, *shape), torch.complex64, "images")


def test_channels_are_real_and_imaginary_parts_and_keep_inner_products() -> None:
    a, b = (random((3, 5, 4), torch.complex64, name) for name in "ab")
    assert torch.equal(from_channels(to_channels(a)), a)
    assert torch.equal(to_channels(a)[:, 1], a.imag)
    assert torch.equal(from_channels(to_channels(a.real)), a.real)
    assert float((to_channels(a) * to_channels(b)).sum()) == pytest.approx(float((a.conj() * b).sum().real), rel=1e-5)


def test_an_untrained_network_is_the_scalar_wiener_filter() -> None:
    noisy, sigma = torch.randn(4, 2, 12, 12), torch.tensor([0.01, 0.1, 1.0, 20.0])
    found = preconditioned(small_network(trained=False), noisy, sigma, 0.3)
    torch.testing.assert_close(found, (0.09 / (0.09 + sigma**2))[:, None, None, None] * noisy)


def test_the_loss_of_an_untrained_network_is_one() -> None:
    loss = DenoisingLoss(0.3)
    clean = 0.3 * torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(loss(small_network(trained=False), clean, torch.Generator().manual_seed(1))) == pytest.approx(1, abs=0.2)


def test_levels_are_log_normal_one_in_each_part_of_a_batch() -> None:
    levels = LogNormal()(4096, torch.Generator().manual_seed(0)).log()
    assert float(levels.mean()) == pytest.approx(-1.8, abs=0.02)
    assert float(levels.std()) == pytest.approx(1.3, abs=0.03)
    edges = torch.special.ndtri(torch.arange(1, 8) / 8) * 1.3 - 1.8
    drawn = LogNormal()(8, torch.Generator().manual_seed(1)).log()
    assert torch.bucketize(drawn, edges).tolist() == list(range(8))


@pytest.mark.parametrize("shape", [(32, 32), (33, 33), (31, 57), (2, 3), (5, 64)])
def test_any_size_is_denoised(shape: tuple[int, int]) -> None:
    found = small_prior().denoise(noisy_images(2, *shape), torch.tensor(0.1))
    assert found.shape == (2, *shape)
    assert bool(torch.isfinite(torch.view_as_real(found)).all())


def test_far_pixels_do_not_matter_so_a_crop_has_no_seam() -> None:
    """The centre of a large image is denoised as in a smaller one around it: no tiling, no statistics of the image."""
    prior, image = small_prior(), noisy_images(1, 128, 128)
    whole = prior.denoise(image, torch.tensor(0.2))
    part = prior.denoise(image[:, 16:112, 16:112], torch.tensor(0.2))
    torch.testing.assert_close(part[:, 32:64, 32:64], whole[:, 48:80, 48:80], atol=1e-6, rtol=1e-5)


def test_a_batch_may_be_split_anywhere() -> None:
    images, levels = noisy_images(6, 16, 16), torch.linspace(0.05, 2, 6).reshape(6, 1, 1)
    whole = small_prior(images_at_once=8).denoise(images, levels)
    parts = small_prior(images_at_once=2).denoise(images, levels)
    single = torch.cat([small_prior().denoise(images[i : i + 1], levels[i, 0, 0]) for i in range(6)])
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(single, whole, atol=1e-6, rtol=1e-5)


def test_sigma_is_one_number_or_one_for_each_item() -> None:
    prior, images = small_prior(), noisy_images(6, 12, 12)
    one = prior.denoise(images, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(prior.denoise(images, torch.full((6, 1, 1), 0.3)), one)
    torch.testing.assert_close(prior.denoise(images, 0.3), one)  # type: ignore[arg-type]
    stacked = prior.denoise(images.reshape(2, 3, 12, 12), torch.full((3, 1, 1), 0.3))
    torch.testing.assert_close(stacked, one.reshape(2, 3, 12, 12))


def test_images_keep_their_precision() -> None:
    images = noisy_images(1, 12, 12)
    found = small_prior().denoise(images.to(torch.complex128), torch.tensor(0.3))
    assert found.dtype == torch.complex128
    torch.testing.assert_close(found.to(torch.complex64), small_prior().denoise(images, torch.tensor(0.3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("field", "images"), [("complex", torch.zeros(1, 8, 8)), ("real", torch.zeros(1, 8, 8, dtype=torch.complex64))])
def test_images_of_the_other_field_are_refused(field: str, images: Tensor) -> None:
    with pytest.raises(BadInput, match=f"denoises {field} images"):
        small_prior(field).denoise(images, torch.tensor(0.1))


def test_real_images_have_one_channel() -> None:
    found = small_prior("real").denoise(torch.randn(2, 9, 9), torch.tensor(0.1))
    assert found.dtype == torch.float32
    assert found.shape == (2, 9, 9)


def test_levels_beyond_the_trained_ones_are_taken_as_the_nearest() -> None:
    prior, images = small_prior(), noisy_images(1, 12, 12)
    torch.testing.assert_close(prior.denoise(images, torch.tensor(50.0)), prior.denoise(images, torch.tensor(20.0)))


CURVE = ((0.1, 0.004), (1.0, 0.04), (10.0, 0.05))


def test_the_error_is_the_curve_between_its_points_and_beyond() -> None:
    prior = small_prior(error_curve=CURVE)
    sigma = torch.tensor([0.1, 1.0, 10.0, math.sqrt(0.1), 0.01, 100.0], dtype=torch.float64)
    expected = [0.004, 0.04, 0.05, math.sqrt(0.004 * 0.04), 0.004 / 100, 0.05]
    assert prior.error(sigma).tolist() == pytest.approx(expected, rel=1e-9)
    assert prior.error(sigma.reshape(6, 1, 1)).shape == (6, 1, 1)
    assert prior.error(torch.tensor(1.0)).dtype == torch.float32
    assert float(prior.error(1)) == pytest.approx(0.04)  # type: ignore[arg-type]


def test_without_a_curve_the_error_is_that_of_white_images() -> None:
    assert float(small_prior().error(torch.tensor(0.3))) == pytest.approx(0.045)


@pytest.mark.parametrize(
    "settings",
    [
        {"error_curve": ((0.1, 0.004),)},
        {"error_curve": ((0.1, 0.004), (1.0, -1.0))},
        {"error_curve": ((0.1, 0.004), (1.0, math.nan))},
        {"error_curve": ((0.1, 0.004), (0.1, 0.005))},
    ],
)
def test_an_impossible_error_curve_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="error curve"):
        small_prior(**settings)


def test_impossible_facts_are_refused() -> None:
    with pytest.raises(BadInput, match="field 'quaternion'"):
        NetworkPrior(small_network(), field="quaternion", sigma_data=0.3, sigma_range=(0.01, 1.0))
    with pytest.raises(BadInput, match="sigma_data = -1"):
        NetworkPrior(small_network(), field="complex", sigma_data=-1, sigma_range=(0.01, 1.0))


def test_the_intensity_scale_is_interpolated_over_calibration_lines() -> None:
    prior = small_prior(kappas=((24, 0.85), (8, 0.7), (16, 0.8)))
    assert [prior.scale(n) for n in (8, 12, 16, 20, 24)] == pytest.approx([0.7, 0.75, 0.8, 0.825, 0.85])
    assert prior.scale(4) == 0.7
    assert prior.scale(400) == prior.scale(None) == 0.85
    assert small_prior().scale(8) == 1.0


class Wiener(Prior):
    """The best denoiser of a stationary Gaussian with spectrum (y, x), for channel images in training."""

    def __init__(self, spectrum: Tensor) -> None:
        super().__init__()
        self.spectrum = spectrum

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(noisy) * self.spectrum / (self.spectrum + sigma**2)).to(noisy)


@pytest.mark.slow
def test_a_network_trained_on_a_gaussian_field_approaches_the_wiener_filter() -> None:
    """A few hundred steps on samples of a stationary field: close to the least possible error, far below a scalar filter."""
    n, generator = 24, torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(n)
    spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) / 0.1**2) ** 1.5
    spectrum = 0.09 * spectrum / spectrum.mean()

    def fields(count: int) -> Tensor:
        noise = torch.randn(count, 2, n, n, generator=generator)
        return torch.fft.ifft2(torch.fft.fft2(noise) * spectrum.sqrt()).real

    torch.manual_seed(0)
    network = UNet(2, (16, 24), (1, 1), embedding=32)
    loss, optimiser = DenoisingLoss(0.3), torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 400)
        value = loss(network, fields(16), generator)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    prior = NetworkPrior(network.eval().requires_grad_(False), field="complex", sigma_data=0.3, sigma_range=(0.002, 20.0))
    clean = from_channels(fields(64))
    for sigma in (0.05, 0.2, 1.0):
        noisy = clean + sigma * random(tuple(clean.shape), torch.complex64, f"noise {sigma}")
        learnt, best = (float((p.denoise(noisy, torch.tensor(sigma)) - clean).abs().square().mean()) for p in (prior, Wiener(spectrum)))
        scalar = float((noisy * 0.09 / (0.09 + sigma**2) - clean).abs().square().mean())
        assert learnt < best + 0.15 * (scalar - best), (sigma, learnt, best, scalar)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_knows_the_noise_level(kind: torch.dtype) -> None:
    """Sines of up to 100 ln(sigma)/4: rounded before the product, they would be those of another level."""
    seen: list[Tensor] = []
    for network in (small_network(), small_network().to(kind)):
        network.level.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
        found = preconditioned(network, torch.ones(4, 2, 8, 8), torch.tensor([0.003, 0.05, 0.7, 18.0]), 0.3)
        assert found.dtype == torch.float32
    torch.testing.assert_close(seen[1], seen[0], atol=0.004, rtol=0)


def level_bound(network: UNet) -> UNet:
    """The network with blocks that depend on the noise level, as trained ones do."""
    for block in network.modules():
        if isinstance(block, Block):
            nn.init.normal_(block.film.weight, std=1.0)
            nn.init.normal_(block.second.weight, std=0.2)
    return network


def test_autocast_leaves_the_denoiser_nearly_as_it_is() -> None:
    network = level_bound(small_network())
    x, sigma = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.05, 0.7])
    found = preconditioned(BFloat16(network), x, sigma, 0.3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, preconditioned(network, x, sigma, 0.3), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_every_configuration_takes_images_of_any_size(name: str, shape: tuple[int, int]) -> None:
    network = UNet(1, **NETWORKS[name])
    torch.nn.init.normal_(network.head.weight, std=0.1)
    with torch.no_grad():
        found = network(torch.randn(1, 1, *shape), torch.zeros(1))
    assert found.shape == (1, 1, *shape)
    assert bool(found.isfinite().all())


def test_the_large_configuration_is_within_three_times_the_limit_of_shipped_weights() -> None:
    sizes = {name: sum(p.numel() for p in UNet(2, **settings).parameters()) for name, settings in NETWORKS.items()}
    assert 4 * sizes["unet_full"] < 16 * 2**20
    assert 4 * sizes["large"] < 3 * 16 * 2**20
    assert 4 <= sizes["large"] / sizes["unet_full"] <= 8
