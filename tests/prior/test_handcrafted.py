"""Priors by formula: equal to their definitions, covariant with scale, better than the noisy image, usable in a solver."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Identity, Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.physics.phantom import ellipse_image, shepp_logan
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.handcrafted import BY_NAME, Handcrafted, LocallyLowRank, NonLocalMeans, TotalVariationPrior, WaveletPrior
from medrecon.prior.handcrafted.locally_lowrank import places, shrunk_singular_values
from medrecon.prior.handcrafted.wavelet import shifts
from medrecon.prior.jacobian import differentiated
from medrecon.prior.store import available, card, load
from medrecon.recon.solve import solve
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.pdhg import pdhg
from medrecon.solvers.regularisers import TotalVariation

REAL, COMPLEX = torch.float64, torch.complex128
BOTH = pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])


def phantom(size: int, dtype: torch.dtype) -> Tensor:
    """Shepp-Logan of unit standard deviation per real component, complex with a linear phase."""
    image = ellipse_image(shepp_logan(), (size, size))
    if dtype.is_complex:
        image = torch.polar(image.abs(), torch.linspace(-1, 1, size, dtype=REAL).expand(size, size))
    return (image * (image.abs().square().mean() / (2 if dtype.is_complex else 1)).rsqrt()).to(dtype)


def images(prior: Handcrafted, size: int, dtype: torch.dtype) -> Tensor:
    """The phantom, or eight of it that decay at two rates."""
    still = phantom(size, dtype)
    if prior.image_axes == 2:
        return still
    t = torch.arange(8, dtype=REAL)[:, None, None]
    return (still * torch.exp(-t / 4) + still.flip(-1) * torch.exp(-t / 20)).to(dtype)


def made(name: str) -> Handcrafted:
    """With blocks that stay in place."""
    return LocallyLowRank(offset=(3, 1)) if name == "llr" else BY_NAME[name]()


@BOTH
@pytest.mark.parametrize("name", BY_NAME)
def test_each_image_is_denoised_by_itself_at_its_own_level_and_in_its_own_units(name: str, dtype: torch.dtype) -> None:
    prior = made(name)
    clean = images(prior, 41, dtype)[..., :38]
    noisy = clean + 0.3 * random(clean.shape, dtype, "noise")
    alone = prior.denoise(noisy, torch.tensor(0.3))
    assert (alone.dtype, alone.shape) == (dtype, noisy.shape)
    levels = torch.tensor([0.3, 0.1, 300.0]).reshape(1, 3, *[1] * prior.image_axes)
    batch = prior.denoise(torch.stack([noisy, noisy.flip(-1), 1000 * noisy]).expand(2, 3, *noisy.shape), levels)
    torch.testing.assert_close(batch[0, 0], alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(batch[1, 0], batch[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(batch[1, 2] / 1000, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch[0, 1], prior.denoise(noisy.flip(-1), torch.tensor(0.1)), rtol=1e-6, atol=1e-7)
    single = prior.denoise(noisy.to(torch.complex64 if dtype.is_complex else torch.float32), torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(single.to(dtype), alone, rtol=1e-3, atol=1e-3)


@BOTH
@pytest.mark.parametrize("name", BY_NAME)
def test_without_noise_nothing_changes_and_zero_stays_zero(name: str, dtype: torch.dtype) -> None:
    prior = made(name)
    clean = images(prior, 24, dtype)
    torch.testing.assert_close(prior.denoise(clean, torch.tensor(0.0)), clean, rtol=1e-9, atol=1e-9)
    assert not prior.denoise(torch.zeros_like(clean), torch.tensor(0.2)).any()


@BOTH
@pytest.mark.parametrize(("name", "gain"), [("tv", 7), ("wavelet", 4), ("nlm", 9), ("llr", 9)])
def test_a_phantom_gains_decibels(name: str, gain: float, dtype: torch.dtype) -> None:
    prior = BY_NAME[name]()
    clean = images(prior, 96, dtype)
    noisy = clean + 0.3 * random(clean.shape, dtype, "noise")
    left = (prior.denoise(noisy, torch.tensor(0.3)) - clean).abs().square().mean() / (noisy - clean).abs().square().mean()
    assert -10 * math.log10(float(left)) > gain


@BOTH
@pytest.mark.parametrize("name", BY_NAME)
def test_the_error_curve_is_within_a_factor_of_two_of_what_images_show(name: str, dtype: torch.dtype) -> None:
    prior = BY_NAME[name](field="complex" if dtype.is_complex else "real", data_std=1.0)
    k = torch.fft.fftfreq(96, dtype=REAL) * 96
    spectrum = 1 / (1 + k[:, None] ** 2 + k**2)
    field = StationaryGaussian(torch.zeros(96, 96, dtype=dtype), spectrum / spectrum.mean()).sample(random((96, 96), dtype, "texture"))
    texture = field if prior.image_axes == 2 else field * torch.linspace(1.5, 0.5, 8, dtype=REAL)[:, None, None]
    for level in (0.1, 0.5, 2.0):
        sigma, total = torch.tensor(level), 0.0
        for clean in (images(prior, 96, dtype), texture):
            noisy = clean + level * random(clean.shape, dtype, "noise")
            total += float((prior.denoise(noisy, sigma) - clean).abs().square().mean()) / (2 if dtype.is_complex else 1)
        assert 0.5 < total / 2 / float(prior.error(sigma)) < 2


@pytest.mark.parametrize("name", BY_NAME)
def test_the_error_curve_rises_and_goes_with_the_images(name: str) -> None:
    unit, own = BY_NAME[name](data_std=1.0), BY_NAME[name](data_std=0.3)
    levels = torch.logspace(-3, 1, 40)
    assert bool((unit.error(levels).diff() > 0).all())
    torch.testing.assert_close(own.error(0.3 * levels), 0.09 * unit.error(levels))
    assert own.error(torch.tensor(0.1, dtype=REAL)).dtype == REAL


# Total variation ------------------------------------------------------------------------------------------------------


@BOTH
def test_total_variation_solves_its_problem(dtype: torch.dtype) -> None:
    noisy = phantom(20, dtype)[:, :17] + 0.3 * random((2, 20, 17), dtype, "noise")
    levels = torch.tensor([0.3, 0.8], dtype=REAL).reshape(2, 1, 1)
    steps = pdhg(
        Gaussian(Identity((20, 17)), noisy),
        TotalVariation((20, 17)),
        torch.zeros_like(noisy),
        weight=0.7 * levels,
        lipschitz=1.0,
        operator_norm=math.sqrt(8),
        balance=0.3,
    )
    exact = run(steps, limit=2500).x
    torch.testing.assert_close(TotalVariationPrior(strength=0.7, iterations=1500).denoise(noisy, levels), exact, rtol=0, atol=1e-3)


@BOTH
@pytest.mark.parametrize("name", ["tv", "wavelet"])
def test_the_jacobian_is_that_of_the_denoiser(name: str, dtype: torch.dtype) -> None:
    prior, sigma = BY_NAME[name](), torch.tensor(0.4)
    noisy, along, back = (random((2, 18, 16), dtype, part) for part in ("noisy", "along", "back"))
    mean, transposed = differentiated(prior, noisy, sigma)
    torch.testing.assert_close(mean, prior.denoise(noisy, sigma))
    moved = (prior.denoise(noisy + 1e-6 * along, sigma) - prior.denoise(noisy - 1e-6 * along, sigma)) / 2e-6
    left, right = ((a.conj() * b).real.sum() if dtype.is_complex else (a * b).sum() for a, b in ((back, moved), (transposed(back), along)))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    _, again = differentiated(prior, noisy, sigma, checkpoint=True)
    torch.testing.assert_close(again(back), transposed(back))
    _, flat = differentiated(prior, torch.zeros_like(noisy), sigma)
    assert bool(torch.view_as_real(flat(back) + 0j).isfinite().all())


# Wavelets -------------------------------------------------------------------------------------------------------------


@BOTH
def test_one_level_of_haar_without_spinning_is_the_formula(dtype: torch.dtype) -> None:
    noisy, sigma = phantom(16, dtype) + 0.3 * random((16, 16), dtype, "noise"), 0.3
    a, b, c, d = (noisy[i::2, j::2] for i in (0, 1) for j in (0, 1))
    coarse, bands = (a + b + c + d) / 2, [(a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]
    kept = []
    for band in bands:
        parts = 2 if dtype.is_complex else 1
        signal = max(float(band.abs().square().mean()) / parts - sigma**2, 1e-12) ** 0.5
        limit = sigma**2 / signal * (1.5**0.5 if dtype.is_complex else 1)
        kept.append(band / band.abs() * (band.abs() - limit).clamp_min(0))
    x, y, z = kept
    expected = torch.empty_like(noisy)
    for (i, j), corner in zip(
        product((0, 1), repeat=2), (coarse + x + y + z, coarse - x + y - z, coarse + x - y - z, coarse - x - y + z), strict=True
    ):
        expected[i::2, j::2] = corner / 2
    prior = WaveletPrior(name="db1", levels=1, spins=1)
    torch.testing.assert_close(prior.denoise(noisy, torch.tensor(sigma, dtype=REAL)), expected, rtol=1e-6, atol=1e-6)
    assert any(bool(band.any()) for band in kept)


def test_shifts_are_spread_over_every_parity() -> None:
    found = list(shifts(8))
    assert {y for y, _ in found} == {x for _, x in found} == set(range(8))
    for parity in product((0, 1), repeat=2):
        assert sum((y % 2, x % 2) == parity for y, x in found) == 2
    assert list(shifts(1)) == [(0, 0)]


def test_spinning_is_the_mean_over_shifted_images() -> None:
    noisy, sigma = phantom(32, COMPLEX) + 0.3 * random((32, 32), COMPLEX, "noise"), torch.tensor(0.3)
    once = WaveletPrior(spins=1)
    mean = sum(once.denoise(noisy.roll(s, (-2, -1)), sigma).roll((-s[0], -s[1]), (-2, -1)) for s in shifts(8)) / 8
    torch.testing.assert_close(WaveletPrior().denoise(noisy, sigma), mean)
    error = {spins: float((WaveletPrior(spins=spins).denoise(noisy, sigma) - phantom(32, COMPLEX)).norm()) for spins in (1, 8)}
    assert error[8] < 0.98 * error[1]


def test_a_wavelet_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(BadInput, match="did you mean"):
        WaveletPrior(name="db22")
    with pytest.raises(BadInput, match="power of two"):
        WaveletPrior(spins=6)


# Non-local means ------------------------------------------------------------------------------------------------------


@BOTH
def test_non_local_means_are_those_of_scikit_image(dtype: torch.dtype) -> None:
    noisy = phantom(32, dtype)[:, :30] + 0.2 * random((32, 30), dtype, "noise")
    channels, axis = (torch.view_as_real(noisy), -1) if dtype.is_complex else (noisy, None)
    direct = denoise_nl_means(channels.numpy(), 5, 6, h=0.8 * 0.2, sigma=0.2, fast_mode=True, preserve_range=True, channel_axis=axis)
    found = NonLocalMeans().denoise(noisy, torch.tensor(0.2, dtype=REAL))
    torch.testing.assert_close(torch.view_as_real(found) if dtype.is_complex else found, torch.from_numpy(direct))


@pytest.mark.parametrize("name", ["nlm", "llr"])
def test_what_has_no_gradient_says_so(name: str) -> None:
    with pytest.raises(NotSupported, match="cannot be differentiated"):
        differentiated(BY_NAME[name](), torch.zeros(4, 16, 16), torch.tensor(0.1))


# Locally low rank -----------------------------------------------------------------------------------------------------


@BOTH
def test_every_block_has_its_singular_values_shrunk(dtype: torch.dtype) -> None:
    noisy, sigma, block, (oy, ox) = random((6, 16, 24), dtype, "series") + images(LocallyLowRank(), 24, dtype)[:6, :16], 0.7, 8, (3, 5)
    noise, beta = sigma * (2**0.5 if dtype.is_complex else 1.0), 6 / 64
    expected = torch.empty_like(noisy)
    for by, bx in product(range(2), range(3)):
        rows, columns = ((torch.arange(8) + by * 8 - oy) % 16)[:, None], (torch.arange(8) + bx * 8 - ox) % 24
        u, s, v = torch.linalg.svd(noisy[:, rows, columns].flatten(1), full_matrices=False)
        y = s / (noise * 8)  # noise of variance 1/n, n = 64 pixels
        eta = torch.where(y > 1 + beta**0.5, ((y**2 - beta - 1) ** 2 - 4 * beta).clamp_min(0).sqrt() / y, 0)  # Gavish, Donoho, eq. 7
        expected[:, rows, columns] = (u @ torch.diag(eta * noise * 8).to(u) @ v).unflatten(1, (8, 8))
    found = LocallyLowRank(block=block, offset=(oy, ox)).denoise(noisy, torch.tensor(sigma, dtype=REAL))
    torch.testing.assert_close(found, expected)


@BOTH
@pytest.mark.parametrize("shape", [(200, 20), (20, 200)])
def test_noise_alone_leaves_nothing_and_a_strong_component_stays(shape: tuple[int, int], dtype: torch.dtype) -> None:
    noise = random((4, *shape), dtype, "noise")
    quiet = shrunk_singular_values(0.5 * noise, torch.tensor(0.5, dtype=REAL))
    assert float(quiet.norm() / noise.norm()) < 0.2
    strong = 50 * random((4, shape[0], 1), dtype, "left") @ random((4, 1, shape[1]), dtype, "right")
    found = shrunk_singular_values(strong + 0.5 * noise, torch.tensor(0.5, dtype=REAL))
    # What stays of the noise lies in the tangent space of matrices of rank 1.
    share = float((found - strong).norm() ** 2 / (0.5 * noise).norm() ** 2)
    assert share == pytest.approx((sum(shape) - 1) / math.prod(shape), rel=0.25)


def test_blocks_cover_every_pixel_and_are_full() -> None:
    for n, block, shift in product((5, 8, 13), (4, 8), (0, 3)):
        found = places(n, block, shift)
        assert set(found.flatten().tolist()) == set(range(n))
        assert found.shape[1] == min(n, block)
        assert all(len(set(row)) == len(row) for row in found.tolist())


def test_blocks_move_from_call_to_call_in_the_same_way_in_every_run() -> None:
    prior = LocallyLowRank()
    noisy = random((6, 32, 32), REAL, "series") + images(prior, 32, REAL)[:6]
    levels = [torch.tensor(s, dtype=REAL) for s in (2.0, 1.0, 1.0)]
    first = [prior.denoise(noisy, s) for s in levels]
    again = [prior.denoise(noisy, s) for s in levels]
    assert not torch.equal(first[1], first[2])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_single_image_is_no_series() -> None:
    with pytest.raises(BadInput, match="use tv or wavelet"):
        LocallyLowRank().denoise(torch.zeros(8, 8), torch.tensor(0.1))


# In a solver ----------------------------------------------------------------------------------------------------------


def undersampled(shape: tuple[int, ...], share: float = 0.4) -> Mask:
    """Random lines along x, the middle ones always; other lines in every frame of a series."""
    n = shape[-1]
    chance = random((*shape[:-2], 1, n), REAL, "mask").abs()
    kept = chance > chance.quantile(1 - share)
    kept[..., n // 2 - 4 : n // 2 + 4] = True
    return Mask(kept.expand(shape).clone())


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in ("pnp_admm", "dds", "red") for name in BY_NAME] + [("dps", "tv")],
)
def test_solvers_use_them_and_beat_the_zero_filled_image(method: str, name: str) -> None:
    prior = load(name)
    assert isinstance(prior, Handcrafted)
    clean = 0.3 * images(prior, 48, torch.complex64)
    A = undersampled(tuple(clean.shape)) @ Fourier(tuple(clean.shape), axes=(-2, -1))
    y = A(clean + 0.01 * random(clean.shape, torch.complex64, "data"))
    found = solve(A, y, method, prior=prior, noise_std=0.01, steps=30).mean
    gain = 20 * math.log10(float((A.H(y) - clean).norm() / (found - clean).norm()))
    assert gain > 1.5, f"{gain:.2f} dB"


def test_a_method_that_needs_the_gradient_is_refused_by_name() -> None:
    clean = 0.3 * phantom(32, torch.complex64)
    A = undersampled((32, 32)) @ Fourier((32, 32))
    with pytest.raises(NotSupported, match="non-local means cannot be differentiated"):
        solve(A, A(clean), "dps", prior=NonLocalMeans(), noise_std=0.01, steps=5)


def test_real_data_want_a_prior_of_real_images() -> None:
    clean = 0.3 * phantom(32, torch.float32)
    y = clean + 0.1 * random((32, 32), torch.float32, "noise")
    found = solve(Identity((32, 32)), y, "pnp_admm", prior=load("tv", field="real"), noise_std=0.1, steps=20).mean
    assert float((found - clean).norm()) < 0.75 * float((y - clean).norm())
    with pytest.raises(BadInput, match="choose a real prior"):
        solve(Identity((32, 32)), y, "pnp_admm", prior=load("tv"), noise_std=0.1, steps=20)


def test_bad_settings_are_refused() -> None:
    for wrong in ({"field": "both"}, {"data_std": 0.0}, {"iterations": 0}, {"strength": -1.0}):
        with pytest.raises(BadInput):
            TotalVariationPrior(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="odd"):
        NonLocalMeans(patch=4)
    with pytest.raises(BadInput, match="at least 1"):
        LocallyLowRank(block=0)


def test_names_are_listed_explained_and_corrected() -> None:
    assert set(BY_NAME) <= set(available())
    for name, kind in BY_NAME.items():
        assert kind.summary in card(name)
        assert load(name).domain_name == "any"
    with pytest.raises(BadInput, match="did you mean 'wavelet'"):
        load("wavlet")
    with pytest.raises(BadInput, match="choose a real prior"):
        load("brain", field="real")
