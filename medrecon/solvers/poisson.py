"""Counts: emission and transmission tomography with the Poisson law instead of a Gaussian one."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Diagonal
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.gauss_newton import gauss_newton_prox
from medrecon.solvers.likelihood import Gaussian, Likelihood

FEWEST = 1e-30
"""Expected counts of a transmission are at least this, so that logarithms stay finite in single precision."""


class Counts(Likelihood):
    """-log p(y | x) for y ~ Poisson(expected(x)), less its minimum over all means: half of the deviance, 0 where mean = y.

    Natural units: nothing is whitened. Real images and counts y >= 0 (*batch, *A.range), zeros included.
    `residual` is Pearson's, (mean - y) / sqrt(max(mean, 1)): chi2 is about 1 where counts exceed one.
    """

    def __init__(self, A: LinearOperator, y: Tensor, background: Tensor | float, refreshes: int) -> None:
        if y.is_complex() or not bool((torch.isfinite(y) & (y >= 0)).all()):
            raise BadInput("counts: expected real finite numbers >= 0; use a Gaussian likelihood for data that can be negative or complex")
        self.A, self.y = A, y
        self.background, self.refreshes = self._count("background", background), refreshes

    @property
    def domain(self) -> tuple[int, ...]:
        return self.A.domain

    @property
    def data_axes(self) -> int:
        return len(self.A.range)

    @property
    def n_data(self) -> int:
        return self.A.n_samples

    @abstractmethod
    def expected(self, x: Tensor) -> Tensor:
        """The mean counts, (*batch, *data)."""

    def residual(self, x: Tensor) -> Tensor:
        mean = self.expected(x)
        return (mean - self.y) / mean.clamp(min=1).sqrt()

    def seen(self, x: Tensor) -> Tensor:
        """A x, real."""
        projections = self.A(x)
        if projections.is_complex():
            raise BadInput(f"counts have a real mean, A x is {projections.dtype}: give a real image and a real operator")
        return projections

    def _count(self, name: str, value: Tensor | float) -> Tensor:
        """A number of counts as a tensor like y that broadcasts over it."""
        counts = torch.as_tensor(value, device=self.y.device).to(self.y.dtype)
        if not bool((torch.isfinite(counts) & (counts >= 0)).all()):
            raise BadInput(f"{name}: expected finite counts >= 0")
        return counts


class Poisson(Counts):
    """Emission: y ~ Poisson(A x + background), A linear.

    A mean below `floor` counts (negative ones too) is continued by a parabola, as Gaussian noise of variance `floor`:
    value and gradient stay finite and convex where x is not physical, and equal the Poisson law where means exceed
    it. `prox` keeps x >= `lowest` (None: no bound, or where zero activity lies in the image's units).
    """

    def __init__(
        self,
        A: LinearOperator,
        y: Tensor,
        background: Tensor | float = 0.0,
        *,
        lowest: float | None = 0.0,
        floor: float = 0.01,
        refreshes: int = 3,
    ) -> None:
        super().__init__(A, y, background, refreshes)
        if not floor > 0:
            raise BadInput(f"floor = {floor}: expected a positive number of counts")
        self.lowest, self.floor = lowest, floor

    def expected(self, x: Tensor) -> Tensor:
        return self.seen(x) + self.background

    def value(self, x: Tensor) -> Tensor:
        mean = self.expected(x)
        parabola = ((mean - self.y) ** 2 - (self.floor - self.y) ** 2) / (2 * self.floor)
        below = torch.where(mean < self.floor, parabola, 0)
        return self.per_image(deviance(mean.clamp(min=self.floor), self.y) + below)

    def gradient(self, x: Tensor) -> Tensor:
        mean = self.expected(x)
        return self.A.H((mean - self.y) / mean.clamp(min=self.floor))

    def linearised(self, x: Tensor) -> Gaussian:
        """|W^(1/2) (A x' + background - y)|^2 / 2 with the Fisher information W = 1 / mean at x: the same gradient at x."""
        root = self.expected(x).clamp(min=self.floor).rsqrt()
        return Gaussian(Diagonal(root, self.A.range) @ self.A, root * (self.y - self.background))

    def prox(self, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
        return gauss_newton_prox(self, v, rho, steps=steps, tolerance=tolerance, refreshes=self.refreshes, lowest=self.lowest)


class Transmission(Counts):
    """Transmission: y ~ Poisson(incident exp(-l) + background), line integrals l = A x + offset.

    `incident`: counts without object; `offset`: line integrals of what x leaves out. Line integrals below 0 are not
    physical; there the exponential is continued by its tangent, so that noisy images cannot overflow.
    `prox` may need one refresh for each unit by which v's line integrals are too small.
    """

    def __init__(
        self,
        A: LinearOperator,
        y: Tensor,
        incident: Tensor | float,
        background: Tensor | float = 0.0,
        *,
        offset: Tensor | float = 0.0,
        refreshes: int = 8,
    ) -> None:
        super().__init__(A, y, background, refreshes)
        self.incident = self._count("incident", incident)
        self.offset = torch.as_tensor(offset, device=y.device).to(y.dtype)

    def expected(self, x: Tensor) -> Tensor:
        return self._transmitted(self.seen(x) + self.offset)[0]

    def value(self, x: Tensor) -> Tensor:
        return self.per_image(deviance(self.expected(x), self.y))

    def gradient(self, x: Tensor) -> Tensor:
        mean, slope = self._transmitted(self.seen(x) + self.offset)
        return self.A.H(slope * (self.y - mean) / mean)

    def linearised(self, x: Tensor) -> Gaussian:
        """Mean counts by their tangent at x, noise of their variance there: the same gradient at x."""
        projections = self.seen(x)
        mean, slope = self._transmitted(projections + self.offset)
        root = mean.rsqrt()
        return Gaussian(Diagonal(-root * slope, self.A.range) @ self.A, root * (self.y - mean - slope * projections))

    def prox(self, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
        return gauss_newton_prox(self, v, rho, steps=steps, tolerance=tolerance, refreshes=self.refreshes)

    def _transmitted(self, line_integrals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean counts and how fast they fall with the line integral."""
        slope = self.incident * torch.exp(-line_integrals.clamp(min=0))
        counts = slope * (1 - line_integrals.clamp(max=0)) + self.background
        return counts.clamp(min=FEWEST), slope


def deviance(mean: Tensor, y: Tensor) -> Tensor:
    """mean - y + y log(y / mean) >= 0 for mean > 0, exact in single precision for many counts and for none."""
    near = (y - mean).abs() < mean / 2
    excess = torch.where(near, (y - mean) / mean, 0)
    quotient = torch.where(near | (y == 0), 1, y / mean)
    return mean - y + y * (torch.log1p(excess) + torch.log(quotient))
