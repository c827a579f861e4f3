"""Maximum likelihood of counts: kept totals, a likelihood that never falls, the maximum itself."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Diagonal
from medrecon.linop.laws import random
from medrecon.solvers.emission import mlem, mltr, osem
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.poisson import Poisson, Transmission
from tests.solvers.tomography import Cuttable, Rays, disc, parallel_beam

IMAGE = (7, 9)


def scanner(n_views: int = 24) -> Cuttable:
    return Cuttable(parallel_beam(IMAGE, n_views, 13), IMAGE)


def drawn(mean: Tensor, seed: int = 0) -> Tensor:
    return torch.poisson(mean, torch.Generator().manual_seed(seed))


def emission(background: float = 0.0, activity: float = 5.0, n_views: int = 24) -> Poisson:
    """With attenuation by ray, as in positron emission."""
    A = Diagonal(random((n_views, 13), torch.float64, "attenuation").sigmoid()) @ (activity * scanner(n_views))
    extra = background * (0.5 + random(A.range, torch.float64, "background").sigmoid())
    return Poisson(A, drawn(A(disc(IMAGE)) + extra), extra)


def transmission(background: float = 0.0, photons: float = 500.0) -> Transmission:
    A = 0.3 * scanner()
    incident = photons * (0.5 + random(A.range, torch.float64, "bowtie").sigmoid())
    return Transmission(A, drawn(incident * torch.exp(-A(disc(IMAGE))) + background), incident, background)


def start(*batch: int) -> Tensor:
    return torch.zeros(*batch, *IMAGE, dtype=torch.float64)


def log_likelihood(mean: Tensor, y: Tensor) -> Tensor:
    return (torch.xlogy(y, mean) - mean).sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_counts_are_kept_without_background(dtype: torch.dtype) -> None:
    found = emission()
    matrix = (found.A.left.values.unsqueeze(-1) * 5 * scanner().matrix).to(dtype)
    likelihood = Poisson(Cuttable(matrix, IMAGE), found.y.to(dtype))
    for step, _ in zip(mlem(likelihood, start().to(dtype)), range(20), strict=False):
        assert step.x.dtype == dtype
        # Rays that miss the image hold no counts here, else they could not be kept.
        assert float(likelihood.A(step.x).sum() / likelihood.y.sum()) == pytest.approx(1, abs=1e-5)


def test_with_background_the_total_is_that_of_the_counts_shares() -> None:
    likelihood = emission(3.0)
    x = random(IMAGE, torch.float64, "start").abs()
    for step, _ in zip(mlem(likelihood, x), range(10), strict=False):
        mean = likelihood.expected(x)
        expected = (likelihood.y * (mean - likelihood.background) / mean).sum()
        torch.testing.assert_close(likelihood.A(step.x).sum(), expected, rtol=1e-7, atol=0)
        x = step.x


@pytest.mark.parametrize("background", [0.0, 3.0])
def test_the_likelihood_of_an_emission_never_falls(background: float) -> None:
    likelihood = emission(background)
    steps = [step for step, _ in zip(mlem(likelihood, start()), range(60), strict=False)]
    found = torch.stack([log_likelihood(likelihood.expected(step.x), likelihood.y) for step in steps])
    assert bool((found.diff() >= -1e-12 * found[1:].abs()).all())
    told = torch.stack([step.measure for step in steps if step.measure is not None]) * likelihood.n_data
    torch.testing.assert_close(told[1:].diff(), -found[:-1].diff(), rtol=1e-6, atol=1e-8)


def maximum(likelihood: Poisson | Transmission) -> Tensor:
    """By another minimiser."""

    def objective(values: object) -> tuple[float, object]:
        x = torch.as_tensor(values).reshape(likelihood.domain)
        return float(likelihood.value(x)), likelihood.gradient(x).flatten().numpy()

    begin = torch.full(likelihood.domain, 0.5, dtype=torch.float64).flatten().numpy()
    options = {"maxiter": 20000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(objective, begin, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(begin), options=options)
    return torch.from_numpy(found.x).reshape(likelihood.domain)


SMALL = (3, 4)


def random_rays() -> Cuttable:
    """Rays that meet half of the pixels: well conditioned, unlike a scanner's."""
    values = random((8, 5, 12), torch.float64, "sparse")
    return Cuttable(values.abs() * (values > 0), SMALL)


def test_the_limit_of_an_emission_is_its_maximum() -> None:
    A = random_rays()
    likelihood = Poisson(A, drawn(A(20 * disc(SMALL)) + 3), 3.0)
    best = maximum(likelihood)
    assert float(best.min()) == 0, "some pixels are at the bound"
    found = run(mlem(likelihood, torch.zeros(SMALL, dtype=torch.float64)), limit=1500).x
    torch.testing.assert_close(found, best, atol=1e-2, rtol=0)
    assert float(likelihood.value(found) - likelihood.value(best)) < 1e-4


@pytest.mark.parametrize("background", [0.0, 20.0])
def test_the_limit_of_a_transmission_is_its_maximum(background: float) -> None:
    A = 0.2 * random_rays()
    likelihood = Transmission(A, drawn(200 * torch.exp(-A(disc(SMALL))) + background), 200.0, background)
    found = run(mltr(likelihood, torch.zeros(SMALL, dtype=torch.float64), subsets=1), limit=800).x
    best = maximum(likelihood)
    assert float(best.min()) == 0, "some pixels are at the bound"
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)


def test_ordered_subsets_are_as_many_times_as_fast() -> None:
    likelihood = emission(3.0, activity=50.0)
    ordered, plain = run(osem(likelihood, start(), subsets=4), limit=5).x, run(mlem(likelihood, start()), limit=20).x
    assert float((ordered - plain).norm() / plain.norm()) < 0.05
    slow = run(mlem(likelihood, start()), limit=5).x
    assert float(likelihood.value(ordered)) < 0.9 * float(likelihood.value(slow))


