"""Proximal steps, regularisers, FISTA, ADMM and the primal-dual iteration against optimality and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Diagonal, Identity
from medrecon.linop.difference import Gradient
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.linop.operator import LinearOperator
from medrecon.linop.wavelet import Wavelet
from medrecon.solvers.admm import admm
from medrecon.solvers.classical import total_variation, wavelet_l1, zero_filled
from medrecon.solvers.fista import fista
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.norm import norm, norms
from medrecon.solvers.pdhg import pdhg
from medrecon.solvers.regularisers import TotalVariation, WaveletL1
from tests.solvers.systems import Matrix, scan

C128 = torch.complex128


def small_scan(*batch: int) -> Gaussian:
    """Three coils of 12 x 10 with half of the lines, noisy."""
    maps = random((3, 12, 10), C128, "maps")
    mask = torch.rand(12, 1, generator=torch.Generator().manual_seed(3)) < 0.6
    likelihood = scan(maps / maps.abs().square().sum(0).sqrt(), mask, torch.zeros(3, 12, 10, dtype=C128))
    image = random((*batch, 12, 10), C128, "image")
    noise = 0.1 * random((*batch, 3, 12, 10), C128, "noise")
    return Gaussian(likelihood.A, likelihood.A(image) + mask * noise)


@pytest.mark.parametrize("rho", [0.3, torch.tensor([0.1, 5.0], dtype=torch.float64).reshape(2, 1, 1)])
def test_the_proximal_step_is_stationary(rho: float | Tensor) -> None:
    likelihood, v = small_scan(), random((2, 12, 10), C128, "v")
    x = likelihood.prox(v, rho, steps=200, tolerance=1e-12)
    assert float((likelihood.gradient(x) + rho * (x - v)).abs().max()) < 1e-9


@pytest.mark.parametrize("A", [Gradient((6, 5)), Diagonal(random((6, 5), C128, "d")), Fourier((6, 5)), Wavelet((6, 5))])
def test_the_proximal_step_by_spectrum_is_the_dense_solution(A: LinearOperator) -> None:
    y, v = random(A.range, C128, "y"), random((4, 3, 6, 5), C128, "v")
    rho = torch.rand(4, 1, 1, 1, dtype=torch.float64) + 0.1
    likelihood = Gaussian(A, y)
    x = likelihood.prox(v, rho, steps=0)
    assert float((likelihood.gradient(x) + rho * (x - v)).abs().max()) < 1e-12


def test_the_proximal_step_of_a_real_image_is_real() -> None:
    likelihood = Gaussian(Gradient((6, 5)), random((2, 6, 5), torch.float64, "y"))
    assert likelihood.prox(random((6, 5), torch.float64, "v"), 0.5).dtype == torch.float64


def test_a_proximal_step_without_weight_says_what_to_do() -> None:
    with pytest.raises(BadInput, match="rho > 0"):
        small_scan().prox(random((12, 10), C128, "v"), 0.0)


def test_soft_thresholding_solves_the_wavelet_problem() -> None:
    penalty, v = WaveletL1((9, 14), levels=2), random((9, 14), C128, "v")
    x = penalty.prox(v, 0.7)
    best = float((x - v).abs().square().sum() / 2 + 0.7 * penalty.value(x))
    for i in range(20):
        other = x + 10.0 ** (-i % 4) * random((9, 14), C128, f"{i}")
        assert best <= float((other - v).abs().square().sum() / 2 + 0.7 * penalty.value(other))


def test_total_variation_has_no_proximal_step_and_says_so() -> None:
    with pytest.raises(NotSupported, match="pdhg"):
        TotalVariation((4, 4)).prox(torch.zeros(4, 4), 1.0)


def test_total_variation_counts_edges_once_over_real_and_imaginary_parts() -> None:
    image = torch.zeros(8, 8, dtype=C128)
    image[2:5, 3:7] = 3 + 4j
    # Perimeter 14 of height 5; where a horizontal and a vertical difference meet in one pixel, sqrt 2 instead of 2.
    assert float(TotalVariation((8, 8)).value(image)) == pytest.approx(5 * (14 - 2 + 2**0.5))


@pytest.mark.parametrize("method", ["fista", "admm"])
def test_wavelet_problems_end_at_a_fixed_point_of_the_proximal_gradient(method: str) -> None:
    likelihood, penalty = small_scan(2), WaveletL1((12, 10), levels=2)
    weight = torch.tensor([0.05, 0.3], dtype=torch.float64).reshape(2, 1, 1)
    start = likelihood.back
    if method == "fista":
        steps = fista(likelihood, penalty, start, weight=weight, step=1.0, tolerance=1e-11)
    else:
        steps = admm(likelihood, penalty, start, weight=weight, rho=0.3, inner_steps=15, tolerance=1e-8)
    x = run(steps, limit=1000).x
    again = penalty.prox(x - likelihood.gradient(x), weight)
    assert float((again - x).norm() / x.norm()) < 1e-6


def test_primal_dual_and_alternating_directions_find_the_same_minimum() -> None:
    likelihood, penalty = small_scan(2), TotalVariation((12, 10))
    settings = {"weight": 0.2}
    first = run(pdhg(likelihood, penalty, likelihood.back, lipschitz=1.0, operator_norm=8**0.5, balance=0.3, **settings), limit=1000).x
    second = run(admm(likelihood, penalty, likelihood.back, rho=0.3, inner_steps=6, **settings), limit=400).x
    assert float((first - second).norm() / first.norm()) < 1e-4


def test_one_dimensional_total_variation_of_two_values_is_exact() -> None:
    """Denoising (0,..,0,h,..,h) of period 2m moves both plateaus by 2 weight / m."""
    m, weight = 8, 0.5
    y = torch.cat([torch.zeros(m), torch.full((m,), 3.0)]).double()
    likelihood, penalty = Gaussian(Identity((2 * m,)), y), TotalVariation((2 * m,))
    x = run(pdhg(likelihood, penalty, y, weight=weight, lipschitz=1.0, operator_norm=2.0, tolerance=1e-12), limit=20000).x
    expected = torch.cat([torch.full((m,), 2 * weight / m), torch.full((m,), 3 - 2 * weight / m)]).double()
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


def test_items_of_a_batch_do_not_see_each_other() -> None:
    whole = small_scan(2)
    for method in (wavelet_l1, total_variation):
        both = run(method(whole, whole.back, tolerance=0.0), limit=30).x
        for i in range(2):
            part = Gaussian(whole.A, whole.y[i])
            alone = run(method(part, part.back, tolerance=0.0), limit=30).x
            torch.testing.assert_close(both[i], alone, rtol=1e-10, atol=1e-10)


def test_classical_methods_do_not_depend_on_the_unit_of_the_image() -> None:
    likelihood = small_scan()
    larger = Gaussian(1e6 * likelihood.A, likelihood.y)
    for method in (zero_filled, wavelet_l1, total_variation):
        x = run(method(likelihood, torch.zeros(12, 10, dtype=C128)), limit=40).x
        scaled = run(method(larger, torch.zeros(12, 10, dtype=C128)), limit=40).x
        torch.testing.assert_close(1e6 * scaled, x, rtol=1e-6, atol=1e-8)


def test_zero_filled_image_of_a_single_coil_is_the_inverse_transform() -> None:
    mask = torch.rand(12, 1) < 0.5
    kspace = random((12, 10), C128, "k") * mask
    A = 7.0 * (Diagonal(mask.double(), (12, 10)) @ Fourier((12, 10)))
    step = next(zero_filled(Gaussian(A, 7.0 * kspace), torch.zeros(12, 10, dtype=C128)))
    torch.testing.assert_close(step.x, Fourier((12, 10)).H(kspace))


def test_the_norm_is_the_largest_singular_value_of_each_item() -> None:
    matrices = random((3, 8, 6), C128, "m")
    exact = torch.linalg.matrix_norm(matrices, 2)
    torch.testing.assert_close(norms(Matrix(matrices), 300).flatten(), exact, rtol=1e-6, atol=0)
    assert norm(Matrix(matrices), 300, margin=1.5) == pytest.approx(1.5 * float(exact.max()), rel=1e-6)
    assert norm(Matrix(matrices)) <= float(exact.max()) * (1 + 1e-12)
