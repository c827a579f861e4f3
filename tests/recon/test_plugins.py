"""What may be put around any method: each changes what it says, for methods of every kind, and nothing when it is off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.basic import Mask
from medrecon.linop.fourier import Fourier
from medrecon.prior import StationaryGaussian
from medrecon.recon.plugins import SAMPLERS, SCHEDULES
from medrecon.recon.solve import Solution, solve
from medrecon.tensors import generator_for, unit_noise

SHAPE, NOISE = (32, 32), 0.05


def spectrum() -> torch.Tensor:
    frequencies = torch.fft.fftfreq(32, dtype=torch.float64)
    radius = (frequencies[:, None] ** 2 + frequencies**2).sqrt()
    power = 1 / (1 + (radius * 16) ** 2) ** 1.5
    return power / power.mean()


PRIOR = StationaryGaussian(torch.zeros(SHAPE, dtype=torch.complex128), spectrum())
A = Mask(torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.4, SHAPE) @ Fourier(SHAPE)
TRUTH = PRIOR.sample(unit_noise((2, *SHAPE), torch.complex128, generator_for(0, "truth")))
DATA = A(TRUTH) + NOISE * A.left.mask * unit_noise((2, *SHAPE), torch.complex128, generator_for(0, "noise"))  # type: ignore[union-attr, operator]


def run(method: str = "dds", preset: str | None = "fast", **settings: Any) -> Solution:
    return solve(A, DATA, method, prior=PRIOR, noise_std=NOISE, seed=1, preset=preset, **({"steps": 40} | settings))


def error(found: Solution) -> float:
    """Relative to the error of the posterior mean."""
    data, weights = torch.fft.ifftshift(DATA, (-2, -1)), torch.fft.ifftshift(A.left.mask)  # type: ignore[arg-type]
    gain = weights * spectrum() / (spectrum() + NOISE**2)
    exact = torch.fft.fftshift(torch.fft.ifftn(gain * data, dim=(-2, -1), norm="ortho"), (-2, -1))
    return float((found.mean - TRUTH).abs().square().mean().sqrt() / (exact - TRUTH).abs().square().mean().sqrt())


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("adaptive", "annealed_langevin")])
def test_any_sampler_serves_the_same_data_step(name: str) -> None:
    assert error(run(sampler=name)) < 1.6


def test_the_adaptive_sampler_serves_data_steps_with_a_level_for_each_image() -> None:
    assert error(run("dds", sampler="adaptive", steps=300)) < 1.6


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_schedule_serves(name: str) -> None:
    assert error(run(schedule=name)) < 1.5


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({}, 40),
        ({"cache": 2}, (20, 30)),
        ({"time_shift": 0.1}, 40),
        ({"time_travel": 10, "travels": 2}, (65, 80)),
        ({"tile": 16}, (40 * 4, 40 * 16)),
        ({"start": "least_squares"}, 40),
        ({"start": "adjoint"}, 40),
        ({"discrepancy": 1.0}, 80),
        ({"offset_noise": 0.1}, 40),
        ({"start": "coarse", "start_sigma": 1.0}, (41, 80)),
    ],
)
def test_plugins_keep_the_image_and_say_what_they_cost(settings: dict[str, Any], evaluations: float | tuple[float, float]) -> None:
    prior = PRIOR
    if settings.get("start") == "coarse" or "tile" in settings:
        prior = StationaryFlat()
    found = solve(A, DATA, "dds", prior=prior, noise_std=NOISE, seed=1, steps=40, preset="fast", **settings)
    low, high = evaluations if isinstance(evaluations, tuple) else (evaluations, evaluations)
    assert low <= found.log["evaluations"] <= high
    assert error(found) < (1.6 if prior is PRIOR else 3)


class StationaryFlat(StationaryGaussian):
    """White, so that it knows images of any size."""

    def __init__(self) -> None:
        super().__init__(torch.zeros((1, 1), dtype=torch.complex128), torch.ones((1, 1), dtype=torch.float64))

    def denoise(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noisy / (1 + sigma**2)


def test_a_given_image_is_a_start() -> None:
    near = run(steps=6, begin=TRUTH, start_sigma=0.2)
    far = run(steps=6)
    assert error(near) < error(far)


def test_what_is_off_changes_nothing_and_is_not_told() -> None:
    plain = run()
    off = run(cache=1, time_shift=0.0, time_travel=0, tile=0, bits=32, start="noise", discrepancy=0.0, offset_noise=0.0)
    assert torch.equal(plain.samples, off.samples)
    assert not {"cache", "tile", "bits", "start"} & set(plain.log["settings"])


def test_explained_data_stop_an_iteration_early() -> None:
    whole = run("reddiff", None, steps=200)
    early = run("reddiff", None, steps=200, discrepancy=1.5)
    assert early.log["stopped"] == "until"
    assert early.log["steps_done"] < whole.log["steps_done"]
    assert max(early.log["chi2"]) <= 1.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "pnmd"}, "did you mean 'pndm'"),
        ({"schedule": "edn"}, "did you mean 'edm'"),
        ({"start": "adjoin"}, "did you mean 'adjoint'"),
        ({"bits": 4}, "expected 8 or 32"),
        ({"cache": 0}, "at least 1"),
        ({"time_shift": 1.5}, "time_shift < 1"),
    ],
)
def test_a_wrong_plugin_is_refused_in_the_users_terms(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        run(**settings)


def test_eight_bits_need_a_network() -> None:
    with pytest.raises(NotSupported, match="no network"):
        run(bits=8)


def test_an_iteration_takes_no_sampler() -> None:
    with pytest.raises(BadInput, match="iteration of its own"):
        run("reddiff", None, sampler="heun")
