"""Null-space projections: exact on exact data, by any way to A^+, and their measured bias on noisy data."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.manifold import Manifold, conditional, unit_length
from medrecon.consistency.projection import NullSpace, reused
from medrecon.consistency.spectral import Spectral
from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.laws import random
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import euler
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.pseudoinverse import BySpectrum, pseudoinverse
from medrecon.tensors import seeded_draw
from tests.oracles.gaussian import Measured, Problem, dense, measured, moments, published
from tests.solvers.systems import Matrix

SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


def exact(problem: Problem, *, spectrum: bool) -> Gaussian:
    """The problem's data without noise, in its own units."""
    found = dataclasses.replace(problem, noise_std=1.0).likelihood(exact=spectrum)
    return Gaussian(found.A, problem.matrix @ problem.truth, noisy=False)


def quiet(problem: Problem) -> Problem:
    """The same measurement with noise of 1e-6."""
    return dataclasses.replace(problem, noise_std=1e-6, y=problem.matrix @ problem.truth)


def result(problem: Problem, step: Consistency, count: int) -> Measured:
    return measured(problem, *moments(euler, step, edm_levels(count, 100.0, 0.01), problem.mean))


def numbers(found: Measured) -> tuple[float, ...]:
    return found.dmean, found.sd, found.sd_range, found.sd_null, found.coverage


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize(("rank", "condition"), [(None, 10.0), (3, 10.0), (None, 1e3)])
@pytest.mark.parametrize("spectrum", [True, False])
def test_exact_data_are_met_by_the_smallest_correction(complex_field: bool, rank: int | None, condition: float, spectrum: bool) -> None:
    problem = dense(8, 6, complex_field=complex_field, rank=rank, condition=condition)
    likelihood = exact(problem, spectrum=spectrum)
    step = NullSpace(problem.prior, likelihood, cg_steps=400, cg_tolerance=1e-13)
    noisy = random((3, 8), problem.mean.dtype, "noisy")
    estimate = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    mean = problem.prior.denoise(noisy, SIGMA)
    inverse = torch.linalg.pinv(problem.matrix, rtol=1e-10)
    torch.testing.assert_close(estimate.clean, mean + (likelihood.y - mean @ problem.matrix.mT) @ inverse.mT, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(estimate.noise, (noisy - mean) / SIGMA * (LOWER / SIGMA))
    assert float(likelihood.residual(estimate.clean).abs().max()) < 1e-9


def test_the_noise_of_exact_data_has_the_asked_share_of_fresh_noise() -> None:
    problem = dense(8, 6)
    step = NullSpace(problem.prior, exact(problem, spectrum=True), eta=0.85)
    noisy = random((1, 8), problem.mean.dtype, "noisy")
    found = step.estimate(noisy, SIGMA, LOWER, torch.ones_like)
    old = (noisy - problem.prior.denoise(noisy, SIGMA)) / SIGMA
    torch.testing.assert_close(found.noise, (1 - 0.85**2) ** 0.5 * old + 0.85)


@pytest.mark.parametrize(("eta", "null"), [(None, 0.949), (0.85, 0.849)])
def test_the_spread_that_no_data_bind_is_that_of_an_independent_implementation(eta: float | None, null: float) -> None:
    problem = quiet(published("iso64"))
    found = result(problem, NullSpace(problem.prior, problem.likelihood(), eta=eta), 100)
    assert found.sd_null == pytest.approx(null, abs=0.002)
    assert found.dmean < 1e-3


# dmean, sd, sd in the range, sd in the null space, coverage of 95 % intervals: DDNM+ as published
PUBLISHED = [
    ("aniso64", 20, (0.311, 0.832, 0.700, 1.100, 0.936)),
    ("aniso64", 100, (0.152, 0.721, 0.432, 0.972, 0.926)),
]


@pytest.mark.parametrize(("name", "count", "expected"), PUBLISHED)
@pytest.mark.parametrize("kind", [partial(NullSpace, rule=reused, eta=0.85), Spectral])
def test_published_transitions_are_those_of_an_independent_implementation(name, count, expected, kind) -> None:  # type: ignore[no-untyped-def]
    problem = published(name)
    assert numbers(result(problem, kind(problem.prior, problem.likelihood()), count)) == pytest.approx(expected, abs=0.002)


@pytest.mark.slow
def test_the_spread_of_measured_directions_collapses_as_published_levels_grow_but_not_here() -> None:
    problem = published("1d")
    old = result(problem, NullSpace(problem.prior, problem.likelihood(), rule=reused, eta=0.85), 1000)
    new = result(problem, NullSpace(problem.prior, problem.likelihood()), 1000)
    assert (old.dmean, old.sd) == pytest.approx((0.249, 0.194), abs=0.002)
    assert new.dmean < 0.05
    assert new.sd == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("iso64", 100, (0.024, 0.937, 0.941, 0.949)),
        ("aniso64", 20, (0.220, 0.869, 0.826, 1.065)),
        ("aniso64", 100, (0.067, 0.954, 0.928, 1.022)),
    ],
)
def test_handing_over_at_the_datas_own_noise_approaches_the_posterior(name: str, count: int, expected: tuple[float, ...]) -> None:
    problem = published(name)
    found = result(problem, NullSpace(problem.prior, problem.likelihood()), count)
    assert numbers(found)[:4] == pytest.approx(expected, abs=0.02)
    assert 0.93 < found.coverage < 0.96 or count == 20


