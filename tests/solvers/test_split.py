"""One iteration of ADMM a call: a weight that changes between calls leads where that weight alone would."""

from __future__ import annotations

import torch

from medrecon.linop.basic import Diagonal
from medrecon.linop.difference import Difference
from medrecon.linop.laws import random
from medrecon.solvers.admm import Split
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.regularisers import L1

SHAPE = (5, 3, 4)


def after(*weights: float, calls: int) -> torch.Tensor:
    """The volume after so many calls with each weight, two volumes at once."""
    A = Diagonal(1 + random(SHAPE, torch.float64, "weights").square(), SHAPE)
    split = Split(Gaussian(A, random((2, *SHAPE), torch.float64, "data")), L1(Difference(SHAPE)), weight=weights[0], rho=2.0)
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    for weight in weights:
        split.reweigh(weight, 4 * weight)
        for _ in range(calls):
            x = split(x, steps=50, tolerance=1e-12)
    return x


def test_a_weight_that_changes_leads_where_it_alone_would() -> None:
    expected = after(0.5, calls=200)
    torch.testing.assert_close(after(0.02, 3.0, 0.5, calls=200), expected, atol=1e-6, rtol=0)
    assert float((after(0.02, calls=200) - expected).abs().max()) > 0.1


def test_each_volume_has_a_weight_of_its_own() -> None:
    A = Diagonal(1 + random(SHAPE, torch.float64, "weights").square(), SHAPE)
    data, x = random((2, *SHAPE), torch.float64, "data"), torch.zeros(2, *SHAPE, dtype=torch.float64)
    split = Split(Gaussian(A, data), L1(Difference(SHAPE)), weight=1.0, rho=2.0)
    weights = torch.tensor([0.02, 0.5], dtype=torch.float64)[:, None, None, None]
    split.reweigh(weights, 4 * weights)
    for _ in range(400):
        x = split(x, steps=50, tolerance=1e-12)
    for item, weight in enumerate((0.02, 0.5)):
        torch.testing.assert_close(x[item], after(weight, calls=400)[item], atol=1e-6, rtol=0)


def test_the_dual_keeps_its_force_when_the_weight_changes() -> None:
    """What pulls at x is rho times the dual: at the solution of a weight, a slightly different one moves x only slightly."""
    A = Diagonal(1 + random(SHAPE, torch.float64, "weights").square(), SHAPE)
    split = Split(Gaussian(A, random((2, *SHAPE), torch.float64, "data")), L1(Difference(SHAPE)), weight=0.5, rho=2.0)
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    for _ in range(400):
        x = split(x, steps=50, tolerance=1e-12)
    split.reweigh(0.5, 2e-3)
    assert float((split(x, steps=50, tolerance=1e-12) - x).abs().max()) < 1e-6
