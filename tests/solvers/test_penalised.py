"""Penalised weighted least squares against dense solutions and other minimisers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.solvers.likelihood import Gaussian, weighted
from medrecon.solvers.penalised import Roughness, pwls
from medrecon.solvers.poisson import Poisson
from tests.solvers.tomography import Cuttable, Rays, disc, parallel_beam

IMAGE = (7, 9)


def scan(n_views: int = 24, noise: float = 0.3, *batch: int) -> Gaussian:
    """Weights over a factor of 20."""
    A = Cuttable(parallel_beam(IMAGE, n_views, 13), IMAGE)
    weights = (-3 * random((*batch, *A.range), torch.float64, "weights").sigmoid()).exp()
    return weighted(
        A, A(disc(IMAGE)) + noise * random((*batch, *A.range), torch.float64, "noise") / weights.sqrt(), weights, noise_std=noise
    )


def start(*batch: int) -> Tensor:
    return torch.zeros(*batch, *IMAGE, dtype=torch.float64)


def roughness_matrix() -> Tensor:
    """K^T K of differences that end at the border, pixel by pixel."""
    index = torch.arange(63).reshape(IMAGE)
    pairs = torch.cat(
        [torch.stack([index[:, :-1], index[:, 1:]], -1).reshape(-1, 2), torch.stack([index[:-1], index[1:]], -1).reshape(-1, 2)]
    )
    K = torch.zeros(len(pairs), 63, dtype=torch.float64)
    K[torch.arange(len(pairs)), pairs[:, 0]], K[torch.arange(len(pairs)), pairs[:, 1]] = -1, 1
    return K.T @ K


def dense(likelihood: Gaussian) -> Tensor:
    return likelihood.A(torch.eye(63, dtype=torch.float64).reshape(63, *IMAGE)).reshape(63, -1).T


@pytest.mark.parametrize("n_views", [12, 24])
def test_the_quadratic_penalty_ends_at_the_dense_solution(n_views: int) -> None:
    likelihood = scan(n_views)
    matrix = dense(likelihood)
    found = run(pwls(likelihood, start(), weight=5.0, tolerance=1e-8), limit=3000)
    expected = torch.linalg.solve(matrix.T @ matrix + 5.0 * roughness_matrix(), matrix.T @ likelihood.y.flatten())
    assert found.reason == "converged"
    torch.testing.assert_close(found.x.flatten(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lowest", [None, 0.1])
def test_the_penalty_that_keeps_edges_ends_where_another_minimiser_does(lowest: float | None) -> None:
    likelihood, penalty, weight = scan(), Roughness(IMAGE, 0.05), 40.0

    def objective(values: object) -> tuple[float, object]:
        x = torch.as_tensor(values).reshape(IMAGE)
        total = likelihood.value(x) + weight * penalty.value(x)
        return float(total), (likelihood.gradient(x) + weight * penalty.gradient(x)[0]).flatten().numpy()

    bounds = None if lowest is None else [(lowest, None)] * 63
    options = {"maxiter": 20000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9}
    expected = minimize(objective, start().flatten().numpy() + 0.5, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found = run(pwls(likelihood, start(), weight=weight, edge=0.05, lowest=lowest, tolerance=1e-10), limit=5000).x
    torch.testing.assert_close(found, torch.from_numpy(expected.x).reshape(IMAGE), atol=1e-4, rtol=0)
    assert objective(found.numpy())[0] <= expected.fun * (1 + 1e-9)
    if lowest is not None:
        assert float(found.min()) == lowest


@pytest.mark.parametrize("edge", [math.inf, 0.3, 3.0])
def test_the_parabola_lies_above_the_penalty_and_touches_it(edge: float) -> None:
    penalty = Roughness((5, 6), edge)
    x = random((2, 5, 6), torch.float64, "x")
    slope, curvature = penalty.gradient(x)
    copy = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(penalty.value(copy).sum(), copy)
    torch.testing.assert_close(slope, expected)
    for k in range(50):
        move = 3.0 ** (k % 5 - 2) * random((2, 5, 6), torch.float64, f"move {k}")
        above = (slope * move + curvature * move**2 / 2).sum((-2, -1), keepdim=True)
        assert bool((penalty.value(x + move) - penalty.value(x) <= above + 1e-9).all())


def test_a_huber_penalty_is_half_the_square_and_then_a_line() -> None:
    x = torch.tensor([[0.0, 0.5, 4.5]], dtype=torch.float64)
    assert Roughness((1, 3), 1.0).value(x).item() == pytest.approx(0.125 + 4 - 0.5)
    assert Roughness((1, 3)).value(x).item() == pytest.approx(0.125 + 8)


def test_a_few_passes_come_near_the_minimum() -> None:
    likelihood = scan(120, 0.05)
    limit = run(pwls(likelihood, start(), weight=20.0, edge=0.05, tolerance=1e-6), limit=3000).x
    ordered = run(pwls(likelihood, start(), weight=20.0, edge=0.05), limit=10).x
    plain = run(pwls(likelihood, start(), weight=20.0, edge=0.05, subsets=1), limit=10).x
    assert float((ordered - limit).norm()) < 0.05 * float(limit.norm())
    assert float((ordered - limit).norm()) < 0.3 * float((plain - limit).norm())


@pytest.mark.parametrize("edge", [None, 0.1])
def test_the_automatic_weight_does_not_know_the_unit_of_the_image(edge: float | None) -> None:
    likelihood = scan(40)
    found = run(pwls(likelihood, start(), edge=edge), limit=30).x
    other = None if edge is None else edge / 100
    smaller = run(pwls(Gaussian(100.0 * likelihood.A, likelihood.y), start(), edge=other), limit=30).x
    torch.testing.assert_close(100 * smaller, found, atol=1e-6, rtol=1e-6)
    stronger = run(pwls(likelihood, start(), edge=edge, strength=30.0), limit=30).x
    rough = Roughness(IMAGE)
    assert float(rough.value(stronger)) < 0.8 * float(rough.value(found))


def test_a_batch_is_its_items() -> None:
    likelihood = scan(24, 0.3, 2)
    both = run(pwls(likelihood, start(1, 2), weight=5.0, edge=0.05, lowest=0.0), limit=25).x[0]
    for item in range(2):
        A = Cuttable(likelihood.A.root[item].unsqueeze(-1) * parallel_beam(IMAGE, 24, 13), IMAGE)  # type: ignore[attr-defined]
        alone = run(pwls(Gaussian(A, likelihood.y[item]), start(), weight=5.0, edge=0.05, lowest=0.0), limit=25).x
        torch.testing.assert_close(both[item], alone, atol=1e-10, rtol=1e-10)


def test_single_precision_reaches_what_double_does_and_operators_without_subsets_do_too() -> None:
    matrix = parallel_beam(IMAGE, 40, 13)
    y = matrix.reshape(40, 13, 63) @ disc(IMAGE).flatten() + 0.1 * random((40, 13), torch.float64, "noise")
    double = run(pwls(Gaussian(Cuttable(matrix, IMAGE), y), start(), weight=2.0, edge=0.1), limit=40).x
    single = run(pwls(Gaussian(Rays(matrix.float(), IMAGE), y.float()), start().float(), weight=2.0, edge=0.1), limit=40).x
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)


def test_what_cannot_be_done_is_refused() -> None:
    likelihood = scan()
    with pytest.raises(NotSupported, match="complex"):
        run(pwls(likelihood, start().to(torch.complex128)), limit=1)
    with pytest.raises(NotSupported, match="negative entries"):
        run(pwls(Gaussian(-likelihood.A, likelihood.y), start()), limit=1)
    with pytest.raises(NotSupported, match="Gaussian likelihood, not Poisson"):
        run(pwls(Poisson(likelihood.A, likelihood.y.abs()), start()), limit=1)
    with pytest.raises(BadInput, match="edge = 0"):
        run(pwls(likelihood, start(), edge=0.0), limit=1)
