"""Fewer evaluations: the network is asked at some noise levels, between them its past answers are extrapolated."""

from __future__ import annotations

import math

from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped, refuse_gradient

FINEST = 0.15
"""In units of the prior's standard deviation: below this noise level nothing is skipped unless `finest` says so."""


class Cached(Wrapped):
    """D at every `every`-th level, elsewhere the polynomial in ln sigma through the last `order` evaluations.

    AB-Cache (Yu et al. 2025, Adams-Bashforth cached feature reuse): order 1 holds the last D, 2 is linear, 3 quadratic;
    there with equal steps (2 f - f', 3 f - 3 f' + f''), here by Lagrange's formula for the levels as they are. The denoised
    image is kept, never the one corrected by the data: a data step runs at every level, so "D at every second level,
    conjugate gradients at every one" is what comes out.

    The first `warm` calls are always evaluated, and all below the noise level `finest` (default: 0.15 of the prior's
    standard deviation, about the last tenth of the levels). A call at the level of the one before (a corrector) is
    evaluated too. A level that rises (time travel) and another shape forget the past; at the highest level a run begins anew.

    Measured on the exact denoiser of an anisotropic Gaussian, Wasserstein distance over the standard deviation with 40
    levels from 100 to 0.01 by DDIM: all 40 evaluated 0.069, 25 of them 0.126 (order 1), 0.059 (2) and 0.062 (3); 20 of them
    0.051 with every = 3, order 2; ancestral sampling alike. Fresh noise at every level (eta 1: perturb and solve) makes
    past answers independent of the present image, and order 2 amplifies their noise: the spread grows by 14 % (order 1: none,
    but the mean moves by 0.1 standard deviations more).
    """

    remembers = True
    item_levels = False

    def __init__(self, prior: Prior, *, every: int = 2, order: int = 2, warm: int = 5, finest: float | None = None) -> None:
        super().__init__(prior)
        if every < 1 or not 1 <= order <= 3 or warm < 1:
            raise BadInput(f"every = {every}, order = {order}, warm = {warm}: expected every and warm of at least 1, order 1 to 3")
        self.every, self.order, self.warm = every, order, warm
        self.finest = FINEST * prior.data_std if finest is None else finest
        self._past: list[tuple[float, Tensor]] = []
        """ln sigma and answer of the last evaluations."""
        self._calls, self._skipped, self._level, self._highest = 0, 0, math.inf, 0.0

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        refuse_gradient(noisy, "a cached prior")
        level = _common(sigma)
        if level > self._level or (self._past and self._past[-1][1].shape != noisy.shape):
            self._past.clear()
        if level >= self._highest:
            self._calls, self._highest = 0, level
        due = self._calls < self.warm or len(self._past) < self.order or level == self._level or level <= self.finest
        self._calls, self._level = self._calls + 1, level
        if not due and self._skipped + 1 < self.every:
            self._skipped += 1
            return self._extrapolated(level)
        self._skipped = 0
        mean = self.prior.denoise(noisy, sigma)
        kept = [(log, image) for log, image in self._past if log != math.log(level)]
        self._past[:] = [*kept, (math.log(level), mean)][-self.order :]
        return mean

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return self.prior.workspace(n_images, n_pixels) + 8 * self.order * n_images * n_pixels

    def _extrapolated(self, level: float) -> Tensor:
        weights = lagrange([log for log, _ in self._past], math.log(level))
        result = weights[0] * self._past[0][1]
        for weight, (_, image) in zip(weights[1:], self._past[1:], strict=True):
            result = result + weight * image
        return result


def lagrange(knots: list[float], at: float) -> list[float]:
    """Weights of the values at `knots` in their polynomial's value at `at`; they add to 1."""
    return [math.prod((at - b) / (a - b) for j, b in enumerate(knots) if j != i) for i, a in enumerate(knots)]


def _common(sigma: Tensor) -> float:
    levels = sigma.flatten()
    if bool((levels != levels[0]).any()):
        raise NotSupported("a cached prior needs one noise level for all images: use a sampler with fixed levels, or no cache")
    return float(levels[0])
