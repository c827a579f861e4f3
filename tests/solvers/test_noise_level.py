"""The noise level from the data alone: right where there is redundancy or weakness, refused where there is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity, Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.noise_level import _signs, _spectrum, estimated_noise_std
from tests.solvers.systems import Maps, Matrix

C128, F64 = torch.complex128, torch.float64
SHAPE = (24, 24)


def spread(m: int, n: int, condition: float, dtype: torch.dtype) -> Matrix:
    """m data of n unknowns with singular values from 1 down to 1 / condition."""
    k = min(m, n)
    left, right = (torch.linalg.qr(random((s, k), dtype, f"{s}")).Q for s in (m, n))
    return Matrix(left @ torch.diag(torch.logspace(0, -math.log10(condition), k, dtype=F64)).to(dtype) @ right.mH)


def coils(every: int, dtype: torch.dtype = C128) -> LinearOperator:
    """Six smooth coils on a ring, each `every`th line."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=F64) for n in SHAPE), indexing="ij")
    angles = torch.arange(6, dtype=F64)[:, None, None] * math.tau / 6
    maps = torch.exp(-((y - angles.cos()) ** 2) - (x - angles.sin()) ** 2 + 1j * (y * angles.sin() + angles))
    mask = (torch.arange(SHAPE[0]) % every == 0)[:, None]
    return Mask(mask, (6, *SHAPE)) @ Fourier((6, *SHAPE), (-2, -1)) @ Maps(maps.to(dtype))


def head() -> Tensor:
    """An image far from white: an ellipse with structure and a phase, empty around."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=F64) for n in SHAPE), indexing="ij")
    return (y**2 + 1.4 * x**2 < 0.7) * (1 + 0.3 * torch.sin(9 * x)) * torch.exp(1j * y)


def measured(A: LinearOperator, x: Tensor, noise_std: float, items: int = 4) -> Tensor:
    """Data of x (*A.domain) or of several images, `items` times with other noise."""
    noise = random((items, *A.range), x.dtype, "noise")
    acquired = A(random(A.domain, x.dtype, "probe")) != 0
    return A(x) + noise_std * acquired * noise


@pytest.mark.parametrize("dtype", [F64, C128])
@pytest.mark.parametrize("noise_std", [1e-3, 1e-1])
@pytest.mark.parametrize("condition", [1.0, 30.0])
def test_data_outside_the_range_tell_the_noise_to_ten_percent(dtype: torch.dtype, noise_std: float, condition: float) -> None:
    y = measured(spread(400, 100, condition, dtype), random((100,), dtype, "x"), noise_std)
    found = estimated_noise_std(spread(400, 100, condition, dtype), y)
    assert found.shape == (4,)
    assert float((found / noise_std - 1).abs().max()) < 0.1


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("noise_std", [1e-2, 3e-1])
def test_redundant_coils_tell_the_noise_to_ten_percent(every: int, noise_std: float) -> None:
    A = coils(every)
    found = estimated_noise_std(A, measured(A, head(), noise_std))
    assert float((found / noise_std - 1).abs().max()) < 0.1


def test_single_precision_is_enough() -> None:
    A = coils(3, torch.complex64)
    found = estimated_noise_std(A, measured(A, head().to(torch.complex64), 1e-2))
    assert found.dtype == torch.float32
    assert float((found / 1e-2 - 1).abs().max()) < 0.1


def test_a_weak_operator_tells_the_noise_of_a_white_image() -> None:
    A = spread(300, 300, 1e3, F64)
    found = estimated_noise_std(A, measured(A, random((8, 300), F64, "x"), 0.05, 8))
    assert float((found / 0.05 - 1).abs().max()) < 0.25
    assert float(found.mean()) == pytest.approx(0.05, rel=0.1)


def test_an_ill_conditioned_operator_gets_the_steps_it_needs() -> None:
    A, noise_std = spread(300, 60, 1e4, C128), 1e-3
    found = estimated_noise_std(A, measured(A, random((60,), C128, "x"), noise_std))
    assert float((found / noise_std - 1).abs().max()) < 0.1


@pytest.mark.parametrize(
    "A",
    [
        Identity(SHAPE),
        Fourier(SHAPE),
        3.0 * Fourier(SHAPE),
        Mask((torch.arange(24) % 3 == 0)[:, None], SHAPE) @ Fourier(SHAPE),
        spread(80, 80, 1.0, C128),
        spread(60, 150, 2.0, C128),
    ],
)
def test_data_that_hold_no_information_about_the_noise_are_refused(A: LinearOperator) -> None:
    with pytest.raises(BadInput, match="noise_std"):
        estimated_noise_std(A, measured(A, random(A.domain, C128, "x"), 0.1))


def test_empty_or_broken_data_are_refused() -> None:
    A, y = spread(40, 10, 1.0, F64), torch.ones(2, 40, dtype=F64)
    for bad in (0.0, math.nan):
        y[1] = bad
        with pytest.raises(BadInput, match="0, or some are not finite"):
            estimated_noise_std(A, y)


def test_each_item_has_its_own_noise_and_the_unit_of_the_data() -> None:
    A = spread(200, 50, 3.0, C128)
    y = measured(A, random((3, 50), C128, "x"), 0.1, 3)
    found = estimated_noise_std(A, y)
    assert torch.allclose(
        estimated_noise_std(A, y * torch.tensor([[1.0], [5.0], [1e-3]])), found * torch.tensor([1.0, 5.0, 1e-3], dtype=F64)
    )
    assert torch.allclose(estimated_noise_std(A, y[1]), found[1])
    assert torch.allclose(estimated_noise_std(0.01 * A, y), found, rtol=1e-6)


def test_an_operator_for_each_item_gives_what_each_alone_gives() -> None:
    matrices = torch.stack([spread(60, 20, c, F64).matrix for c in (1.0, 10.0)])
    y = Matrix(matrices)(random((20,), F64, "x")) + 0.1 * random((2, 60), F64, "noise")
    found = estimated_noise_std(Matrix(matrices), y)
    for item in range(2):
        assert float(estimated_noise_std(Matrix(matrices[item]), y[item])) == pytest.approx(float(found[item]), rel=1e-6)


def test_the_quadrature_bounds_the_dense_value() -> None:
    A, y = spread(150, 60, 1e3, F64), random((150,), F64, "y")
    quadrature = _spectrum(A, y, 100)
    identity = torch.eye(150, dtype=F64)
    for size in (1e-4, 1e-2, 1.0):
        lost = size * torch.linalg.inv(A.matrix @ A.matrix.mT + size * identity)
        for exponent in (1, 2):
            exact = float(y @ torch.linalg.matrix_power(lost, exponent) @ y)
            lower, upper = (float(m.lost(torch.tensor([size], dtype=F64), exponent)) for m in (quadrature.lower, quadrature.upper))
            assert lower <= exact * (1 + 1e-9)
            assert exact <= upper * (1 + 1e-9)
            assert upper == pytest.approx(lower, rel=0.02)


def test_the_signs_have_unit_variance_and_are_not_shared_by_probes() -> None:
    signs = _signs((3, 4), torch.zeros(5, 3, 4, dtype=C128))
    assert signs.shape[1:] == (1, 3, 4)
    assert bool((torch.view_as_real(signs).abs() == 1).all())
    assert not torch.equal(signs[0], signs[1])
