"""Volumes and series through `solve`: methods whose prior knows single images only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Mask
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.linop.lowrank import Series
from medrecon.linop.operator import LinearOperator
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.recon.solve import solve

NOISE_STD = 0.1


def scans(kind: torch.dtype, n_images: int) -> tuple[StationaryGaussian, LinearOperator, Tensor, Tensor]:
    """Prior of images, operator, truth and data (2, n_images, 16, 16) of two series that change little; lines are missing."""
    frequency = torch.fft.fftfreq(16) * 16
    spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) ** 1.25 / 8)
    prior = StationaryGaussian(torch.zeros(16, 16, dtype=kind), spectrum / spectrum.mean())
    first, change = prior.sample(random((2, 2, 1, 16, 16), kind, "images")).unbind(0)
    truth = first + 0.3 * torch.linspace(0, 1, n_images)[:, None, None] * change
    mask = torch.rand(n_images, 16, 1, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[:, 6:10] = True
    A = Series(Mask(mask, (16, 16)) @ Fourier((16, 16)), n_images)
    clean = A(truth)
    return prior, A, truth, clean + NOISE_STD * random(clean.shape, kind, "noise") * (clean != 0)


def error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).norm() / truth.norm())


@pytest.mark.parametrize(
    ("method", "preset", "steps"),
    [("dds_3d", None, 10), ("dds_3d", "paper", 15), ("diffusion_mbir", None, 20), ("hir", None, 10)],
)
def test_methods_for_volumes_and_series_are_nearer_to_the_truth_than_dds(method: str, preset: str | None, steps: int) -> None:
    prior, A, truth, y = scans(torch.complex64, 6)
    alone = solve(A, y, "dds", prior=prior, noise_std=NOISE_STD, steps=10, average=1, seed=1)
    found = solve(A, y, method, prior=prior, noise_std=NOISE_STD, preset=preset, steps=steps, seed=1)
    assert found.samples.shape == (1, 2, 6, 16, 16)
    assert found.samples.dtype == torch.complex64
    assert error(found.mean, truth) < 0.4 * error(alone.mean, truth)


def test_the_published_settings_without_pull_to_the_prior_fit_the_noise() -> None:
    prior, A, _, y = scans(torch.complex64, 6)
    for method in ("dds_3d", "diffusion_mbir"):
        found = solve(A, y, method, prior=prior, noise_std=NOISE_STD, preset="paper", steps=30, seed=1)
        assert max(found.log["chi2"]) < 0.2


@pytest.mark.parametrize("method", ["dds_3d", "diffusion_mbir", "hir"])
def test_scans_of_a_batch_do_not_depend_on_each_other(method: str) -> None:
    prior, A, _, y = scans(torch.complex64, 4)
    both = solve(A, y, method, prior=prior, noise_std=NOISE_STD, steps=5, samples=2, seed=1)
    first = solve(A, y[:1], method, prior=prior, noise_std=NOISE_STD, steps=5, samples=2, seed=1)
    assert both.std is None, "their spread is not the posterior's"
    torch.testing.assert_close(both.samples[:, :1], first.samples, atol=1e-3, rtol=0)


@pytest.mark.parametrize("settings", [{"discrepancy": 1.0}, {"cache": 2}, {"sampler": "multistep"}, {"start": "least_squares"}])
def test_plug_ins_go_with_volumes(settings: dict[str, float | str]) -> None:
    prior, A, truth, y = scans(torch.complex64, 4)
    found = solve(A, y, "dds_3d", prior=prior, noise_std=NOISE_STD, steps=8, seed=1, **settings)
    assert error(found.mean, truth) < 0.6


def test_a_prior_of_whole_volumes_is_told_to_use_dds() -> None:
    _, A, _, y = scans(torch.complex64, 4)
    volumes = StationaryGaussian(torch.zeros(4, 16, 16, dtype=torch.complex64), torch.ones(4, 16, 16))
    with pytest.raises(BadInput, match="z first"):
        solve(A, y, "dds_3d", prior=volumes, noise_std=NOISE_STD, steps=3)
    with pytest.raises(BadInput, match="one axis more"):
        solve(A, y, "hir", prior=volumes, noise_std=NOISE_STD, steps=3)
