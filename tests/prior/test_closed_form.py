"""Closed-form priors against each other, quadrature and Monte Carlo; the identities that every mean denoiser obeys."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.laws import random
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import Gaussian, GaussianMixture, StationaryGaussian

SHAPE = (3, 4)


def even_spectrum(*shape: int) -> Tensor:
    """Positive and the same at opposite frequencies."""
    axes = torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in shape), indexing="ij")
    return 1 / (1 + sum((axis / 0.1) ** 2 for axis in axes))


def circulant(spectrum: Tensor) -> Tensor:
    """The covariance matrix whose eigenvalues these are."""
    n = spectrum.numel()
    units = torch.eye(n, dtype=torch.complex128).reshape(n, *spectrum.shape)
    axes = tuple(range(1, units.ndim))
    return torch.fft.ifftn(torch.fft.fftn(units, dim=axes) * spectrum, dim=axes).reshape(n, n).T


def _as(dtype: torch.dtype, matrix: Tensor) -> Tensor:
    return matrix if dtype.is_complex else matrix.real


def mixture(image: tuple[int, ...] = (2,), *, complex_field: bool = False) -> GaussianMixture:
    dtype = torch.complex128 if complex_field else torch.float64
    return GaussianMixture([0.2, 0.5, 0.3], 1.5 * random((3, *image), dtype, "means"), [0.05, 0.3, 0.1])


def gaussian(dtype: torch.dtype = torch.float64) -> Gaussian:
    return Gaussian(random(SHAPE, dtype, "mean"), _as(dtype, circulant(even_spectrum(*SHAPE))))


PRIORS = {
    "gaussian": gaussian,
    "complex gaussian": lambda: gaussian(torch.complex128),
    "stationary": lambda: StationaryGaussian(random(SHAPE, torch.float64, "mean"), even_spectrum(*SHAPE)),
    "complex stationary": lambda: StationaryGaussian(random(SHAPE, torch.complex128, "mean"), even_spectrum(*SHAPE)),
    "mixture": lambda: mixture(SHAPE),
    "complex mixture": lambda: mixture(SHAPE, complex_field=True),
}


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest) -> Prior:
    return PRIORS[request.param]()  # type: ignore[no-any-return]


def dtype_of(prior: Prior) -> torch.dtype:
    return torch.complex128 if prior.field == "complex" else torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_dense_and_stationary_gaussians_agree(dtype: torch.dtype) -> None:
    mean, spectrum = random(SHAPE, dtype, "mean"), even_spectrum(*SHAPE)
    dense, stationary = Gaussian(mean, _as(dtype, circulant(spectrum))), StationaryGaussian(mean, spectrum)
    noisy = random((5, *SHAPE), dtype, "noisy")
    for sigma in (torch.tensor(0.01), torch.tensor(0.7), torch.linspace(0.1, 3, 5).reshape(5, 1, 1)):
        torch.testing.assert_close(dense.denoise(noisy, sigma), stationary.denoise(noisy, sigma), atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(dense.error(sigma), stationary.error(sigma).to(dense.error(sigma)), atol=1e-10, rtol=1e-8)
    assert dense.data_std == pytest.approx(stationary.data_std)


def test_a_correlated_complex_covariance_is_not_transposed() -> None:
    """E[x | u] with C Hermitian and complex, from the definition."""
    factor = random((4, 4), torch.complex128, "factor")
    cov = factor @ factor.mH
    u = random((3, 4), torch.complex128, "u")
    found = Gaussian(torch.zeros(4, dtype=torch.complex128), cov).denoise(u, torch.tensor(0.5))
    expected = torch.linalg.solve(cov + 0.25 * torch.eye(4, dtype=cov.dtype), u.T)
    torch.testing.assert_close(found, (cov @ expected).T)


def test_the_gaussian_error_is_the_mean_squared_error() -> None:
    for make in (PRIORS["complex stationary"], PRIORS["stationary"]):
        prior = make()
        dtype = dtype_of(prior)
        noise = random((4000, *SHAPE), dtype, "image"), random((4000, *SHAPE), dtype, "noise")
        clean, sigma = prior.sample(noise[0]), torch.tensor(0.6, dtype=torch.float64)
        residual = prior.denoise(clean + sigma * noise[1], sigma) - clean
        measured = residual.abs().square().mean() / (2 if dtype.is_complex else 1)
        assert float(measured) == pytest.approx(float(prior.error(sigma)), rel=0.02)
        power = clean.abs().square().mean() / (2 if dtype.is_complex else 1)
        assert float(power) == pytest.approx(prior.data_std**2, rel=0.03)


def test_the_mixture_mean_is_that_of_quadrature() -> None:
    prior = mixture((2,))
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    for sigma in (0.3, 1.5):
        for u in random((4, 2), torch.float64, "noisy"):
            weight = (log_density(prior, grid, 0.0) - (u - grid).square().sum(-1) / (2 * sigma**2)).softmax(0)
            torch.testing.assert_close(prior.denoise(u[None], torch.tensor(sigma))[0], weight @ grid, atol=1e-6, rtol=1e-5)


def test_a_mixture_of_one_is_its_gaussian() -> None:
    mean = random((1, *SHAPE), torch.complex128, "mean")
    one, dense = GaussianMixture([1.0], mean, [0.4]), Gaussian(mean[0], 0.4 * torch.eye(12, dtype=torch.complex128))
    noisy = random((2, *SHAPE), torch.complex128, "noisy")
    for sigma in (torch.tensor(0.8), torch.tensor([0.3, 2.0]).reshape(2, 1, 1)):
        torch.testing.assert_close(one.denoise(noisy, sigma), dense.denoise(noisy, sigma))


def test_the_inherited_error_bounds_that_of_a_mixture() -> None:
    prior = mixture((2,))
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(prior.log_weights.exp(), 20_000, replacement=True, generator=generator)
    clean = prior.means[which] + prior.variances[which].sqrt()[:, None] * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    for sigma in (0.1, 0.5, 2.0):
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        measured = (prior.denoise(noisy, torch.tensor(sigma)) - clean).square().mean()
        assert float(measured) <= 1.02 * float(prior.error(torch.tensor(sigma)))


def log_density(prior: GaussianMixture, u: Tensor, sigma: float) -> Tensor:
    """log p_sigma(u) of a mixture of real images, (batch,); up to a constant."""
    total = prior.variances + sigma**2
    square = (u[:, None] - prior.means).flatten(2).square().sum(-1)
    return torch.logsumexp(prior.log_weights - square / (2 * total) - math.prod(prior.means.shape[1:]) / 2 * total.log(), -1)


def test_the_mean_is_the_noisy_image_plus_the_score_of_its_density() -> None:
    """Tweedie: D = u + sigma^2 grad log p_sigma(u)."""
    prior, sigma = mixture(SHAPE), 0.7
    noisy = random((3, *SHAPE), torch.float64, "noisy").requires_grad_()
    (score,) = torch.autograd.grad(log_density(prior, noisy, sigma).sum(), noisy)
    torch.testing.assert_close(prior.denoise(noisy, torch.tensor(sigma)), noisy + sigma**2 * score)


def test_the_residual_and_the_divergence_add_to_one() -> None:
    """E|u - D|^2 / (n sigma^2) + E tr J / n = 1 for every exact mean denoiser."""
    prior, sigma = mixture((2,)), 0.8
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(prior.log_weights.exp(), 20_000, replacement=True, generator=generator)
    spread = (prior.variances[which] + sigma**2).sqrt()[:, None]
    noisy = (prior.means[which] + spread * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    clean = prior.denoise(noisy, torch.tensor(sigma))
    trace = sum(torch.autograd.grad(clean[:, i].sum(), noisy, retain_graph=True)[0][:, i].mean() for i in range(2)) / 2
    assert float(((noisy - clean).square().mean() / sigma**2 + trace).detach()) == pytest.approx(1, abs=0.02)


def test_a_batch_is_denoised_item_by_item(prior: Prior) -> None:
    noisy = random((4, *SHAPE), dtype_of(prior), "noisy")
    levels = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64).reshape(4, 1, 1)
    whole = prior.denoise(noisy, levels)
    for i in range(4):
        torch.testing.assert_close(whole[i : i + 1], prior.denoise(noisy[i : i + 1], levels[i].squeeze()))
    torch.testing.assert_close(prior.denoise(noisy[None].expand(2, *noisy.shape), levels[None]), whole[None].expand(2, *noisy.shape))


def test_little_noise_changes_little_and_much_noise_gives_the_mean(prior: Prior) -> None:
    noisy = random((1, *SHAPE), dtype_of(prior), "noisy")
    torch.testing.assert_close(prior.denoise(noisy, torch.tensor(1e-6)), noisy, atol=1e-4, rtol=0)
    far = prior.denoise(noisy, torch.tensor(1e5))
    torch.testing.assert_close(prior.denoise(-noisy, torch.tensor(1e5)), far, atol=1e-4, rtol=0)


def test_estimates_recompose_the_noisy_image(prior: Prior) -> None:
    noisy, sigma = random((2, *SHAPE), dtype_of(prior), "noisy"), torch.tensor(0.4, dtype=torch.float64)
    estimate = prior.estimate(noisy, sigma, sigma / 2, torch.zeros_like)
    torch.testing.assert_close(estimate.clean + sigma * estimate.noise, noisy)
    torch.testing.assert_close(estimate.clean, prior.denoise(noisy, sigma))


def test_what_is_no_covariance_is_refused() -> None:
    with pytest.raises(BadInput, match="negative eigenvalue"):
        Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(BadInput, match=r"expected \(2, 2\)"):
        Gaussian(torch.zeros(2), torch.eye(3))
    with pytest.raises(BadInput, match="values >= 0"):
        StationaryGaussian(torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(BadInput, match="opposite frequencies"):
        StationaryGaussian(torch.zeros(3), torch.tensor([1.0, 2.0, 1.0]))
    with pytest.raises(BadInput, match="positive weights"):
        GaussianMixture([0.5, -0.5], torch.zeros(2, 3), [1.0, 1.0])
