"""Denoisers without a network to measure priors against, as other people wrote them, each at its best setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import MissingExtra

Array = NDArray[Any]
Rival = Callable[[Array, float, float], Array]
"""(real image (y, x), sigma, setting) -> denoised image."""

TV_WEIGHTS = tuple(float(w) for w in np.geomspace(0.25, 4, 9))
"""Weights of total variation in units of sigma."""
NLM_CUTOFFS = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Cut-off distances h of non-local means in units of sigma."""
BM3D_FACTORS = (0.9, 1.0, 1.1, 1.25)
"""What BM3D is told the noise to be, in units of sigma."""


def total_variation(noisy: Array, sigma: float, weight: float) -> Array:
    """Chambolle's dual iteration (scikit-image), weight in units of sigma."""
    from skimage.restoration import denoise_tv_chambolle

    found: Array = denoise_tv_chambolle(noisy, weight=weight * sigma)
    return found


def non_local_means(noisy: Array, sigma: float, cutoff: float) -> Array:
    """Patches of 5 x 5 within 13 x 13 pixels (scikit-image), told the noise level."""
    from skimage.restoration import denoise_nl_means

    found: Array = denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=cutoff * sigma, sigma=sigma, fast_mode=True)
    return found


def bm3d(noisy: Array, sigma: float, factor: float = 1.0) -> Array:
    """Both stages of BM3D by its authors. Their licence is non-commercial, so the package is never a dependency."""
    try:
        from bm3d import bm3d as authors
    except ImportError as error:
        raise MissingExtra("BM3D is a package with a non-commercial licence: pip install 'medrecon[bench]'") from error
    found: Array = authors(noisy, sigma_psd=factor * sigma)
    return found


def bm3d_is_here() -> bool:
    """Whether the package is installed."""
    from importlib.util import find_spec

    return find_spec("bm3d") is not None


def best(rival: Rival, noisy: Array, clean: Array, sigma: float, grid: Sequence[float]) -> tuple[Array, float]:
    """The denoised image nearest to `clean` and its setting, real and imaginary parts denoised separately.

    The choice looks at the truth, which only a comparison may. It climbs from the middle of the rising grid, taking the error to
    have one valley.
    """
    tried: dict[int, tuple[float, Array]] = {}

    def error(k: int) -> float:
        if k not in tried:
            image = parts(rival, noisy, sigma, grid[k])
            tried[k] = float(np.mean(np.abs(image - clean) ** 2)), image
        return tried[k][0]

    place = len(grid) // 2
    while True:
        near = [k for k in (place - 1, place, place + 1) if 0 <= k < len(grid)]
        lowest = min(near, key=error)
        if lowest == place:
            return tried[place][1], grid[place]
        place = lowest


def parts(rival: Rival, noisy: Array, sigma: float, setting: float) -> Array:
    """The image with its real and, where it has one, imaginary part denoised."""
    if not np.iscomplexobj(noisy):
        return rival(noisy, sigma, setting)
    found: Array = rival(noisy.real, sigma, setting) + 1j * rival(noisy.imag, sigma, setting)
    return found