@pytest.mark.parametrize("subsets", [1, 4])
def test_one_pass_is_the_formula(subsets: int) -> None:
    likelihood = emission(3.0)
    x = random(IMAGE, torch.float64, "start").abs() + 0.1
    found = run(osem(likelihood, x, subsets=subsets), limit=1).x.flatten()
    matrix = likelihood.A(torch.eye(63, dtype=torch.float64).reshape(63, *IMAGE)).permute(1, 2, 0)
    x = x.flatten()
    for first in [0] if subsets == 1 else [0, 2, 1, 3]:
        rows, y, extra = (t[first::subsets].reshape(-1, *t.shape[2:]) for t in (matrix, likelihood.y, likelihood.background))
        x = x / rows.sum(0) * (rows.T @ (y / (rows @ x + extra)))
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("background", [0.0, 20.0])
def test_the_likelihood_of_a_transmission_never_falls(background: float) -> None:
    history = torch.stack(run(mltr(transmission(background), start(), subsets=1), limit=100).history)
    assert bool((history.diff() <= 1e-12 * history[:-1]).all())
    assert float(history[-1]) < 1


@pytest.mark.parametrize("background", [0.0, 5.0])
def test_the_parabola_of_a_ray_lies_above_its_likelihood(background: float) -> None:
    """For every line integral that is not negative, from every other: counts above and below the mean."""
    A = Cuttable(torch.ones(1, 1, 1, dtype=torch.float64), (1, 1))
    for y in (0.0, 3.0, 40.0, 150.0):
        likelihood = Transmission(A, torch.tensor([[y]], dtype=torch.float64), 100.0, background)
        for begin in (0.0, 1e-3, 0.3, 2.0, 6.0):
            x = torch.tensor([[begin]], dtype=torch.float64)
            found = run(mltr(likelihood, x, subsets=1), limit=1).x
            assert float(likelihood.value(found)) <= float(likelihood.value(x)) + 1e-9


def test_few_views_at_a_time_reach_the_maximum_of_a_transmission_sooner() -> None:
    likelihood = transmission(20.0)
    ordered, plain = (run(mltr(likelihood, start(), subsets=subsets), limit=5).x for subsets in (6, 1))
    best = likelihood.value(maximum(likelihood))
    assert float(likelihood.value(ordered) - best) < 0.3 * float(likelihood.value(plain) - best)


@pytest.mark.parametrize("method", [mlem, osem, mltr])
def test_a_batch_is_its_items_and_single_precision_is_near(method: object) -> None:
    A = 0.3 * scanner()
    x = torch.stack([disc(IMAGE), 0.4 * disc(IMAGE)])
    extra = torch.tensor([1.0, 4.0], dtype=torch.float64)[:, None, None]

    def likelihood(y: Tensor, background: Tensor) -> Poisson | Transmission:
        return Transmission(A, y, 200.0, background) if method is mltr else Poisson(A, y, background)

    y = drawn(200 * torch.exp(-A(x)) + extra) if method is mltr else drawn(A(10 * x) + extra)
    both = run(method(likelihood(y, extra), start(1, 2)), limit=6).x[0]  # type: ignore[operator]
    for item in range(2):
        alone = run(method(likelihood(y[item], extra[item]), start()), limit=6).x  # type: ignore[operator]
        torch.testing.assert_close(both[item], alone, atol=1e-12, rtol=1e-12)
    A = 0.3 * Rays(scanner().matrix.float(), IMAGE)
    single = run(method(likelihood(y.float(), extra.float()), start(1, 2).float()), limit=6).x[0]  # type: ignore[operator]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), both, atol=1e-4 * float(both.max()), rtol=0)


def test_empty_data_and_unseen_pixels_have_no_activity() -> None:
    A = Cuttable(parallel_beam(IMAGE, 2, 3), IMAGE)
    unseen = A.H(torch.ones(A.range, dtype=torch.float64)) == 0
    assert bool(unseen.any())
    found = run(osem(Poisson(A, A(disc(IMAGE))), start()), limit=5).x
    assert float(found[unseen].max()) <= 1e-8
    assert float(found[~unseen].max()) > 0.5
    assert float(run(mlem(Poisson(A, torch.zeros(A.range, dtype=torch.float64)), start()), limit=2).x.abs().max()) == 0


def test_a_ray_that_cannot_be_explained_is_no_trap() -> None:
    A = Cuttable(parallel_beam(IMAGE, 4, 31), IMAGE)
    y = A(disc(IMAGE))
    y[0, 0] = 7
    finished = run(mlem(Poisson(A, y), start()), limit=50)
    assert float((finished.x - run(mlem(Poisson(A, A(disc(IMAGE))), start()), limit=50).x).abs().max()) < 1.0


def test_what_cannot_be_done_is_refused() -> None:
    likelihood = emission()
    for method in (mlem, osem, mltr):
        with pytest.raises(NotSupported, match="not Gaussian"):
            run(method(Gaussian(likelihood.A, likelihood.y), start()), limit=1)
    with pytest.raises(NotSupported, match="complex"):
        run(mlem(likelihood, start().to(torch.complex128)), limit=1)
    with pytest.raises(NotSupported, match="negative entries"):
        run(mlem(Poisson(-likelihood.A, likelihood.y), start()), limit=1)
    with pytest.raises(NotSupported, match="0 is no activity"):
        run(osem(Poisson(likelihood.A, likelihood.y, lowest=-1.0), start()), limit=1)
