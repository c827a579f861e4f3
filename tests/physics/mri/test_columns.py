"""The exact column solver against explicit matrices, the FFT normal operator, BART, and noise replicas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.fourier import ifft
from medrecon.linop.laws import matrix, random
from medrecon.physics.mri.columns import ColumnSolver, column_normal, g_factor
from medrecon.physics.mri.sense import sense
from medrecon.solvers.classical import least_squares
from medrecon.solvers.krylov import cg, shifted
from medrecon.solvers.likelihood import Gaussian
from tests.conftest import GOLDEN
from tests.solvers.systems import golden_scan


def lines(n: int, every: int = 3, centre: int = 4) -> Tensor:
    mask = torch.zeros(n, 1, dtype=torch.bool)
    mask[::every] = True
    mask[n // 2 - centre // 2 : n // 2 + centre // 2] = True
    return mask


def smooth_coils(shape: tuple[int, int], coils: int = 6) -> Tensor:
    """Unit-norm smooth maps, complex128 (coil, y, x)."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    angle = 2 * torch.pi * torch.arange(coils)[:, None, None] / coils
    maps = torch.polar(torch.exp(-((x - 1.3 * angle.cos()) ** 2 + (y - 1.3 * angle.sin()) ** 2)), angle + 0.5 * x * angle.sin())
    return maps / maps.norm(dim=0)


@pytest.mark.parametrize("shape", [(8, 6), (9, 5)])
def test_column_matrices_are_blocks_of_the_normal_operator(shape: tuple[int, int]) -> None:
    maps, weights = random((3, *shape), torch.complex128, "maps"), torch.rand(shape[0], 1, dtype=torch.float64)
    whole = matrix(sense(maps, weights).normal, torch.complex128).reshape(*shape, *shape)
    blocks = column_normal(maps, weights)
    for x in range(shape[1]):
        torch.testing.assert_close(blocks[x], whole[:, x, :, x])
    assert float(whole[:, 0, :, 1:].abs().max()) < 1e-14


@pytest.mark.parametrize("shape", [(32, 5), (31, 6)])
def test_columns_equal_the_fft_normal_operator_in_single_precision(shape: tuple[int, int]) -> None:
    maps, mask, x = random((5, *shape), torch.complex64, "maps"), lines(shape[0]), random(shape, torch.complex64, "x")
    dense = (column_normal(maps, mask.float()) @ x.mT.unsqueeze(-1)).squeeze(-1).mT
    expected = sense(maps, mask).normal(x)
    assert (dense - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("rho", [1e-4, 1e-3, 1e-2, 0.1, 10.0])
def test_cholesky_eigenvectors_and_conjugate_gradients_solve_the_same_problem(rho: float) -> None:
    shape = (24, 7)
    maps, mask, v = smooth_coils(shape).to(torch.complex64), lines(24), random((2, *shape), torch.complex64, "v")
    operator = sense(maps, mask, exact=True)
    likelihood = Gaussian(operator, operator(random(shape, torch.complex64, "x")))
    target = likelihood.back + rho * v
    solved = ColumnSolver(maps, mask.float(), operator.normal, rho)(target, refine=2)
    by_spectrum = likelihood.prox(v, rho)
    by_cg = run(cg(shifted(operator.normal, rho), target, tolerance=1e-6), limit=300).x
    double = ColumnSolver(maps.to(torch.complex128), mask.double(), sense(maps.to(torch.complex128), mask).normal, rho)
    exact = double(target.to(torch.complex128)).to(torch.complex64)
    assert (solved - exact).norm() < 1e-5 * exact.norm()
    # eigenvectors in single precision: eps times the condition number
    assert (by_spectrum - exact).norm() < max(1e-5, 3e-7 / rho) * exact.norm()
    assert (by_cg - exact).norm() < max(1e-4, 1e-6 / rho) * exact.norm()


@pytest.mark.slow
def test_columns_and_conjugate_gradients_agree_on_a_scan_of_full_size() -> None:
    maps, mask = smooth_coils((320, 320), 15), lines(320, 4, 24)
    back = sense(maps, mask).H(mask * random((15, 320, 320), torch.complex128, "y"))
    normal = sense(maps, mask).normal
    exact = ColumnSolver(maps, mask.double(), normal, 1e-3)(back)
    by_cg = run(cg(shifted(normal, 1e-3), back, tolerance=1e-9), limit=2000).x
    assert (by_cg - exact).norm() < 1e-6 * exact.norm()
    single = maps.to(torch.complex64)
    found = ColumnSolver(single, mask.float(), sense(single, mask).normal, 1e-3)(back.to(torch.complex64), refine=2)
    assert (found - exact).norm() < 1e-5 * exact.norm()


def test_columns_without_maps_return_the_point_itself() -> None:
    maps = smooth_coils((12, 5))
    maps[:, :, 3] = 0
    operator = sense(maps, lines(12), exact=True)
    v = random((12, 5), torch.complex128, "v")
    x = Gaussian(operator, torch.zeros(operator.range, dtype=torch.complex128)).prox(v, 0.3)
    torch.testing.assert_close(x[:, 3], v[:, 3])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "mri" / "bart_cartesian.npz") as archive:
        return dict(archive)


