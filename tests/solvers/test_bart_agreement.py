"""Classical reconstructions of BART's golden scan, with the maps and the data that BART had."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from medrecon.iterate import run
from medrecon.solvers.classical import least_squares, total_variation, wavelet_l1
from medrecon.solvers.likelihood import Gaussian
from medrecon.solvers.regularisers import Regulariser, TotalVariation, WaveletL1
from tests.conftest import GOLDEN
from tests.solvers.systems import golden_scan

WEIGHT = 0.003


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "mri" / "bart_cartesian.npz") as archive:
        return dict(archive)


def distance(x: Tensor, reference: Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def objective(likelihood: Gaussian, penalty: Regulariser, x: Tensor) -> float:
    return float(likelihood.value(x) + WEIGHT * penalty.value(x))


@pytest.mark.parametrize(("maps", "answer"), [("ecalib_m1_r20", "pics_l2"), ("ecalib_m2_r20", "pics_l2_2maps")])
def test_least_squares_is_barts(arrays: dict[str, np.ndarray], maps: str, answer: str) -> None:
    likelihood = golden_scan(arrays, maps)
    start = torch.zeros(likelihood.domain, dtype=torch.complex64)
    done = run(least_squares(likelihood, start, weight=0.01, tolerance=1e-7), limit=200)
    assert distance(done.x, torch.from_numpy(arrays[answer])) < 1e-5


def test_wavelet_l1_is_near_barts_and_not_above_its_objective(arrays: dict[str, np.ndarray]) -> None:
    likelihood = golden_scan(arrays, "ecalib_m1_r20")
    bart = torch.from_numpy(arrays["pics_wav"])
    x = run(islice(wavelet_l1(likelihood, likelihood.back, weight=WEIGHT, levels=3, tolerance=1e-6), 150)).x
    assert distance(x, bart) < 4e-2
    penalty = WaveletL1(likelihood.domain, "db2", 3)
    assert objective(likelihood, penalty, x) <= objective(likelihood, penalty, bart)


def test_total_variation_is_near_barts_and_not_above_its_objective(arrays: dict[str, np.ndarray]) -> None:
    likelihood = golden_scan(arrays, "ecalib_m1_r20")
    bart = torch.from_numpy(arrays["pics_tv"])
    x = run(islice(total_variation(likelihood, likelihood.back, weight=WEIGHT, tolerance=1e-6), 150)).x
    assert distance(x, bart) < 1e-2
    penalty = TotalVariation(likelihood.domain)
    assert objective(likelihood, penalty, bart) == pytest.approx(3.1387, abs=1e-3)
    assert objective(likelihood, penalty, x) <= objective(likelihood, penalty, bart)
