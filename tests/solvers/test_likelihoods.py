"""Likelihoods that are not plain Gaussian: values, gradients, linearisations and proximal steps against closed forms and grids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.basic import Identity, Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.solvers.likelihood import Gaussian, Likelihood, weighted
from medrecon.solvers.nonlinear import Nonlinear
from medrecon.solvers.poisson import Poisson, Transmission, deviance
from tests.solvers.systems import Matrix

C128, F64 = torch.complex128, torch.float64
BATCH, N, M = 3, 5, 7


def magnitude(dtype: torch.dtype, data: torch.dtype = F64) -> Nonlinear:
    """Phase retrieval |F x| for a real or complex image, noisy."""
    A = Matrix(random((M, N), C128, "matrix"))
    predict = lambda x: A(x.to(C128)).abs().to(data)  # noqa: E731
    truth = random((BATCH, N), dtype, "truth")
    return Nonlinear(predict, predict(truth) + random((BATCH, M), data, "noise"), (N,), data_axes=1)


def phased(dtype: torch.dtype) -> Nonlinear:
    """Complex data of a real image or of a complex one: exp(i q x) (1 + x^2 / 2)."""
    A = Matrix(0.5 * random((M, N), dtype, "matrix"))

    def predict(x: Tensor) -> Tensor:
        seen = A(x)
        return torch.exp(0.3j * seen.real) * (1 + 0.5 * seen**2)

    return Nonlinear(predict, predict(random((BATCH, N), dtype, "truth")), (N,), data_axes=1)


def activity(name: str = "activity") -> Tensor:
    return random((BATCH, N), F64, name).abs() + 0.2


def emission(level: float = 3.0, background: float = 0.5) -> Poisson:
    A = Matrix(level * random((M, N), F64, "rates").abs())
    counts = torch.poisson(A(activity()) + background, generator=torch.Generator().manual_seed(2))
    counts[0, 0] = 0
    return Poisson(A, counts, background)


def transmission(incident: float = 50.0, background: float = 2.0) -> Transmission:
    A = Matrix(0.3 * random((M, N), F64, "paths").abs())
    counts = torch.poisson(incident * torch.exp(-A(activity()) - 0.1) + background, generator=torch.Generator().manual_seed(2))
    counts[0, 0] = 0
    return Transmission(A, counts, incident, background, offset=0.1)


ALL: dict[str, tuple[Callable[[], Likelihood], torch.dtype]] = {
    "magnitude of a complex image": (lambda: magnitude(C128), C128),
    "magnitude of a real image": (lambda: magnitude(F64), F64),
    "complex data of a real image": (lambda: phased(F64), F64),
    "complex data of a complex image": (lambda: phased(C128), C128),
    "emission": (emission, F64),
    "emission without background": (lambda: emission(background=0.0), F64),
    "transmission": (transmission, F64),
    "transmission without background": (lambda: transmission(background=0.0), F64),
}
every = pytest.mark.parametrize("name", ALL)


def made(name: str) -> tuple[Likelihood, Tensor]:
    """The likelihood and images at which to look, (2, batch, n), among them some that are not physical."""
    make, dtype = ALL[name]
    x = random((2, BATCH, N), dtype, "x")
    return make(), torch.cat([x[:1], x[1:].abs() + 0.1]) if not dtype.is_complex else x


def parts(x: Tensor) -> list[Tensor]:
    """Unit changes of each real component of an image like x."""
    units = list(torch.eye(N, dtype=x.dtype))
    return units + [1j * unit for unit in units] if x.is_complex() else units


@every
def test_the_gradient_is_that_of_the_value_by_differences(name: str) -> None:
    likelihood, x = made(name)
    gradient, h = likelihood.gradient(x), 1e-5
    assert gradient.shape == x.shape
    for unit in parts(x):
        slope = (likelihood.value(x + h * unit) - likelihood.value(x - h * unit)) / (2 * h)
        assert torch.allclose(slope[..., 0], (gradient * unit.conj()).real.sum(-1), rtol=1e-5, atol=1e-5)


@every
def test_the_value_can_be_differentiated_to_the_same_gradient(name: str) -> None:
    likelihood, x = made(name)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.value(leaf).sum(), leaf)
    assert torch.allclose(slope, likelihood.gradient(x), rtol=1e-9, atol=1e-9)


@every
def test_each_item_is_independent_of_its_batch_mates(name: str) -> None:
    likelihood, x = made(name)
    v = x[1]
    whole = likelihood.prox(v, 0.7, steps=30, tolerance=1e-9)
    for item in range(BATCH):
        changed = torch.where(torch.arange(BATCH)[:, None] == item, v, 3 * v + 1)
        alone = likelihood.prox(changed, 0.7, steps=30, tolerance=1e-9)
        assert torch.allclose(whole[item], alone[item], rtol=1e-10, atol=1e-12)


@every
def test_the_linearised_likelihood_has_the_same_gradient_there(name: str) -> None:
    likelihood, x = made(name)
    model = likelihood.linearised(x)
    assert torch.allclose(model.gradient(x), likelihood.gradient(x), rtol=1e-9, atol=1e-8)
    if float(likelihood.y.real.min()) > 1 or isinstance(likelihood, Nonlinear):
        assert torch.allclose(model.residual(x), likelihood.residual(x), atol=1e-10)
    v, w = random(x.shape, x.dtype, "v"), random(likelihood.residual(x).shape, model.y.dtype, "w")
    left, right = (model.A(v) * w.conj()).real.sum(-1), (v * model.A.H(w).conj()).real.sum(-1)
    assert torch.allclose(left, right, atol=1e-8 * float(left.abs().max()))


@every
def test_the_proximal_step_never_raises_the_objective_however_often_it_refreshes(name: str) -> None:
    likelihood, x = made(name)
    v = x.abs() if isinstance(likelihood, Poisson) else x
    for rho in (1e-3, 1.0, torch.logspace(-2, 2, BATCH, dtype=F64)[:, None]):
        before = likelihood.value(v)
        for refreshes in (1, 2, 5):
            likelihood.refreshes = refreshes  # type: ignore[attr-defined]
            z = likelihood.prox(v, rho, steps=4)
            after = likelihood.value(z) + rho / 2 * (z - v).abs().square().sum(-1, keepdim=True)
            assert bool((after <= before * (1 + 1e-12) + 1e-12).all())
            before = after


@every
def test_the_converged_proximal_step_is_stationary(name: str) -> None:
    likelihood, x = made(name)
    likelihood.refreshes = 60  # type: ignore[attr-defined]
    v, rho = x[1], 2.0
    z = likelihood.prox(v, rho, steps=12, tolerance=1e-9)
    slope = likelihood.gradient(z) + rho * (z - v)
    if isinstance(likelihood, Poisson):
        assert bool((z >= 0).all())
        slope = torch.where(z > 0, slope, slope.clamp(max=0))  # at the bound it may point outwards
    assert float(slope.abs().max()) < 1e-5


def test_an_emission_image_stays_positive_where_the_bound_holds() -> None:
    likelihood = emission(level=0.3)
    likelihood.refreshes = 50
    v = -random((BATCH, N), F64, "negative").abs()
    z = likelihood.prox(v, 1.0, steps=50, tolerance=1e-10)
    slope = likelihood.gradient(z) + (z - v)
    assert bool((z == 0).any())
    assert bool((z > 0).any())
    assert float(torch.where(z > 0, slope.abs(), -slope).max()) < 1e-6


@pytest.mark.parametrize(("field", "data"), [(F64, F64), (C128, C128)])
def test_a_linear_function_is_the_gaussian_likelihood(field: torch.dtype, data: torch.dtype) -> None:
    A = Matrix(random((M, N), field, "matrix"))
    y, x = random((BATCH, M), data, "y"), random((2, BATCH, N), field, "x")
    linear, curved = Gaussian(A, y), Nonlinear(A, y, (N,), data_axes=1)
    for one, other in ((linear, curved), (linear, curved.linearised(x))):
        assert torch.allclose(one.residual(x), other.residual(x))
        assert torch.allclose(one.value(x), other.value(x))
        assert torch.allclose(one.gradient(x), other.gradient(x))
        assert torch.allclose(one.chi2(x), other.chi2(x))
        assert torch.allclose(one.prox(x, 0.4, steps=50, tolerance=1e-12), other.prox(x, 0.4, steps=50, tolerance=1e-12), atol=1e-9)
        assert one.n_data == other.n_data
    assert linear.linearised(x) is linear


def test_an_image_shared_by_several_scans_has_a_gradient_for_each() -> None:
    A = Matrix(random((M, N), C128, "matrix"))
    y, x = random((BATCH, M), C128, "y"), random((N,), C128, "x")
    assert torch.allclose(Gaussian(A, y).gradient(x), Nonlinear(A, y, (N,), data_axes=1).gradient(x))


def test_the_jacobian_is_a_matrix_over_real_components() -> None:
    likelihood, x = magnitude(C128), random((BATCH, N), C128, "x")
    J, h = likelihood.linearised(x).A, 1e-6
    v = random((BATCH, N), C128, "v")
    assert torch.allclose(J(v), (likelihood.A(x + h * v) - likelihood.A(x - h * v)) / (2 * h), atol=1e-6)
    assert J(v).dtype == F64


def test_single_precision_stays_single() -> None:
    A = Matrix(random((M, N), torch.complex64, "matrix"))
    curved = Nonlinear(lambda x: A(x).abs(), torch.ones(M), (N,))
    z = curved.prox(random((2, N), torch.complex64, "v"), torch.tensor(0.5, dtype=F64))
    counts = Poisson(Matrix(random((M, N), torch.float32, "m").abs()), torch.ones(M))
    assert z.dtype == torch.complex64
    assert counts.prox(torch.ones(2, N), torch.tensor(0.5, dtype=F64)).dtype == torch.float32
    assert counts.gradient(torch.ones(N)).dtype == torch.float32


def test_a_function_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(BadInput, match="leading axes"):
        Nonlinear(lambda x: x.sum(-1), torch.ones(4), (4,)).residual(torch.ones(2, 4))
    with pytest.raises(BadInput, match="data_axes"):
        Nonlinear(lambda x: x, torch.ones(4), (4,), data_axes=2)


def minimum(objective: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    grid = torch.linspace(low, high, 20_001, dtype=F64)
    near = float(grid[objective(grid[:, None]).flatten().argmin()])
    fine = (near + (high - low) / 20_000 * torch.linspace(-1, 1, 20_001, dtype=F64)).clamp(low, high)
    return float(fine[objective(fine[:, None]).flatten().argmin()])


@pytest.mark.parametrize("v", [-1.4, 0.3, 2.5])
def test_the_magnitude_of_a_number_gives_the_minimum_on_its_side(v: float) -> None:
    likelihood = Nonlinear(lambda x: 3 * x.abs(), torch.tensor([4.0], dtype=F64), (1,))
    z = likelihood.prox(torch.tensor([v], dtype=F64), 2.0, tolerance=1e-10)
    side = (-5.0, 0.0) if v < 0 else (0.0, 5.0)
    assert float(z) == pytest.approx(minimum(lambda x: likelihood.value(x) + (x - v) ** 2, *side), abs=1e-4)


@pytest.mark.parametrize("counts", [0.0, 1.0, 7.0, 400.0])
@pytest.mark.parametrize("kind", ["emission", "transmission"])
@pytest.mark.parametrize("start", [0.0, 0.5, 3.0])
def test_the_proximal_step_of_one_count_is_the_minimum_on_a_grid(kind: str, counts: float, start: float) -> None:
    y, one = torch.tensor([counts], dtype=F64), Matrix(torch.full((1, 1), 2.0, dtype=F64))
    likelihood = Poisson(one, y, 0.3, refreshes=30) if kind == "emission" else Transmission(one, y, 100.0, 0.3, refreshes=30)
    z = likelihood.prox(torch.tensor([start], dtype=F64), 0.5, tolerance=1e-10)
    low, high = (0.0, 250.0) if kind == "emission" else (-5.0, 8.0)
    grid = minimum(lambda x: likelihood.value(x) + 0.25 * (x - start) ** 2, low, high)
    assert float(z) == pytest.approx(grid, abs=1e-4)


def test_many_counts_are_a_gaussian_with_their_variance() -> None:
    A = Matrix(1e7 * random((M, N), F64, "rates").abs())
    truth = activity()
    y = torch.poisson(A(truth), generator=torch.Generator().manual_seed(3))
    counts, gaussian = Poisson(A, y), weighted(A, y, 1 / y)
    x = truth * (1 + 1e-4 * random(truth.shape, F64, "change"))
    assert torch.allclose(counts.value(x), gaussian.value(x), rtol=2e-3)
    assert torch.allclose(counts.chi2(x), gaussian.chi2(x), rtol=2e-3)
    near = counts.prox(x, 1e8, steps=100, tolerance=1e-12)
    assert torch.allclose(near, gaussian.prox(x, 1e8, steps=100, tolerance=1e-12), rtol=1e-6)


def test_many_transmitted_counts_are_line_integrals_weighted_by_the_counts() -> None:
    A = Matrix(0.3 * random((M, N), F64, "paths").abs())
    truth = activity()
    y = torch.poisson(1e9 * torch.exp(-A(truth)), generator=torch.Generator().manual_seed(3))
    x = truth + 1e-6 * random(truth.shape, F64, "change")
    counts, logarithm = Transmission(A, y, 1e9), weighted(A, -torch.log(y / 1e9), y)
    assert torch.allclose(counts.value(x), logarithm.value(x), rtol=1e-3)
    assert torch.allclose(counts.gradient(x), logarithm.gradient(x), rtol=1e-3, atol=1e-3 * float(counts.gradient(x).abs().max()))


@pytest.mark.parametrize("mean", [1.0, 4.0, 100.0])
def test_pearson_chi2_of_the_truth_is_one(mean: float) -> None:
    image = torch.full((20_000,), mean, dtype=F64)
    y = torch.poisson(image + 0.5, generator=torch.Generator().manual_seed(4))
    # Variance of chi2 per count: 2 + 1 / mean.
    assert float(Poisson(Identity(image.shape), y, 0.5).chi2(image)) == pytest.approx(1, abs=4 * (3 / 20_000) ** 0.5)


@pytest.mark.parametrize(("rate", "background", "counts"), [(2.0, 0.5, [0, 3, 1]), (40.0, 1.0, [30, 52, 44])])
def test_the_posterior_of_a_log_concave_count_by_quadrature(rate: float, background: float, counts: list[int]) -> None:
    y = torch.tensor(counts, dtype=F64)
    A = Matrix(rate * torch.ones(3, 1, dtype=F64))
    likelihood = Poisson(A, y, background, refreshes=30)
    prior_mean, rho = 1.0, 1.5
    grid = torch.linspace(0, 8, 80_001, dtype=F64)[:, None]
    exact = torch.distributions.Poisson(A(grid) + background).log_prob(y).sum(-1) - rho / 2 * (grid[:, 0] - prior_mean) ** 2
    ours = -likelihood.value(grid)[:, 0] - rho / 2 * (grid[:, 0] - prior_mean) ** 2
    assert float((ours - exact - (ours - exact).mean()).abs().max()) < 1e-9
    density = (exact - exact.max()).exp()
    density = density / density.sum()
    mean = (density * grid[:, 0]).sum()
    std = float(((grid[:, 0] - mean) ** 2 * density).sum().sqrt())
    mode = float(likelihood.prox(torch.tensor([prior_mean], dtype=F64), rho, tolerance=1e-10))
    assert mode == pytest.approx(float(grid[density.argmax()]), abs=1e-4)
    # A unimodal density has its mode within sqrt 3 standard deviations of the mean, and its curvature nearly their inverse square.
    assert abs(mode - float(mean)) < 3**0.5 * std
    fisher = float(likelihood.linearised(torch.tensor([mode], dtype=F64)).normal(torch.ones(1, dtype=F64))) + rho
    assert fisher**-0.5 == pytest.approx(std, rel=0.2)


def test_the_deviance_is_exact_in_single_precision_for_many_counts() -> None:
    y = torch.tensor([1e6, 4e6, 0.0, 3.0], dtype=F64)
    mean = torch.tensor([1e6 + 1000, 4e6 - 1000, 0.02, 2.5], dtype=F64)
    exact = mean - y + torch.xlogy(y, y / mean)
    assert torch.allclose(deviance(mean.float(), y.float()).double(), exact, rtol=1e-3)


def test_no_image_is_so_wrong_that_the_likelihood_of_counts_is_not_finite() -> None:
    y = torch.tensor([0.0, 1.0, 1e5])
    for likelihood in (Poisson(Identity((3,)), y), Transmission(Identity((3,)), y, 1e5), Transmission(Identity((3,)), y, 1e5, 1.0)):
        for level in (-1e4, -1.0, 0.0, 90.0, 1e4):
            x = torch.full((3,), level)
            for finite in (likelihood.value(x), likelihood.gradient(x), likelihood.residual(x), likelihood.linearised(x).y):
                assert bool(torch.isfinite(finite).all())


def test_counts_must_be_real_and_not_negative() -> None:
    with pytest.raises(BadInput, match=">= 0"):
        Poisson(Identity((2,)), torch.tensor([1.0, -1.0]))
    with pytest.raises(BadInput, match="background"):
        Poisson(Identity((2,)), torch.ones(2), -1.0)
    with pytest.raises(BadInput, match="real"):
        Poisson(Identity((2,)), torch.ones(2)).value(torch.ones(2, dtype=C128))
    with pytest.raises(BadInput, match="rho > 0"):
        Poisson(Identity((2,)), torch.ones(2)).prox(torch.ones(2), 0.0)


def test_what_has_no_linearisation_says_so() -> None:
    class Bare(Gaussian):
        linearised, prox = Likelihood.linearised, Likelihood.prox

    bare = Bare(Identity((2,)), torch.ones(2))
    with pytest.raises(NotSupported, match="gradient only"):
        bare.linearised(torch.ones(2))
    with pytest.raises(NotSupported, match="gradient only"):
        bare.prox(torch.ones(2), 1.0)


@pytest.mark.parametrize("dtype", [F64, C128])
def test_weights_are_inverse_variances(dtype: torch.dtype) -> None:
    A = Matrix(random((M, N), dtype, "matrix"))
    y, x = random((BATCH, M), dtype, "y"), random((BATCH, N), dtype, "x")
    weights = torch.rand(BATCH, M, generator=torch.Generator().manual_seed(5), dtype=F64) + 0.1
    likelihood = weighted(A, y, weights)
    assert torch.allclose(likelihood.value(x)[:, 0], (weights * (A(x) - y).abs() ** 2).sum(-1) / 2)
    assert torch.allclose(weighted(A, y, noise_std=weights.rsqrt()).gradient(x), likelihood.gradient(x))
    assert torch.allclose(weighted(A, y, weights / 4, noise_std=0.5).gradient(x), likelihood.gradient(x))
    normal = A.matrix.mH @ (weights[0, :, None] * A.matrix) + 0.3 * torch.eye(N, dtype=F64)
    exact = torch.linalg.solve(normal, A.matrix.mH @ (weights[0] * y[0]) + 0.3 * x[0])
    assert torch.allclose(likelihood.prox(x, 0.3, steps=50, tolerance=1e-13)[0], exact)
    same = weighted(A, y, noise_std=0.2)
    assert torch.allclose(same.gradient(x), Gaussian(5.0 * A, 5.0 * y).gradient(x))


def test_a_sample_without_weight_counts_as_not_acquired() -> None:
    mask = torch.arange(8) % 2 == 0
    A = Mask(mask) @ Fourier((8,))
    y = torch.zeros(8, dtype=C128)
    weights = torch.ones(8)
    assert weighted(A, y, weights).n_data == 8
    weights[1] = 0  # not in the mask
    assert weighted(A, y, weights).n_data == 8
    weights[2:6] = 0  # two of four
    assert weighted(A, y, weights).n_data == 4


def test_weights_that_are_none_are_refused() -> None:
    A, y = Identity((3,)), torch.ones(2, 3)
    with pytest.raises(BadInput, match="weights"):
        weighted(A, y, torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(BadInput, match="weight 0"):
        weighted(A, y, noise_std=0.0)
    with pytest.raises(BadInput, match="broadcast"):
        weighted(A, y, torch.ones(4))