def test_the_column_solver_and_conjugate_gradients_are_barts_pics(golden: dict[str, np.ndarray]) -> None:
    scan = golden_scan(golden, "ecalib_m1_r20")
    bart = torch.from_numpy(golden["pics_l2"])
    maps = torch.from_numpy(golden["ecalib_m1_r20"])
    mask = torch.from_numpy(golden["mask"]).reshape(-1, 1).float()
    operator = sense(maps, mask)
    back = operator.H(scan.y)
    exact = ColumnSolver(maps, mask, operator.normal, 0.01)(back)
    assert (exact - bart).norm() < 1e-5 * bart.norm()
    found = run(least_squares(Gaussian(operator, scan.y), torch.zeros_like(back), weight=0.01, tolerance=1e-7), limit=200).x
    assert (found - bart).norm() < 1e-5 * bart.norm()


def test_cropping_the_readout_before_solving_is_cropping_after() -> None:
    shape, width = (20, 32), 16
    maps, mask = smooth_coils(shape), lines(20)
    kspace = sense(maps, mask)(random(shape, torch.complex128, "x")) + 0.1 * mask * random((6, *shape), torch.complex128, "noise")
    start = (shape[1] - width) // 2
    part = slice(start, start + width)
    whole, cropped = sense(maps, mask), sense(maps[..., part], mask, axes=(-2,))
    after = ColumnSolver(maps, mask.double(), whole.normal, 0.01)(whole.H(kspace))[..., part]
    hybrid = ifft(kspace, (-1,))[..., part]
    before = ColumnSolver(maps[..., part], mask.double(), cropped.normal, 0.01)(cropped.H(hybrid))
    torch.testing.assert_close(before, after, rtol=1e-10, atol=1e-12)
    by_cg = run(cg(shifted(cropped.normal, 0.01), cropped.H(hybrid), tolerance=1e-9), limit=500).x
    assert (by_cg - after).norm() < 1e-5 * after.norm()


def test_g_factor_is_the_diagonal_of_the_inverse() -> None:
    shape = (12, 4)
    maps, mask = smooth_coils(shape), lines(12, 2, 2)
    inverse = torch.linalg.inv(matrix(sense(maps, mask).normal, torch.complex128)).diagonal().real.reshape(shape)
    power = maps.abs().square().sum(0)
    expected = (inverse * power * mask.double().mean()).sqrt()
    torch.testing.assert_close(g_factor(maps, mask), expected)
    assert float(g_factor(maps, torch.ones_like(mask)).sub(1).abs().max()) < 1e-12


def test_g_factor_is_what_noise_replicas_measure() -> None:
    shape, replicas = (16, 12), 2000
    maps, mask = smooth_coils(shape, 8), lines(16, 2, 0)
    maps[:, :3, :3] = 0
    operator = sense(maps, mask)
    noise = mask * random((replicas, 8, *shape), torch.complex128, "noise")
    images = ColumnSolver(maps, mask.double(), operator.normal, 1e-10)(operator.H(noise))
    measured = images.abs().square().mean(0).div(2).sqrt() * mask.double().mean().sqrt()
    g = g_factor(maps, mask)
    inside = g > 0
    assert not inside[0, 0]
    assert float(g[inside].min()) >= 1 - 1e-6
    assert float(g[inside].max()) > 1.05
    torch.testing.assert_close(measured[inside], g[inside], rtol=0.1, atol=0)
    assert abs(float((measured[inside] / g[inside]).mean()) - 1) < 0.005


def test_wrong_problems_are_errors() -> None:
    maps = smooth_coils((8, 6))
    with pytest.raises(BadInput, match="rho"):
        g_factor(maps[:1], torch.arange(8)[:, None] % 2 == 0)  # one coil cannot unfold two pixels
    with pytest.raises(BadInput, match="whole readout lines"):
        column_normal(maps, torch.ones(8, 6))
    with pytest.raises(BadInput, match="rho = 0"):
        ColumnSolver(maps, torch.ones(8, 1), sense(maps, torch.ones(8, 1)).normal, 0)
