"""SIRT, ordered SART and CGLS against dense solutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Diagonal, Mask
from medrecon.linop.laws import adjoint_error, random
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.algebraic import cgls, os_sart, sirt
from medrecon.solvers.likelihood import Gaussian, weighted
from medrecon.solvers.poisson import Poisson
from medrecon.solvers.subsets import Rows, bit_reversed, interleaved, of_views, subset
from tests.solvers.systems import Matrix
from tests.solvers.tomography import Cuttable, Rays, disc, parallel_beam

IMAGE = (7, 9)


def positive(shape: tuple[int, ...], name: str) -> Tensor:
    """Numbers between 0.5 and 1.5."""
    return 0.5 + random(shape, torch.float64, name).sigmoid()


def scanner(kind: type[Rays] = Cuttable, n_views: int = 12, n_bins: int = 13) -> Rays:
    return kind(parallel_beam(IMAGE, n_views, n_bins), IMAGE)


def sparse_matrix(batch: tuple[int, ...] = (), rows: int = 40, columns: int = 12) -> Tensor:
    values = random((*batch, rows, columns), torch.float64, "sparse")
    return values.abs() * (values > 0)


def dense(A: LinearOperator) -> Tensor:
    """(data, pixels)."""
    n = torch.Size(A.domain).numel()
    return A(torch.eye(n, dtype=torch.float64).reshape(n, *A.domain)).reshape(n, -1).T


def start(A: LinearOperator, *batch: int) -> Tensor:
    return torch.zeros(*batch, *A.domain, dtype=torch.float64)


def test_the_fixed_point_of_sirt_solves_its_weighted_normal_equations() -> None:
    matrix = sparse_matrix() + 0.1
    y = random((40,), torch.float64, "y")
    found = run(sirt(Gaussian(Matrix(matrix), y), torch.zeros(12, dtype=torch.float64), relaxation=1.9), limit=600).x
    root = matrix.sum(1).rsqrt()
    torch.testing.assert_close(found, torch.linalg.lstsq(root[:, None] * matrix, (root * y)[:, None]).solution[:, 0], atol=1e-8, rtol=1e-8)


def test_weights_count_by_their_root_over_the_length_of_the_ray() -> None:
    matrix, y, w = sparse_matrix() + 0.1, random((40,), torch.float64, "y"), positive((40,), "w")
    found = run(sirt(weighted(Matrix(matrix), y, w), torch.zeros(12, dtype=torch.float64), relaxation=1.9), limit=600).x
    root = (w.sqrt() / matrix.sum(1)).sqrt()
    torch.testing.assert_close(found, torch.linalg.lstsq(root[:, None] * matrix, (root * y)[:, None]).solution[:, 0], atol=1e-8, rtol=1e-8)


def test_the_misfit_of_sirt_never_rises_and_is_that_of_the_image_before() -> None:
    A = scanner()
    y = A(disc(IMAGE)) + 0.3 * random(A.range, torch.float64, "noise")
    finished = run(sirt(Gaussian(A, y), start(A)), limit=60)
    history = torch.stack(finished.history)
    assert float(history[0]) == pytest.approx(1, abs=1e-12)
    assert bool((history.diff() <= 1e-14).all())
    assert float(history[-1]) < 0.5


def rays(n_views: int, n_bins: int, image: tuple[int, int]) -> Cuttable:
    """Random rays that meet half of the pixels: well conditioned, unlike a scanner's."""
    n = image[0] * image[1]
    return Cuttable(sparse_matrix((), n_views * n_bins, n).reshape(n_views, n_bins, n), image)


@pytest.mark.parametrize("subsets", [1, 2, 4, 5])
def test_consistent_data_lead_from_anywhere_to_the_nearest_solution(subsets: int) -> None:
    """Fewer data than pixels: the limit is the start plus C A^T (...), whatever the number of subsets."""
    A = rays(5, 3, IMAGE)
    truth, first = disc(IMAGE), random(IMAGE, torch.float64, "start")
    found = run(os_sart(Gaussian(A, A(truth)), first, subsets=subsets, relaxation=1.0, decay=1.0), limit=500).x
    matrix = dense(A)
    root = torch.stack([dense(A.subset(views)).sum(0) for views in interleaved(5, subsets)]).amax(0).rsqrt()
    nearest = root * (torch.linalg.pinv(matrix * root) @ (A(truth - first)).flatten())
    torch.testing.assert_close(found, first + nearest.reshape(IMAGE), atol=1e-6, rtol=0)


