"""Differentiation in bounded memory: the same gradients, little kept, in whichever thread the backward pass runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from medrecon.prior.jacobian import differentiated, recomputed
from medrecon.prior.network import UNet
from medrecon.prior.precondition import NetworkPrior
from tests.prior.test_network import noisy_images, small_network, small_prior

SIGMA = torch.tensor(0.2, dtype=torch.float64)


def kept_bytes(prior: NetworkPrior, noisy: Tensor, *, checkpoint: bool) -> int:
    """Bytes that the graph of one denoising holds, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        differentiated(prior, noisy, SIGMA, checkpoint=checkpoint)
    return sum(storages.values()) - sum(p.untyped_storage().nbytes() for p in prior.parameters() if p.data_ptr() in storages)


@pytest.mark.parametrize(("count", "field"), [(1, "complex"), (5, "complex"), (5, "real")])
def test_recomputed_gradients_are_the_same(count: int, field: str) -> None:
    prior = small_prior(field, images_at_once=2)
    noisy = noisy_images(count, 21, 18)
    noisy = noisy if field == "complex" else noisy.real.contiguous()
    mean, transposed = differentiated(prior, noisy, SIGMA)
    again, recomputed = differentiated(prior, noisy, SIGMA, checkpoint=True)
    torch.testing.assert_close(again, mean)
    for v in (noisy, torch.ones_like(noisy)):
        torch.testing.assert_close(recomputed(v), transposed(v), atol=1e-6, rtol=1e-6)
        assert bool(transposed(v).abs().amax() > 0.01)


def test_the_backward_pass_may_run_in_a_thread_of_its_own() -> None:
    """As it does on an accelerator: a new thread does not inherit that recomputation is in force."""
    prior, noisy = small_prior(images_at_once=2), noisy_images(5, 16, 16)
    _, transposed = differentiated(prior, noisy, SIGMA)
    _, recomputed = differentiated(prior, noisy, SIGMA, checkpoint=True)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(recomputed, noisy).result()
    torch.testing.assert_close(found, transposed(noisy), atol=1e-6, rtol=1e-6)


def test_one_large_image_keeps_a_fraction() -> None:
    prior, noisy = small_prior(), noisy_images(1, 128, 128)
    assert kept_bytes(prior, noisy, checkpoint=True) < kept_bytes(prior, noisy, checkpoint=False) / 4


def test_many_chunks_keep_their_inputs_only() -> None:
    prior, noisy = small_prior(images_at_once=2), noisy_images(8, 64, 64)
    inputs = noisy.numel() * noisy.element_size()
    # The mean needs the noisy image and the network its input: each chunk twice.
    assert kept_bytes(prior, noisy, checkpoint=True) < 2.5 * inputs
    assert kept_bytes(prior, noisy, checkpoint=False) > 30 * inputs


def test_gradients_of_weights_are_recomputed_too() -> None:
    network: UNet = small_network().requires_grad_(True)
    prior, noisy = NetworkPrior(network, field="complex", sigma_data=0.3, sigma_range=(0.002, 20.0)), noisy_images(2, 16, 16)
    found = []
    for checkpoint in (False, True):
        leaf = noisy.clone().requires_grad_()
        with recomputed(checkpoint):
            loss = prior.denoise(leaf, SIGMA).abs().square().sum()
        found.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain)


def test_the_radius_of_a_network_holds_and_is_needed() -> None:
    """Reach along an axis over all positions of a period of the grid, from the gradient of single pixels."""
    network = small_network().double()
    size, centre = 2 * network.radius + 40, network.radius + 16
    reach = 0
    for shift in range(network.grid):
        x = torch.randn(1, 2, 16, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = network(x, torch.zeros(1, dtype=torch.float64))[0, :, 8, centre + shift].sum()
        (gradient,) = torch.autograd.grad(out, x)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        reach = max(reach, int((seen - centre - shift).abs().max()))
    assert reach == network.radius
