"""The denoisers that priors are compared with, and the search for their best setting."""

from __future__ import annotations

import numpy as np
import pytest

from medrecon.study.rivals import NLM_CUTOFFS, TV_WEIGHTS, best, bm3d, non_local_means, total_variation


def noisy_disc(sigma: float, kind: type = float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    clean = (x**2 + y**2 < 0.5).astype(kind)
    noise = rng.normal(size=clean.shape) + (1j * rng.normal(size=clean.shape) if kind is complex else 0)
    return clean + sigma * noise, clean


def mse(image: np.ndarray, clean: np.ndarray) -> float:
    return float(np.mean(np.abs(image - clean) ** 2))


@pytest.mark.parametrize(("rival", "grid"), [(total_variation, TV_WEIGHTS), (non_local_means, NLM_CUTOFFS)])
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_the_search_finds_the_best_of_the_whole_grid(rival, grid, sigma: float) -> None:  # type: ignore[no-untyped-def]
    noisy, clean = noisy_disc(sigma)
    image, setting = best(rival, noisy, clean, sigma, grid)
    errors = [mse(rival(noisy, sigma, s), clean) for s in grid]
    assert mse(image, clean) == pytest.approx(min(errors))
    assert setting == grid[int(np.argmin(errors))]
    assert min(errors) < 0.4 * sigma**2


def test_the_search_reaches_both_ends_of_a_grid() -> None:
    clean = np.zeros((2, 2))
    for target in (1.0, 9.0):
        _, setting = best(lambda noisy, sigma, s, t=target: noisy * 0 + abs(s - t), clean, clean, 1.0, range(1, 10))
        assert setting == target


def test_complex_images_are_denoised_part_by_part() -> None:
    noisy, clean = noisy_disc(0.2, complex)
    image, setting = best(total_variation, noisy, clean, 0.2, TV_WEIGHTS)
    np.testing.assert_allclose(image.real, total_variation(noisy.real, 0.2, setting))
    np.testing.assert_allclose(image.imag, total_variation(noisy.imag, 0.2, setting))


def test_bm3d_denoises_what_it_is_told() -> None:
    pytest.importorskip("bm3d")
    noisy, clean = noisy_disc(0.2)
    assert mse(bm3d(noisy, 0.2), clean) < 0.2 * 0.2**2