def test_as_many_subsets_as_views_are_kaczmarz_for_rays_that_do_not_meet() -> None:
    """One bin a view: rows in turn. A row's step projects onto its hyperplane in the metric 1 / C."""
    A = Cuttable(parallel_beam(IMAGE, 12, 1) + 0.01, IMAGE)
    y = A(disc(IMAGE))
    steps = os_sart(Gaussian(A, y), start(A), subsets=100, relaxation=1.0, decay=1.0)
    found = run(steps, limit=1).x.flatten()
    matrix, x = dense(A), torch.zeros(63, dtype=torch.float64)
    columns = 1 / matrix.amax(0)
    for k in bit_reversed(12):
        x = x + columns * matrix[k] * (y.flatten()[k] - matrix[k] @ x) / matrix[k].sum()
    torch.testing.assert_close(found, x)


def test_ordered_subsets_are_faster_at_the_same_cost() -> None:
    A = scanner(n_views=24)
    likelihood = Gaussian(A, A(disc(IMAGE)))
    ordered, plain = (run(method(likelihood, start(A)), limit=5).x - disc(IMAGE) for method in (os_sart, sirt))
    assert float(ordered.norm()) < 0.7 * float(plain.norm())


def test_ordered_subsets_that_relax_end_at_the_least_squares_of_sirt() -> None:
    A = rays(6, 6, (3, 4))
    likelihood = Gaussian(A, A(disc((3, 4))) + random(A.range, torch.float64, "noise"))
    limit = run(sirt(likelihood, start(A), relaxation=1.9), limit=500).x
    relaxed, cycling = (run(os_sart(likelihood, start(A), subsets=3, decay=decay), limit=600).x - limit for decay in (0.99, 1.0))
    assert float(relaxed.norm()) < 5e-3 * float(limit.norm()) < 0.1 * float(cycling.norm())


@pytest.mark.parametrize("method", [sirt, os_sart])
def test_a_lower_bound_is_kept(method: object) -> None:
    A = scanner()
    y = A(disc(IMAGE)) + random(A.range, torch.float64, "noise")
    found = run(method(Gaussian(A, y), start(A), lowest=0.25), limit=20).x  # type: ignore[operator]
    assert float(found.min()) == 0.25
    assert float(found.max()) > 0.5


def test_the_residual_of_cgls_falls_to_the_dense_solution() -> None:
    matrix, y = sparse_matrix() + 0.1, random((40,), torch.float64, "y")
    likelihood = Gaussian(Matrix(matrix), y)
    first = random((12,), torch.float64, "x")
    finished = run(cgls(likelihood, first, discrepancy=0.0, tolerance=1e-10))
    expected = torch.linalg.lstsq(matrix, y[:, None]).solution[:, 0]
    torch.testing.assert_close(finished.x, expected, atol=1e-8, rtol=1e-8)
    history = torch.stack(finished.history)
    assert bool((history.diff() <= 1e-12).all())
    assert float(history[-1]) == pytest.approx(float((matrix @ expected - y).norm()) / 40**0.5)
    assert finished.n_steps <= 20


def test_cgls_takes_complex_images_and_operators_with_a_batch() -> None:
    matrix = random((3, 20, 6), torch.complex128, "matrix")
    y = random((3, 20), torch.complex128, "y")
    found = run(cgls(Gaussian(Matrix(matrix), y), torch.zeros(1, 3, 6, dtype=torch.complex128), discrepancy=0.0, tolerance=1e-11)).x
    torch.testing.assert_close(found[0], torch.linalg.lstsq(matrix, y.unsqueeze(-1)).solution[..., 0], atol=1e-8, rtol=1e-8)


def test_cgls_stops_each_item_at_its_noise() -> None:
    A = scanner(n_views=40)
    noise = random((3, *A.range), torch.float64, "noise")
    std = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)[:, None, None]
    likelihood = weighted(A, A(disc(IMAGE)) + std * noise, noise_std=std)
    finished = run(cgls(likelihood, start(A, 3), discrepancy=1.02, tolerance=0.0), limit=500)
    assert finished.reason == "converged"
    history = torch.stack(finished.history)
    assert bool((history[-1] <= 1.02).all())
    stops = (history <= 1.02).double().argmax(0)
    assert bool((stops.diff() > 0).all()), "less noise, more steps"
    for item, stop in enumerate(stops):
        assert bool((history[stop:, item] == history[stop, item]).all()), "it rests where it stopped"


def test_data_without_a_noise_level_have_no_discrepancy() -> None:
    A = scanner()
    y = 1e-3 * A(disc(IMAGE))
    found = run(cgls(Gaussian(A, y, noisy=False), start(A), tolerance=1e-6), limit=2000)
    assert float((A(found.x) - y).norm() / y.norm()) < 1e-3
    assert run(cgls(Gaussian(A, y), start(A))).n_steps == 1, "noise of unit variance explains all of it"


def test_single_precision_reaches_what_double_does() -> None:
    A = scanner(n_views=40)
    y = 50 * A(disc(IMAGE)) + random(A.range, torch.float64, "noise")
    for method, limit in ((sirt, 30), (os_sart, 10), (cgls, 6)):
        double = run(method(Gaussian(A, y), start(A)), limit=limit).x
        single = run(method(Gaussian(Rays(A.matrix.float(), IMAGE), y.float()), start(A).float()), limit=limit).x
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, atol=2e-4 * float(double.max()), rtol=0)


