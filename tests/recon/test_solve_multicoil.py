"""Draws for an undersampled multi-coil scan in single precision, against data and images that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.linop.laws import random
from medrecon.linop.operator import LinearOperator
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.recon.solve import Solution, solve
from tests.solvers.systems import scan

SHAPE, COILS, NOISE = (24, 24), 4, 0.05
SAMPLES, STUDENT = 16, 2.131  # t quantile .975 with 15 degrees of freedom


def prior() -> StationaryGaussian:
    """A circular field of unit variance with a power law in frequency."""
    fy, fx = torch.meshgrid(*(torch.fft.fftfreq(n) for n in SHAPE), indexing="ij")
    spectrum = (1 + (fx**2 + fy**2) / 0.06**2) ** -1.5
    return StationaryGaussian(torch.zeros(SHAPE, dtype=torch.complex64), spectrum / spectrum.mean())


def encoding() -> tuple[LinearOperator, Tensor]:
    """Four coils in the corners; every fourth column and seven in the centre, as a mask (x,)."""
    y_axis, x_axis = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    corners = ((-1, -1), (-1, 1), (1, -1), (1, 1))
    maps = torch.stack(
        [torch.polar(torch.exp(-((x_axis - a) ** 2 + (y_axis - b) ** 2) / 1.2), a * x_axis + b * y_axis) for a, b in corners]
    )
    columns = torch.zeros(SHAPE[1], dtype=torch.bool)
    columns[::4] = True
    columns[SHAPE[1] // 2 - 3 : SHAPE[1] // 2 + 4] = True
    return scan(maps / maps.abs().square().sum(0).sqrt(), columns, torch.zeros(1)).A, columns


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return prior().sample(random((6, *SHAPE), torch.complex64, "truth"))


@pytest.fixture(scope="module")
def found(truth: Tensor) -> Solution:
    A, columns = encoding()
    y = A(truth) + NOISE * columns * random((len(truth), COILS, *SHAPE), torch.complex64, "noise")
    return solve(A, y, "dds", prior=prior(), noise_std=NOISE, samples=SAMPLES, preset="sample", steps=50)


def test_draws_explain_the_data_to_the_noise(found: Solution) -> None:
    assert found.samples.dtype == torch.complex64
    assert sum(found.log["chi2"]) / len(found.log["chi2"]) == pytest.approx(1.02, abs=0.06)


def test_intervals_of_draws_cover_the_truth(found: Solution, truth: Tensor) -> None:
    error, spread = torch.view_as_real(found.mean - truth).abs(), torch.view_as_real(found.samples).std(0)
    covered = (error <= STUDENT * spread * (1 + 1 / SAMPLES) ** 0.5).double().mean()
    assert 0.92 < float(covered) < 0.97


def test_a_draw_has_nearly_twice_the_squared_error_of_the_mean(found: Solution, truth: Tensor) -> None:
    """For exact draws 2 / (1 + 1 / count)."""
    single, mean = (float((image - truth).abs().square().mean()) for image in (found.samples[0], found.mean))
    assert single / mean == pytest.approx(2 / (1 + 1 / SAMPLES), rel=0.15)