@pytest.mark.parametrize("complex_field", [False, True])
def test_published_noise_split_is_that_of_dense_matrices(complex_field: bool) -> None:
    """Lambda and Phi of DDNM+, eqs. 17 and 19, against the step with the same draw; identical to DDRM with eta_b = 1."""
    problem = dense(8, 6, complex_field=complex_field, noise_std=0.1)
    noisy, z = random((2, 8), problem.mean.dtype, "noisy"), random((2, 8), problem.mean.dtype, "z")
    left, s, right = torch.linalg.svd(problem.matrix)
    rho, eta = 0.1 / s, 0.85
    kept = (1 - eta**2) ** 0.5
    share = torch.where(rho <= LOWER, 1, kept * LOWER / rho)
    fresh = torch.where(rho <= LOWER, (LOWER**2 - rho**2).clamp_min(0).sqrt(), eta * LOWER)
    mean = problem.prior.denoise(noisy, SIGMA)
    x, u, drawn = (v @ right.mT for v in (mean, noisy, z))
    data = (problem.y @ left.conj()) / s
    seen = x[:, :6] + share * (data - x[:, :6]) + fresh * drawn[:, :6]
    unseen = x[:, 6:] + LOWER * (kept * (u - x)[:, 6:] / SIGMA + eta * drawn[:, 6:])
    expected = torch.cat([seen, unseen], -1) @ right.conj()
    for step in (NullSpace(problem.prior, problem.likelihood(), rule=reused, eta=eta), Spectral(problem.prior, problem.likelihood())):
        found = step.estimate(noisy, SIGMA, LOWER, lambda like: z)
        torch.testing.assert_close(found.clean + LOWER * found.noise, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("lower", [0.2, 0.05, 0.0])
def test_a_whole_krylov_space_is_as_good_as_the_spectrum(complex_field: bool, rank: int | None, lower: float) -> None:
    problem = dense(8, 6, complex_field=complex_field, rank=rank)
    noisy = random((4, 8), problem.mean.dtype, "noisy")
    results = []
    for spectrum in (True, False):
        step = NullSpace(problem.prior, problem.likelihood(exact=spectrum), cg_steps=8)
        found = step.estimate(noisy, SIGMA, torch.tensor(lower, dtype=torch.float64), seeded_draw(0, range(4), (4,)))
        results.append(found.clean + lower * found.noise)
    torch.testing.assert_close(results[0], results[1], atol=1e-9, rtol=1e-9)


def test_a_small_krylov_space_is_nearly_as_good() -> None:
    problem, ends = published("aniso64"), []
    for exact_basis in (True, False):
        step = NullSpace(problem.prior, problem.likelihood(exact=exact_basis), cg_steps=16)
        draw = seeded_draw(0, range(8), (8,))
        x = 100 * draw(torch.zeros(8, 64, dtype=torch.float64))
        ends.append(run(euler(step, x, edm_levels(20, 100.0, 0.01), draw)).x)
    assert float((ends[0] - ends[1]).norm() / ends[0].norm()) < 0.1


def test_directions_below_rounding_are_unseen() -> None:
    problem = dense(8, 6, rank=3)
    inverse = pseudoinverse(problem.likelihood())
    assert isinstance(inverse, BySpectrum)
    assert int(inverse.visible.sum()) == 3


@pytest.mark.parametrize("kind", [NullSpace, partial(NullSpace, rule=reused), Manifold, Spectral])
@pytest.mark.parametrize("spectrum", [True, False])
def test_images_of_a_batch_do_not_meet(kind, spectrum: bool) -> None:  # type: ignore[no-untyped-def]
    problem = dense(8, 6, complex_field=True)
    noisy = random((4, 8), problem.mean.dtype, "noisy")
    noisy[1] *= 100

    def state(images: Tensor, keys: list[int]) -> Tensor:
        found = kind(problem.prior, problem.likelihood(exact=spectrum)).estimate(images, SIGMA, LOWER, seeded_draw(0, keys, (len(keys),)))
        return found.clean + LOWER * found.noise

    whole = state(noisy, [0, 1, 2, 3])
    for k in range(4):
        torch.testing.assert_close(state(noisy[k : k + 1], [k]), whole[k : k + 1], atol=1e-9, rtol=1e-8)


def test_images_with_their_own_operators_are_projected_each_by_its_own() -> None:
    problems = [dense(8, 6), dense(8, 6, condition=3.0)]
    matrix, y = torch.stack([p.matrix for p in problems]), torch.stack([p.y for p in problems])
    noisy = random((2, 8), torch.float64, "noisy")
    step = NullSpace(problems[0].prior, Gaussian(Matrix(matrix), y, noisy=False), cg_steps=100, cg_tolerance=1e-13)
    found = step.estimate(noisy, SIGMA, LOWER, torch.zeros_like).clean
    for item, (A, b) in enumerate(zip(matrix, y, strict=True)):
        torch.testing.assert_close(A @ found[item], b, atol=1e-9, rtol=1e-9)


# --- manifold constrained gradient


def free(prior: Prior, missing: Tensor, pulled: Tensor, sigma: Tensor) -> Tensor:
    """sigma^2 / r^2 without a bound, so that the step is affine."""
    return sigma**2 / prior.error(sigma)


def test_the_bound_takes_what_is_seen_just_to_the_data() -> None:
    problem = dense(8, 6)
    prior = problem.prior
    missing, pulled = random((3, 8), torch.float64, "missing"), random((3, 8), torch.float64, "pulled")
    length = conditional(prior, missing, pulled, SIGMA)
    needed = (missing * missing).sum(-1, keepdim=True) / (missing * pulled).sum(-1, keepdim=True)
    expected = torch.minimum(free(prior, missing, pulled, SIGMA), needed).clamp_min(0)
    torch.testing.assert_close(length, torch.where(needed > 0, expected, 0))
    torch.testing.assert_close(conditional(prior, missing, missing / 1e9, SIGMA), free(prior, missing, pulled, SIGMA).expand(3, 1))


def test_the_gradient_moves_only_what_is_not_seen() -> None:
    """(1 - A^+ A) J^H A^+ (y - A D) sigma^2 / r^2 by dense matrices, J = C (C + sigma^2)^-1."""
    problem = dense(8, 6, complex_field=True)
    likelihood, noisy = exact(problem, spectrum=True), random((2, 8), torch.complex128, "noisy")
    found = Manifold(problem.prior, likelihood, length=free).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    mean = problem.prior.denoise(noisy, SIGMA)
    inverse = torch.linalg.pinv(problem.matrix)
    missing = (likelihood.y - mean @ problem.matrix.mT) @ inverse.mT
    jacobian = torch.linalg.solve(problem.cov + SIGMA**2 * torch.eye(8, dtype=torch.float64), problem.cov)
    outside = torch.eye(8, dtype=torch.float64) - inverse @ problem.matrix
    gradient = missing @ (outside @ jacobian).mT * SIGMA**2 / problem.prior.error(SIGMA)
    torch.testing.assert_close(found.clean, mean + missing + gradient, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.noise, (noisy - mean - gradient) / SIGMA * (LOWER / SIGMA), atol=1e-9, rtol=1e-9)
    assert float(likelihood.residual(found.clean).abs().max()) < 1e-12


def test_with_one_error_in_all_directions_the_gradient_vanishes() -> None:
    problem = quiet(published("iso64"))
    noisy = random((1, 64), torch.float64, "noisy")
    plain, pulled = (k(problem.prior, problem.likelihood()).estimate(noisy, SIGMA, LOWER, torch.zeros_like) for k in (NullSpace, Manifold))
    torch.testing.assert_close(plain.clean, pulled.clean, atol=1e-10, rtol=0)


def test_the_gradient_of_the_norm_has_its_published_length() -> None:
    problem = dense(8, 6)
    likelihood, noisy = exact(problem, spectrum=True), random((2, 8), torch.float64, "noisy")
    square = Manifold(problem.prior, likelihood, length=lambda prior, missing, pulled, sigma: torch.ones(()))
    norm = Manifold(problem.prior, likelihood, length=unit_length, weight=0.1, whole=True)
    base = NullSpace(problem.prior, likelihood).estimate(noisy, SIGMA, LOWER, torch.zeros_like)
    first, second = (step.estimate(noisy, SIGMA, LOWER, torch.zeros_like) for step in (square, norm))
    missing = base.clean - problem.prior.denoise(noisy, SIGMA)
    torch.testing.assert_close(second.clean - base.clean, 0.1 * (first.clean - base.clean) / missing.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(second.noise, base.noise)


@pytest.mark.parametrize(("whole", "dmean", "null"), [(False, 0.041, 0.958), (True, 0.100, 0.865)])
def test_the_gradient_helps_where_nothing_is_measured(whole: bool, dmean: float, null: float) -> None:
    problem = quiet(published("aniso64"))
    found = result(problem, Manifold(problem.prior, problem.likelihood(), length=free, whole=whole), 100)
    assert (found.dmean, found.sd_null) == pytest.approx((dmean, null), abs=0.01)


@pytest.mark.parametrize(("kind", "setting"), [(NullSpace, {"eta": 1.5}), (Manifold, {"weight": -1.0}), (Spectral, {"eta_b": 2.0})])
def test_settings_out_of_range_are_refused_by_name(kind, setting: dict[str, float]) -> None:  # type: ignore[no-untyped-def, type-arg]
    problem = dense(8, 6)
    with pytest.raises(BadInput, match=next(iter(setting))):
        kind(problem.prior, problem.likelihood(), **setting)