@pytest.mark.parametrize("method", [sirt, os_sart, cgls])
def test_a_batch_is_its_items(method: object) -> None:
    matrix = torch.stack([scanner().matrix, 3 * scanner().matrix])
    A = Cuttable(matrix, IMAGE)
    w = positive((2, *A.range), "w")
    w[1, 3] = 0
    y = random((2, *A.range), torch.float64, "y") + A(disc(IMAGE))
    both = run(method(weighted(A, y, w), start(A, 1, 2)), limit=7).x[0]  # type: ignore[operator]
    for item in range(2):
        alone = run(method(weighted(Cuttable(matrix[item], IMAGE), y[item], w[item]), start(A)), limit=7).x  # type: ignore[operator]
        torch.testing.assert_close(both[item], alone, atol=1e-12, rtol=1e-12)


def test_pixels_that_no_ray_meets_keep_their_start() -> None:
    A = Cuttable(parallel_beam(IMAGE, 2, 3), IMAGE)
    unseen = A.H(torch.ones(A.range, dtype=torch.float64)) == 0
    assert bool(unseen.any())
    found = run(os_sart(Gaussian(A, A(disc(IMAGE))), torch.full(IMAGE, 0.7, dtype=torch.float64), subsets=2), limit=3).x
    assert bool((found[unseen] == 0.7).all())
    assert bool((found[~unseen] != 0.7).any())


def test_what_cannot_be_done_is_refused() -> None:
    A, y = scanner(), random(scanner().range, torch.float64, "y")
    with pytest.raises(NotSupported, match="negative entries"):
        run(sirt(Gaussian(-A, y), start(A)), limit=1)
    with pytest.raises(NotSupported, match="complex"):
        run(sirt(Gaussian(A, y), start(A).to(torch.complex128)), limit=1)
    with pytest.raises(NotSupported, match="Gaussian likelihood, not Poisson"):
        run(os_sart(Poisson(A, y.abs()), start(A)), limit=1)
    with pytest.raises(BadInput, match="subsets = 0"):
        run(os_sart(Gaussian(A, y), start(A), subsets=0), limit=1)
    with pytest.raises(BadInput, match="relaxation = 2"):
        run(sirt(Gaussian(A, y), start(A), relaxation=2.0), limit=1)


WRAPPED = {
    "multiple": lambda A: 2.5 * A,
    "multiple of each item": lambda A: torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None, None] * A,
    "weights": lambda A: weighted(A, torch.zeros(A.range, dtype=torch.float64), positive(A.range, "w")).A,
    "weights of views": lambda A: Diagonal(positive((A.range[0], 1), "w"), A.range) @ A,
    "weights of bins": lambda A: Diagonal(positive((A.range[1],), "w"), A.range) @ (3.0 * A),
    "mask": lambda A: Mask(positive(A.range, "w") > 1, A.range) @ A,
    "mask of views": lambda A: Mask(positive((A.range[0], 1), "w") > 1, A.range) @ A,
    "image weights": lambda A: A @ Diagonal(positive(A.domain, "w")),
    "sum": lambda A: A + 2.0 * (A @ Diagonal(positive(A.domain, "w"))),
}


@pytest.mark.parametrize("kind", [Rays, Cuttable])
@pytest.mark.parametrize("name", WRAPPED)
def test_a_subset_is_the_rows_of_its_views(name: str, kind: type[Rays]) -> None:
    A = WRAPPED[name](scanner(kind))
    x, y = random((2, *IMAGE), torch.float64, "x"), A(random((2, *IMAGE), torch.float64, "x"))
    groups = interleaved(A.range[0], 5)
    for views in groups:
        part = subset(A, views)
        assert part.range == (len(range(12)[views]), A.range[1])
        torch.testing.assert_close(part(x), of_views(y, views, 2))
        assert adjoint_error(part, torch.float64) < 1e-12
    whole = sum(subset(A, views).H(of_views(y, views, 2)) for views in groups)
    torch.testing.assert_close(whole, A.H(y))
    assert any(isinstance(module, Rows) for module in subset(A, groups[0]).modules()) == (kind is Rays)


@pytest.mark.parametrize(("n_views", "n_subsets"), [(12, 5), (7, 7), (3, 10), (1, 4), (180, 16)])
def test_every_view_is_in_one_subset_and_neighbours_in_time_are_far(n_views: int, n_subsets: int) -> None:
    groups = interleaved(n_views, n_subsets)
    assert sorted(view for group in groups for view in range(n_views)[group]) == list(range(n_views))
    assert len(groups) == min(n_views, n_subsets)
    assert bit_reversed(8) == [0, 4, 2, 6, 1, 5, 3, 7]
