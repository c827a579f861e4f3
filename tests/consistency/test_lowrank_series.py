"""Series of low rank: the subspace found, the exact posterior of the reduced problem, and multi-echo scans."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.consistency.lowrank import Coefficients, low_rank, principal
from medrecon.consistency.proximal import Proximal, noise_level
from medrecon.consistency.survey import survey
from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.basic import Identity, Mask
from medrecon.linop.difference import Difference
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import matrix, random
from medrecon.linop.lowrank import Series
from medrecon.linop.operator import LinearOperator
from medrecon.physics.mri.sense import sense
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import renoise
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import norm2, seeded_draw


def images(n: int, dtype: torch.dtype) -> StationaryGaussian:
    """Smooth images of unit variance."""
    frequency = torch.fft.fftfreq(n, dtype=dtype.to_real()) * n
    spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) ** 1.25 / 6)
    return StationaryGaussian(torch.zeros(n, n, dtype=dtype), spectrum / spectrum.mean())


class Echoes:
    """Exponential decays, T2* around 40 ms, of a multi-coil gradient-echo scan; every echo has its own mask."""

    def __init__(self, noise_std: float, *, n: int = 24, echoes: int = 6, dtype: torch.dtype = torch.complex64) -> None:
        self.prior, one = images(n, dtype), torch.linspace(-1, 1, n)
        density = self.prior.sample(random((n, n), dtype, "density"))
        decay = 40 * torch.exp(0.5 * images(n, dtype.to_real()).sample(random((n, n), dtype.to_real(), "decay")))
        self.series = density * torch.exp(-6.0 * torch.arange(1, echoes + 1)[:, None, None] / decay)
        centres = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])[..., None, None]
        maps = torch.exp(-((one[:, None] - centres[:, 0]) ** 2 + (one - centres[:, 1]) ** 2) / 1.5).to(dtype)
        mask = torch.rand(echoes, n, 1, generator=torch.Generator().manual_seed(1)) < 0.25
        mask[:, n // 2 - 3 : n // 2 + 3] = True
        A = Series(sense(maps / maps.abs().square().sum(0).sqrt(), mask, image_axes=2), echoes)
        data = A(self.series)
        data = data + noise_std * random(data.shape, dtype, "noise") * (data != 0)
        self.likelihood = Gaussian((1 / noise_std) * A, data / noise_std)

    def outside(self, basis: Tensor) -> float:
        """How much of the series the subspace misses, relative."""
        flat = self.series.flatten(1)
        return float((flat - basis @ (basis.mH @ flat)).norm() / flat.norm())

    def psnr(self, x: Tensor) -> float:
        return float(10 * torch.log10(self.series.abs().max() ** 2 / (x - self.series).abs().square().mean()))


@pytest.mark.parametrize("noise_std", [0.02, 0.1])
def test_the_subspace_of_undersampled_echoes_holds_their_decays(noise_std: float) -> None:
    scan = Echoes(noise_std)
    basis, size = principal(survey(scan.likelihood, scan.prior.data_std))
    best = torch.linalg.svd(scan.series.flatten(1), full_matrices=False).U
    rank = basis.shape[-1]
    assert 2 <= rank <= 3
    assert scan.outside(basis[:, :2]) < scan.outside(best[:, :2]) + noise_std / 2
    assert scan.outside(basis[:, :2]) < 0.6 * scan.outside(best[:, :1])
    torch.testing.assert_close(basis.mH @ basis, torch.eye(rank, dtype=basis.dtype), atol=1e-5, rtol=0)
    maps = (best.mH @ scan.series.flatten(1)).abs().square().mean(-1).div(2).sqrt()
    torch.testing.assert_close(size[:2], maps[:2], rtol=0.25, atol=0)


def test_the_prior_sees_coefficient_maps_as_large_as_its_images() -> None:
    scan = Echoes(0.02)
    step = Coefficients(scan.prior, scan.likelihood, rank=2)
    maps = step.series.right._adjoint(step.series.left.H(scan.series)) / step.series.right.values**2  # type: ignore[union-attr, operator]
    torch.testing.assert_close(maps.abs().square().mean((-2, -1)).div(2).sqrt(), torch.ones(2), rtol=0.25, atol=0)
    assert step.series.domain == (2, 24, 24)


@pytest.mark.parametrize("noise_std", [0.02, 0.1])
def test_low_rank_echoes_are_nearer_to_the_truth_than_echoes_one_by_one(noise_std: float) -> None:
    scan = Echoes(noise_std)
    x, levels = torch.zeros(1, *scan.series.shape, dtype=torch.complex64), edm_levels(15, 20, 0.03)
    draw = seeded_draw(0, [0], (1,))
    alone = run(renoise(Proximal(scan.prior, scan.likelihood, variance=noise_level), levels[0] * draw(x), levels, draw)).x[0]
    found = run(low_rank(scan.prior, scan.likelihood, x, levels, seeded_draw(0, [0], (1,)))).x[0]
    assert found.dtype == torch.complex64
    assert scan.psnr(found) > scan.psnr(alone) + 6
    smooth = run(low_rank(scan.prior, scan.likelihood, x, levels, seeded_draw(0, [0], (1,)), strength=3.0)).x[0]
    assert float(smooth.diff(dim=0).abs().sum()) < float(found.diff(dim=0).abs().sum())


def full(dtype: torch.dtype) -> LinearOperator:
    """Six fully sampled frames."""
    return Series(Fourier((4, 4)) if dtype.is_complex else Identity((4, 4)), 6)


def reduced(dtype: torch.dtype, *batch: int) -> tuple[StationaryGaussian, Gaussian, Tensor]:
    """Prior, scan and true basis of a series of rank 2, (*batch, 6, 4, 4), other pixels of k-space (or differences) in every frame."""
    prior, t = images(4, dtype), 6
    basis = torch.linalg.qr(random((t, 2), dtype, "basis")).Q
    maps = torch.tensor([2.0, 1.0], dtype=dtype.to_real())[:, None, None] * prior.sample(random((*batch, 2, 4, 4), dtype, "maps"))
    series = torch.einsum("tr,...ryx->...tyx", basis, maps)
    plane = Fourier((4, 4)) if dtype.is_complex else Difference((4, 4), -1)
    mask = torch.rand(t, 4, 4, generator=torch.Generator().manual_seed(4)) < 0.8
    A = 20.0 * Series(Mask(mask, (4, 4)) @ plane, t)
    return prior, Gaussian(A, A(series)), basis


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_mean_is_the_posterior_mean_of_the_reduced_problem(dtype: torch.dtype) -> None:
    """All steps are affine, so the mean over all draws is the result without noise; r = sigma leaves a bias of about 1 / steps."""
    prior, likelihood, _ = reduced(dtype)
    likelihood = Gaussian(likelihood.A, likelihood.y + random(likelihood.y.shape, dtype, "noise"))
    step = Coefficients(prior, likelihood, rank=2, strength=0.0)
    A = matrix(step.likelihood.A, dtype)  # type: ignore[attr-defined]
    covariance = matrix(Fourier((4, 4)), torch.complex128)
    one = covariance.mH @ torch.diag(torch.fft.fftshift(prior.spectrum).flatten().to(covariance)) @ covariance
    prior_cov = torch.block_diag(one, one).to(dtype) if dtype.is_complex else torch.block_diag(one, one).real
    posterior_cov = torch.linalg.inv(A.mH @ A + torch.linalg.inv(prior_cov))
    posterior_mean = posterior_cov @ (A.mH @ likelihood.y.flatten())
    x = torch.zeros(1, *likelihood.domain, dtype=dtype)
    steps = low_rank(prior, likelihood, x, edm_levels(100, 30, 0.01), torch.zeros_like, rank=2, cg_steps=40, cg_tolerance=1e-5)
    found = step.series.H(run(steps).x[0]) / step.series.right.values**2  # type: ignore[attr-defined, operator]
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(posterior_cov), (found.flatten() - posterior_mean)[:, None], upper=False)
    assert float(whitened.abs().square().mean().sqrt()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_series_that_lies_in_a_subspace_gives_that_subspace(dtype: torch.dtype) -> None:
    _, _, basis = reduced(dtype, 3)
    A = 1e3 * full(dtype)
    series = torch.einsum("tr,...ryx->...tyx", basis, random((3, 2, 4, 4), dtype, "maps"))
    found, size = principal(survey(Gaussian(A, A(series)), 1.0))
    assert found.shape == (3, 6, 2)
    assert size.shape == (3, 2)
    torch.testing.assert_close(found @ found.mH, (basis @ basis.mH).expand(3, 6, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_series_of_a_batch_do_not_meet_though_their_ranks_differ(dtype: torch.dtype, strength: float) -> None:
    prior, _, basis = reduced(dtype)
    A, maps = 20.0 * full(dtype), random((2, 2, 4, 4), dtype, "maps")
    maps[0, 1] = 0
    y = A(torch.einsum("tr,...ryx->...tyx", basis, maps))
    y = y + random(y.shape, dtype, "noise")
    assert [principal(survey(Gaussian(A, item), 1.0))[0].shape[-1] for item in y] == [1, 2]
    levels = edm_levels(6, 20, 0.05)

    def sampled(items: slice) -> Tensor:
        draw = seeded_draw(0, [(d, b) for d in range(2) for b in range(2)[items]], (2, len(y[items])))
        x = torch.zeros(2, *y[items].shape, dtype=dtype)
        return run(low_rank(prior, Gaussian(A, y[items]), x, levels, draw, strength=strength)).x

    together = sampled(slice(0, 2))
    for k in range(2):
        torch.testing.assert_close(sampled(slice(k, k + 1)), together[:, k : k + 1], atol=1e-8, rtol=1e-7)


def test_a_turned_phase_turns_the_series() -> None:
    prior, likelihood, _ = reduced(torch.complex128)
    turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    x, levels = torch.zeros(1, 6, 4, 4, dtype=torch.complex128), edm_levels(5, 20, 0.05)
    plain, turned = (
        run(low_rank(prior, Gaussian(likelihood.A, p * likelihood.y), x, levels, torch.zeros_like, strength=1.0)).x for p in (1.0, turn)
    )
    torch.testing.assert_close(turned, turn * plain, atol=1e-8, rtol=0)
    assert float(norm2(plain, 3)) > 0


@pytest.mark.parametrize("rank", [0, 7, 1.5])
def test_a_rank_that_cannot_be_is_refused(rank: float) -> None:
    prior, likelihood, _ = reduced(torch.complex128)
    with pytest.raises(BadInput, match="rank"):
        Coefficients(prior, likelihood, rank=rank)  # type: ignore[arg-type]
