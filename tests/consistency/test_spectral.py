"""DDRM: its three branches by dense matrices, ties, operators with and without an eigenbasis."""

from __future__ import annotations

import pytest
import torch

from medrecon.consistency.projection import NullSpace, reused
from medrecon.consistency.spectral import Spectral
from medrecon.errors import NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import euler
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import dense, published
from tests.solvers.systems import Maps

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("rank", [6, 3])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.5, 0.7), (1.0, 0.0)])
@pytest.mark.parametrize("exact", [True, False])
def test_the_next_state_is_that_of_the_three_branches(complex_field: bool, rank: int, eta: float, eta_b: float, exact: bool) -> None:
    problem = dense(8, 6, complex_field=complex_field, rank=rank, noise_std=0.1)
    noisy, z = random((2, 8), problem.mean.dtype, "noisy"), random((2, 8), problem.mean.dtype, "z")
    step = Spectral(problem.prior, problem.likelihood(exact=exact), eta=eta, eta_b=eta_b)
    found = step.estimate(noisy, SIGMA, LOWER, lambda like: z)
    left, s, right = torch.linalg.svd(problem.matrix)
    mean = problem.prior.denoise(noisy, SIGMA)
    x, u, drawn = (v @ right.mT for v in (mean, noisy, z))
    expected = torch.empty_like(x)
    for i in range(8):
        if i >= rank:
            expected[:, i] = x[:, i] + (1 - eta**2) ** 0.5 * LOWER / SIGMA * (u - x)[:, i] + eta * LOWER * drawn[:, i]
            continue
        rho, data = 0.1 / s[i], (left[:, i].conj() @ problem.y) / s[i]
        if rho > LOWER:
            expected[:, i] = x[:, i] + (1 - eta**2) ** 0.5 * LOWER * (data - x[:, i]) / rho + eta * LOWER * drawn[:, i]
        else:
            spread = (LOWER**2 - eta_b**2 * rho**2).sqrt()
            expected[:, i] = (1 - eta_b) * x[:, i] + eta_b * data + spread * drawn[:, i]
    torch.testing.assert_close(found.clean + LOWER * found.noise, expected @ right.conj(), atol=1e-12, rtol=1e-12)


def test_at_a_tie_the_data_are_taken_as_they_are() -> None:
    """sigma' = rho exactly: neither branch of the released code."""
    mask = torch.tensor([True, False, True, True])
    prior = StationaryGaussian(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    y = torch.tensor([1.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    found = Spectral(prior, Gaussian(Mask(mask), y)).estimate(torch.zeros(1, 4, dtype=torch.float64), 2 * one, one, torch.ones_like)
    torch.testing.assert_close(found.clean[0], y)
    torch.testing.assert_close(found.noise[0], torch.tensor([0.0, 0.85, 0.0, 0.0], dtype=torch.float64))


def test_the_last_level_gives_the_denoised_image_and_exact_data_stay() -> None:
    problem, noisy, zero = dense(8, 6), random((1, 8), torch.float64, "noisy"), torch.zeros((), dtype=torch.float64)
    mean = problem.prior.denoise(noisy, SIGMA)
    torch.testing.assert_close(Spectral(problem.prior, problem.likelihood()).estimate(noisy, SIGMA, zero, torch.ones_like).clean, mean)
    likelihood = Gaussian(problem.likelihood().A, problem.matrix @ problem.truth / problem.noise_std, noisy=False)
    found = Spectral(problem.prior, likelihood).estimate(noisy, SIGMA, zero, torch.ones_like)
    assert float(likelihood.residual(found.clean).abs().max()) < 1e-11


def test_a_whole_run_is_that_of_ddnm_plus() -> None:
    problem, sigmas = published("aniso64"), edm_levels(20, 100.0, 0.01)
    ends = []
    for step in (Spectral, lambda p, q: NullSpace(p, q, rule=reused, eta=0.85)):
        draw = seeded_draw(0, range(8), (8,))
        x = 100 * draw(torch.zeros(8, 64, dtype=torch.float64))
        ends.append(run(euler(step(problem.prior, problem.likelihood()), x, sigmas, draw)).x)
    torch.testing.assert_close(ends[0], ends[1], atol=1e-12, rtol=0)


def test_where_the_first_state_is_centred_is_forgotten() -> None:
    problem, sigmas = published("aniso64"), edm_levels(20, 100.0, 0.01)
    step = Spectral(problem.prior, problem.likelihood())
    data = problem.y @ torch.linalg.pinv(problem.matrix).mT
    ends = [run(euler(step, start, sigmas, torch.zeros_like)).x for start in (torch.zeros(1, 64, dtype=torch.float64), data[None])]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-3


def test_single_coil_sampling_has_an_eigenbasis_in_single_precision() -> None:
    shape = (8, 8)
    mask = random(shape, torch.float32, "mask") > 0
    A = Mask(mask) @ Fourier(shape)
    prior = StationaryGaussian(torch.zeros(shape, dtype=torch.complex64), torch.ones(shape))
    y = A(random((2, *shape), torch.complex64, "image"))
    found = Spectral(prior, Gaussian(A, y)).estimate(torch.zeros(3, 2, *shape, dtype=torch.complex64), SIGMA, LOWER, torch.zeros_like)
    assert found.clean.dtype == found.noise.dtype == torch.complex64
    assert found.clean.shape == (3, 2, *shape)


def test_large_operators_without_an_eigenbasis_are_refused_with_a_way_out() -> None:
    maps = random((2, 80, 80), torch.complex64, "maps")
    prior = StationaryGaussian(torch.zeros(80, 80, dtype=torch.complex64), torch.ones(80, 80))
    step = Spectral(prior, Gaussian(Maps(maps), torch.zeros(1, 2, 80, 80, dtype=torch.complex64)))
    with pytest.raises(NotSupported, match="ddrm.*Maps.*single-coil.*ddnm"):
        step.estimate(torch.zeros(1, 80, 80, dtype=torch.complex64), SIGMA, LOWER, torch.zeros_like)
