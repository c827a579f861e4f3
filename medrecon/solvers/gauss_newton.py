"""Proximal steps of likelihoods that are not Gaussian: a few linearisations, each solved by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import run
from medrecon.linop.basic import Mask
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import cg, inner, shifted
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import norm2, ratio, real_dtype

HALVINGS = 12
"""The step is halved so often before an item stays where it is."""

SUFFICIENT = 1e-4
"""A step is taken when the objective falls by this share of what its slope promises (Armijo 1966)."""


@torch.no_grad()
def gauss_newton_prox(
    likelihood: Likelihood, v: Tensor, rho: Tensor | float, *, steps: int, tolerance: float, refreshes: int, lowest: float | None = None
) -> Tensor:
    """A minimum over x (>= `lowest`) of likelihood.value(x) + rho/2 |x - v|^2, (*batch, *domain), searched from v.

    At most `refreshes` linearisations (Gauss-Newton; Fisher scoring for counts), in each at most `steps` conjugate
    gradients to `tolerance`, then a line search that lets no item's objective rise. An item is done when its step is
    `tolerance` of its size. Bounds by two-metric projection (Bertsekas 1982). The minimum is the global one where the
    objective is convex. No gradient passes. rho > 0 is a number or (*batch, 1, ..., 1).
    """
    if not isinstance(rho, Tensor) and rho <= 0:
        raise BadInput(f"the proximal step needs rho > 0, got {rho}: use least squares for rho = 0")
    weight = rho.to(real_dtype(v.dtype)) if isinstance(rho, Tensor) and rho.ndim else rho
    goal = _Goal(likelihood, v, weight, lowest)
    x = goal.allowed(v)
    value = goal(x)
    x = x.expand(*value.shape[: value.ndim - goal.axes], *likelihood.domain)
    active = torch.ones_like(value, dtype=torch.bool)
    for _ in range(refreshes):
        gradient = likelihood.gradient(x) + weight * (x - v)
        curvature = shifted(likelihood.linearised(x).normal, weight)
        direction = goal.direction(curvature, x, gradient, steps, tolerance)
        new, value = _descent(goal, x, value, gradient, direction, active)
        change, size = inner(new - x, new - x, goal.axes), inner(new, new, goal.axes)
        x, active = new, active & (change > tolerance**2 * size)
        if not bool(active.any()):
            break
    return x


@dataclass(frozen=True)
class _Goal:
    """value(x) + weight/2 |x - v|^2 with x >= lowest, where there is a bound."""

    likelihood: Likelihood
    v: Tensor
    weight: Tensor | float
    lowest: float | None

    @property
    def axes(self) -> int:
        return len(self.likelihood.domain)

    def __call__(self, x: Tensor) -> Tensor:
        return self.likelihood.value(x) + self.weight / 2 * norm2(x - self.v, self.axes)

    def allowed(self, x: Tensor) -> Tensor:
        return x if self.lowest is None else x.clamp(min=self.lowest)

    def direction(self, curvature: LinearOperator, x: Tensor, gradient: Tensor, steps: int, tolerance: float) -> Tensor:
        """The Newton step; pixels that a step of steepest descent would take to the bound make that step instead."""
        if self.lowest is None:
            return run(cg(curvature, -gradient, tolerance=tolerance), limit=steps).x
        length = ratio(inner(gradient, gradient, self.axes), inner(gradient, curvature(gradient), self.axes))
        steepest = -length * gradient
        free = Mask((gradient <= 0) | (x + steepest > self.lowest), self.likelihood.domain)
        newton = run(cg(free @ curvature @ free, -free(gradient), tolerance=tolerance), limit=steps).x
        return torch.where(free.mask, newton, steepest)


def _descent(goal: _Goal, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """x moved along the direction, each item as far as lowers its own objective, and the objective there."""
    # Close to the minimum the fall is less than the rounding of the objective: then the whole step is right.
    slack = 4 * torch.finfo(value.dtype).eps * value.abs()
    length, best, lowest = torch.ones_like(value), x, value
    searching = active
    for _ in range(HALVINGS):
        trial = goal.allowed(x + length * direction)
        reached = goal(trial)
        promised = SUFFICIENT * inner(gradient, trial - x, goal.axes)
        good = searching & (reached <= value + promised + slack)  # false for NaN and infinity too
        best, lowest = torch.where(good, trial, best), torch.where(good, reached, lowest)
        searching = searching & ~good
        if not bool(searching.any()):
            break
        length = torch.where(searching, length / 2, length)
    return _polished(goal, x, value, gradient, best, lowest)


def _polished(goal: _Goal, x: Tensor, value: Tensor, gradient: Tensor, new: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest point of the parabola through both values and the slope at x, where it lies lower still.

    The linearised curvature is wrong where the residual is large (few expected counts, many seen): steps overshoot.
    """
    move = new - x
    slope = inner(gradient, move, goal.axes)
    length = ratio(-slope, 2 * (reached - value - slope)).clamp(0.1, 3)
    off = (length - 1).abs() > 0.1
    if not bool(off.any()):
        return new, reached
    trial = goal.allowed(x + length * move)
    lower = goal(trial)
    better = off & (lower < reached - 4 * torch.finfo(value.dtype).eps * value.abs())
    return torch.where(better, trial, new), torch.where(better, lower, reached)
