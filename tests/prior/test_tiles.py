"""Tiling: where tiles lie, that they blend to what they should, and that exact tiles change nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.laws import random
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import GaussianMixture
from medrecon.prior.jacobian import differentiated
from medrecon.prior.network import Block
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.quantise import quantised
from medrecon.prior.tiles import Tiled, exactly_tiled, placed, windows
from tests.prior.test_network import small_network, small_prior

SIGMA = torch.tensor(0.3, dtype=torch.float64)


class Pixelwise(Prior):
    """Shrinks every pixel by its magnitude; counts the images of each call."""

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.image_axes, self.sizes = axes, list[int]()

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.sizes.append(noisy.shape[: noisy.ndim - self.image_axes].numel())
        power = noisy.abs().square()
        return noisy * power / (power + sigma**2)


class Local(Prior):
    """Mean over 5 x 5 pixels, zeros beyond the border, then tanh: sees 2 pixels far, wherever it stands."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        mean = F.avg_pool2d(noisy.reshape(-1, 1, *noisy.shape[-2:]), 5, 1, 2).reshape(noisy.shape)
        return (mean / sigma).tanh()


def doubled(field: str = "complex") -> NetworkPrior:
    """The small network in float64 with blocks that matter: it sees 25 pixels far and has a grid of 4."""
    network = small_network(2 if field == "complex" else 1).double()
    for block in network.modules():
        if isinstance(block, Block):
            block.second.weight *= 6
    return NetworkPrior(network, field=field, sigma_data=0.3, sigma_range=(0.002, 20.0))


