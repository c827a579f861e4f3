"""Noise: covariance, whitening, and the estimate from k-space whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import shared
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft
from medrecon.physics.mri.masks import poisson_disc
from medrecon.physics.noise import EdgeSamples, edge_samples, estimate, mix_coils, noise_covariance, robust_std, whitener

COILS, SIGMA = 6, 0.02


def covariance(n: int = COILS) -> Tensor:
    """A correlated covariance per real component with variances that differ fourfold."""
    generator = torch.Generator().manual_seed(5)
    root = torch.view_as_complex(torch.randn(n, n, 2, generator=generator, dtype=torch.float64))
    mixed = torch.eye(n, dtype=torch.complex128) + 0.15 * root
    gains = torch.linspace(1, 2, n, dtype=torch.float64)
    return SIGMA**2 * (gains[:, None] * (mixed @ mixed.mH) * gains)


def noise(psi: Tensor, *shape: int, seed: int = 0) -> Tensor:
    """(coil, *shape) complex128 with covariance psi per real component."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.view_as_complex(torch.randn(len(psi), *shape, 2, generator=generator, dtype=torch.float64))
    return torch.einsum("ab,b...->a...", torch.linalg.cholesky(psi), white)


def smooth_scan(ny: int = 160, nx: int = 192, slices: int = 1) -> Tensor:
    """(slice, coil, y, x) complex64: a smooth object, so that the border of k-space holds noise alone."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    angle = 2 * torch.pi * torch.arange(COILS)[:, None, None] / COILS
    image = torch.exp(-6 * ((x - 0.3 * torch.cos(angle)) ** 2 + (y - 0.3 * torch.sin(angle)) ** 2))
    clean = fft(torch.polar(image, (x + y).expand_as(image)), (-2, -1))
    psi = covariance()
    return torch.stack([(clean + noise(psi, ny, nx, seed=z)).to(torch.complex64) for z in range(slices)])


def test_whitened_noise_is_white_and_keeps_the_mean_power() -> None:
    samples = noise(covariance(), 100_000)
    white = whitener(noise_covariance(samples))
    result = noise_covariance(mix_coils(white.matrix, noise(covariance(), 100_000, seed=1), axis=0))
    torch.testing.assert_close(result / white.noise_std**2, torch.eye(COILS, dtype=torch.complex128), atol=0.02, rtol=0)
    assert white.noise_std**2 == pytest.approx(float(covariance().diagonal().real.mean()), rel=0.02)


def test_covariance_is_per_real_component_and_scales_with_the_bandwidth() -> None:
    samples = noise(covariance(), 100_000) + 3  # a constant offset is no noise
    torch.testing.assert_close(noise_covariance(samples), covariance(), atol=0.02 * float(covariance().abs().max()), rtol=0)
    torch.testing.assert_close(noise_covariance(samples, 0.5 / 0.79), noise_covariance(samples) * (0.5 / 0.79))


def test_mixing_coils_acts_on_any_axis_and_keeps_the_dtype() -> None:
    matrix = noise(covariance(), COILS)[:3]
    data = torch.randn(2, 4, COILS, 5, 7, dtype=torch.complex64)
    torch.testing.assert_close(mix_coils(matrix, data), torch.einsum("pc,...cyx->...pyx", matrix.to(torch.complex64), data))
    torch.testing.assert_close(mix_coils(matrix, data.movedim(2, 0), axis=0), mix_coils(matrix, data).movedim(2, 0))
    with pytest.raises(BadInput, match="5 coils"):
        mix_coils(matrix, data, axis=-2)


def test_a_dead_coil_and_a_copied_coil_are_left_out_by_name() -> None:
    samples = noise(covariance(), 1000)
    samples[2] = 0
    samples[5] = 2j * samples[1]
    white = whitener(noise_covariance(samples))
    assert white.coils == (0, 1, 3, 4)
    assert "2, 5" in white.warnings[0]
    assert white.matrix.shape == (4, COILS)
    assert not white.matrix[:, [2, 5]].any()
    result = noise_covariance(mix_coils(white.matrix, samples, axis=0)) / white.noise_std**2
    torch.testing.assert_close(result, torch.eye(4, dtype=torch.complex128), atol=1e-8, rtol=0)


@pytest.mark.parametrize("psi", [torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.zeros(3, 4)])
def test_impossible_covariances_are_refused(psi: Tensor) -> None:
    with pytest.raises(BadInput, match="covariance"):
        whitener(psi)


def masks(ny: int, nx: int) -> dict[str, Tensor | None]:
    lines = torch.zeros(ny, 1, dtype=torch.bool)
    lines[::4] = True
    lines[ny // 2 - 12 : ny // 2 + 12] = True
    return {
        "full": None,
        "lines": lines,
        "2-D": poisson_disc((ny, nx), 6.0, seed=3),
        "corners": poisson_disc((ny, nx), 6.0, elliptic=False),
    }


@pytest.mark.parametrize("sampling", ["full", "lines", "2-D", "corners"])
@pytest.mark.parametrize("told", [True, False])
def test_estimated_noise_is_within_five_per_cent(sampling: str, told: bool) -> None:
    kspace = smooth_scan(slices=3)
    mask = masks(*kspace.shape[-2:])[sampling]
    if mask is not None:
        kspace = torch.where(mask, kspace, torch.zeros_like(kspace))
    found = estimate(edge_samples(item, mask if told else None) for item in kspace)
    truth = covariance()
    torch.testing.assert_close(found.covariance.diagonal().real.mean().sqrt(), truth.diagonal().real.mean().sqrt(), rtol=0.05, atol=0)
    torch.testing.assert_close(found.covariance.diagonal().real.sqrt(), truth.diagonal().real.sqrt(), rtol=0.1, atol=0)
    scale = truth.diagonal().real.sqrt()
    torch.testing.assert_close(found.covariance / scale[:, None] / scale, truth / scale[:, None] / scale, rtol=0, atol=0.15)
    assert not found.warnings
    assert str(found.n_samples) in found.source


def test_estimate_does_not_care_how_slices_are_batched() -> None:
    kspace = smooth_scan(slices=4)
    one = estimate(edge_samples(item) for item in kspace)
    two = estimate(edge_samples(kspace[a : a + 2]) for a in (0, 2))
    torch.testing.assert_close(one.covariance, two.covariance)
    thin = estimate((edge_samples(item) for item in kspace), most=1000)
    assert thin.n_samples <= 1000
    torch.testing.assert_close(thin.covariance.diagonal().real, one.covariance.diagonal().real, rtol=0.3, atol=0)


def test_estimate_survives_outliers_and_exact_zeros() -> None:
    samples = noise(covariance(), 4000)
    samples[:, ::50] *= 1000
    samples[:, 1::10] = 0
    torch.testing.assert_close(robust_std(samples), covariance().diagonal().real.sqrt(), rtol=0.08, atol=0)


def test_zero_padded_readout_is_not_taken_for_noise() -> None:
    kspace = smooth_scan()
    kspace[..., :30] = 0
    kspace[..., -10:] = 0
    kspace[..., :20, :] = 0
    found = estimate([edge_samples(kspace)])
    torch.testing.assert_close(
        found.covariance.diagonal().real.mean().sqrt(), covariance().diagonal().real.mean().sqrt(), rtol=0.05, atol=0
    )


def test_signal_at_the_border_is_reported() -> None:
    kspace = smooth_scan()
    slope = torch.linspace(-1, 1, kspace.shape[-1]).abs().clamp_min(0.9)
    steep = kspace * (3 - 2 * (slope - 0.9) / 0.1)  # falls towards the end of the readout as signal does
    assert "signal or filtering" in estimate([edge_samples(steep)]).warnings[0]


def test_too_few_samples_ask_for_the_noise() -> None:
    with pytest.raises(BadInput, match="noise_std="):
        estimate([edge_samples(smooth_scan(16, 20))])
    with pytest.raises(BadInput, match="noise_std="):
        estimate([])
    with pytest.raises(BadInput, match="noise_std="):
        noise_covariance(torch.zeros(4, 4, dtype=torch.complex64))


def test_few_samples_give_variances_without_correlations() -> None:
    edges = edge_samples(smooth_scan())
    found = estimate([EdgeSamples(edges.samples[:, :110], edges.outer[:110], edges.source)])
    assert torch.equal(found.covariance, found.covariance.diagonal().diag())
    assert "independent" in found.warnings[0]


def test_noise_of_the_real_brain_is_stable() -> None:
    kspace = torch.from_numpy(np.load(shared("data", "mr_brain8ch_undersampled_ksp.npy")))
    edges = edge_samples(kspace)
    found = estimate([edges])
    assert "k-space radius" in found.source
    assert not found.warnings
    std = found.covariance.diagonal().real.sqrt()
    assert 0.001 < float(std.max() / kspace.abs().max() * 1e3) < 10
    for half in (0, 1):  # either half of the samples tells the same
        torch.testing.assert_close(robust_std(edges.samples[:, half::2]), std, rtol=0.12, atol=0)
    white = whitener(found.covariance)
    assert white.coils == tuple(range(8))


def test_noise_of_the_simulated_brain_is_near_its_truth() -> None:
    import h5py

    with h5py.File(shared("data", "simulated_multicoil_brain.h5")) as file:
        kspace = torch.from_numpy(file["kspace"][:]).mT  # (slice, coil, readout, phase) in the file
        truth = torch.from_numpy(file["noise_cov"][:]).diagonal().real.mean() / 2  # E|n|^2
    found = estimate(edge_samples(item) for item in kspace)
    ratio = float((found.covariance.diagonal().real.mean() / truth).sqrt())
    assert 0.95 < ratio < 1.1  # a 256 x 256 brain has some signal at the end of the readout