@pytest.mark.parametrize(("n", "tile", "overlap", "grid"), [(50, 20, 8, 1), (53, 16, 12, 4), (17, 16, 8, 4), (64, 16, 0, 8), (9, 16, 8, 1)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("margin", [0, 3])
def test_tiles_cover_the_image_and_their_weights_add_to_one(n: int, tile: int, overlap: int, grid: int, share: float, margin: int) -> None:
    stride = tile - overlap
    offset = int(share * stride / grid) * grid
    spans = placed(n, tile, stride, offset, grid)
    margin = min(margin, overlap // 2)
    weights = windows(n, spans, overlap, margin)
    total = torch.zeros(n, dtype=torch.float64)
    for (start, stop), weight in zip(spans, weights, strict=True):
        assert start % grid == 0
        assert 0 <= start < stop <= n
        assert stop - start <= tile
        total[start:stop] += weight
        assert start == 0 or bool((weight[:margin] == 0).all())
        assert stop == n or bool((weight[len(weight) - margin :] == 0).all())
    torch.testing.assert_close(total, torch.ones_like(total))
    assert spans[0][0] == 0
    assert spans[-1][1] == n
    assert float(weights[0][0]) == float(weights[-1][-1]) == 1
    for (_, stop), (start, _) in itertools.pairwise(spans):
        assert stop - start >= overlap


def test_tiles_stand_on_the_grid_of_the_network_inside() -> None:
    assert Tiled(doubled(), 32).grid == Tiled(quantised(doubled()), 32).grid == 4
    assert Tiled(Pixelwise(), 32).grid == 1


def test_a_tile_as_large_as_the_image_changes_nothing() -> None:
    prior, noisy = small_prior(), 0.3 * random((2, 24, 20), torch.complex64, "noisy")
    for tile in (24, 100, (24, 20)):
        torch.testing.assert_close(Tiled(prior, tile).denoise(noisy, SIGMA), prior.denoise(noisy, SIGMA), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("shape", "tile"), [((31, 45), 16), ((31, 45), (8, 45)), ((7, 12, 19), (4, 8, 8)), ((40,), 9)])
def test_a_pixelwise_denoiser_is_tiled_exactly(shape: tuple[int, ...], tile: int | Sequence[int], dtype: torch.dtype) -> None:
    """In 1, 2 and 3 dimensions, at every call of a run, each image with its own noise level."""
    prior, noisy = Pixelwise(len(shape)), random((2, 3, *shape), dtype, "noisy")
    tiled = Tiled(prior, tile)
    for sigma in (SIGMA, torch.linspace(0.1, 2, 3, dtype=torch.float64).reshape(3, *[1] * len(shape))):
        for _ in range(3):
            torch.testing.assert_close(tiled.denoise(noisy, sigma), prior.denoise(noisy, sigma), atol=1e-12, rtol=1e-12)


def test_a_local_shift_equivariant_denoiser_is_tiled_exactly_with_its_margin() -> None:
    prior, noisy = Local(), random((2, 37, 50), torch.float64, "noisy")
    whole = prior.denoise(noisy, SIGMA)
    tiled = Tiled(prior, 16, overlap=6, margin=2)
    for _ in range(4):
        torch.testing.assert_close(tiled.denoise(noisy, SIGMA), whole, atol=1e-12, rtol=1e-12)
    assert not torch.allclose(Tiled(prior, 16, overlap=6).denoise(noisy, SIGMA), whole, atol=1e-3)


@pytest.mark.parametrize("field", ["complex", "real"])
@pytest.mark.parametrize("shape", [(120, 107), (64, 181)])
def test_exact_tiles_of_a_network_change_nothing(field: str, shape: tuple[int, int]) -> None:
    """Up to the border, for sizes that are no multiples of the grid."""
    prior = doubled(field)
    noisy = 0.3 * random((2, *shape), torch.complex128 if field == "complex" else torch.float64, "noisy")
    levels = torch.tensor([0.1, 0.5], dtype=torch.float64).reshape(2, 1, 1)
    tiled = exactly_tiled(prior, 72)
    torch.testing.assert_close(tiled.denoise(noisy, levels), prior.denoise(noisy, levels), atol=1e-11, rtol=1e-9)


def test_a_smaller_margin_than_the_network_sees_is_not_exact() -> None:
    prior, noisy = doubled(), 0.3 * random((1, 120, 120), torch.complex128, "noisy")
    whole = prior.denoise(noisy, SIGMA)
    for margin in (8, 16, 20):
        near = Tiled(prior, 72, overlap=52, offset=0, margin=margin).denoise(noisy, SIGMA)
        assert float((near - whole).abs().max()) > 1e-9


def test_there_are_no_seams() -> None:
    """Across the borders of tiles the image changes as much as within, though single tiles do not fit together."""
    prior, noisy = doubled(), 0.3 * random((4, 96, 96), torch.complex128, "noisy")
    whole = prior.denoise(noisy, SIGMA)

    def jumps(tiled: Tiled) -> tuple[float, float]:
        """RMS difference of neighbouring pixels of the error: at the borders of tiles and elsewhere."""
        error = tiled.denoise(noisy, SIGMA) - whole
        squared = error.diff(dim=-1).abs().square().mean((0, 1))
        stride = tiled.tile[1] - tiled.overlap[1]
        borders = sorted({b - 1 for k in range(1, 96 // stride) for b in (k * stride, k * stride + tiled.overlap[1]) if b < 96})
        inside = torch.ones(95, dtype=torch.bool)
        inside[borders] = False
        return float(squared[borders].mean().sqrt()), float(squared[inside].mean().sqrt())

    at_borders, within = jumps(Tiled(prior, 32, offset=0))
    assert at_borders < 1.2 * within
    hard, quiet = jumps(Tiled(prior, 32, overlap=0, offset=0))
    assert hard > 3 * quiet
    assert at_borders < 0.2 * hard


def test_the_offset_moves_with_every_call_and_is_the_same_in_every_run() -> None:
    prior, noisy = doubled(), 0.3 * random((1, 64, 64), torch.complex128, "noisy")
    tiled = Tiled(prior, 32)
    levels = torch.tensor([1.0, 0.8, 0.6, 0.4], dtype=torch.float64)
    first, second = ([tiled.denoise(noisy, s) for s in levels] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    one, other = (Tiled(prior, 32) for _ in range(2))
    one.denoise(noisy, levels[0])
    assert not torch.equal(one.denoise(noisy, levels[1]), other.denoise(noisy, levels[1]))
    fixed = Tiled(prior, 32, grid=4, offset=(4, 8))
    assert torch.equal(fixed.denoise(noisy, levels[0]), fixed.denoise(noisy, levels[0]))


def test_only_so_many_tiles_are_denoised_together() -> None:
    prior = Pixelwise()
    Tiled(prior, 8, images_at_once=6).denoise(random((2, 40, 40), torch.float64, "noisy"), SIGMA)
    assert max(prior.sizes) == 6
    assert sum(prior.sizes) == 2 * 9 * 9
    prior.sizes.clear()
    Tiled(prior, 8, images_at_once=1).denoise(random((3, 20, 20), torch.float64, "noisy"), SIGMA)
    assert set(prior.sizes) == {3}


def test_images_are_tiled_independently_of_their_batch() -> None:
    prior, noisy = doubled(), 0.3 * random((3, 50, 40), torch.complex128, "noisy")
    together = Tiled(prior, 24).denoise(noisy, SIGMA)
    for i in range(3):
        torch.testing.assert_close(Tiled(prior, 24).denoise(noisy[i], SIGMA), together[i], atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_gradient_passes_through_the_tiles(checkpoint: bool) -> None:
    """J^H of exact tiles is that of the whole image; of others, the transpose of the finite difference."""
    prior, noisy = doubled(), 0.3 * random((2, 88, 76), torch.complex128, "noisy")
    v, direction = (random(noisy.shape, noisy.dtype, name) for name in ("v", "direction"))
    _, whole = differentiated(prior, noisy, SIGMA)
    _, tiles = differentiated(exactly_tiled(prior, 72), noisy, SIGMA, checkpoint=checkpoint)
    torch.testing.assert_close(tiles(v), whole(v), atol=1e-10, rtol=1e-8)
    rough = Tiled(prior, 32, grid=4, offset=4)
    _, transposed = differentiated(rough, noisy, SIGMA, checkpoint=checkpoint)
    step = 1e-5
    change = (rough.denoise(noisy + step * direction, SIGMA) - rough.denoise(noisy - step * direction, SIGMA)) / (2 * step)
    left, right = (float((a.conj() * b).sum().real) for a, b in ((v, change), (transposed(v), direction)))
    assert left == pytest.approx(right, rel=1e-6)


def test_memory_does_not_grow_with_the_image() -> None:
    tiled = Tiled(small_prior(pixel_bytes=900), 64, images_at_once=4)
    assert tiled.workspace(1, 512 * 512) == tiled.workspace(1, 4096 * 4096) < small_prior(pixel_bytes=900).workspace(1, 512 * 512)


def test_a_closed_form_prior_with_a_level_for_each_image_may_be_tiled() -> None:
    means = random((3, 4, 4), torch.float64, "means")
    prior = GaussianMixture([0.2, 0.5, 0.3], means, [0.1, 0.2, 0.3])
    noisy, levels = random((5, 4, 4), torch.float64, "noisy"), torch.linspace(0.1, 2, 5, dtype=torch.float64).reshape(5, 1, 1)
    torch.testing.assert_close(Tiled(prior, 4).denoise(noisy, levels), prior.denoise(noisy, levels))


def test_tiles_that_cannot_be_are_refused() -> None:
    prior = doubled()
    with pytest.raises(BadInput, match="2 margin <= overlap < tile"):
        Tiled(prior, 32, overlap=32)
    with pytest.raises(BadInput, match="2 margin <= overlap < tile"):
        exactly_tiled(prior, 48)
    with pytest.raises(BadInput, match="multiples of grid = 4"):
        Tiled(prior, 30)
    with pytest.raises(BadInput, match="one for each of 2 axes"):
        Tiled(prior, (8, 8, 8))
    with pytest.raises(NotSupported, match="how far it sees"):
        exactly_tiled(Pixelwise(), 64)  # type: ignore[arg-type]
    assert math.isinf(Tiled(Pixelwise(), 8).sigma_range[1])
