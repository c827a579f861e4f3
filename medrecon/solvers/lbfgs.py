"""Limited-memory BFGS: every item of a batch has its own curvature pairs and its own line search."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.tensors import dot, norm2, ratio

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x (*batch, *domain) -> value (*batch, 1, ..., 1) and gradient like x (d/dRe + i d/dIm where complex)."""

SUFFICIENT, FLAT = 1e-4, 0.9
"""Wolfe's conditions: the least share of the expected decrease, and how much of the slope may be left."""


@torch.no_grad()
def lbfgs(objective: Objective, x: Tensor, axes: int, *, memory: int = 10, trials: int = 20) -> Iterator[Step]:
    """Minimises `objective` from x (*batch, *domain), `axes` the number of axes of the domain; goes on for ever.

    A step costs one evaluation where its length is right at once, at most `trials`; a point where the objective is not
    finite is a step too long. An item whose search finds no decrease stays where it is. `measure`: |gradient|, (*batch,).
    Liu and Nocedal 1989; line search by bisection for the weak Wolfe conditions, Lewis and Overton 2013.
    """
    value, slope = objective(x)
    history = _History(memory, _first_scale(objective, x, slope, axes))
    while True:
        new, value, steep = _search(objective, x, value, slope, -history.times(slope, axes), axes, trials)
        history.remember(new - x, steep - slope, axes)
        x, slope = new, steep
        size = norm2(slope, axes).sqrt()
        yield Step(x, size.reshape(size.shape[: size.ndim - axes]))


class _History:
    """The inverse Hessian as the last pairs (move, change of slope) and a multiple of the identity."""

    def __init__(self, memory: int, scale: Tensor) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=memory)
        self.scale = scale

    def remember(self, move: Tensor, change: Tensor, axes: int) -> None:
        """A pair without positive curvature weighs nothing in its item."""
        curvature = dot(move, change, axes)
        good = curvature > torch.finfo(curvature.dtype).eps * norm2(change, axes)
        inverse = torch.where(good, ratio(torch.ones_like(curvature), curvature), 0)
        self.scale = torch.where(good, ratio(curvature, norm2(change, axes)), self.scale)
        self.pairs.append((move, change, inverse))

    def times(self, v: Tensor, axes: int) -> Tensor:
        """The inverse Hessian times v (two-loop recursion)."""
        shares = []
        for move, change, inverse in reversed(self.pairs):
            share = inverse * dot(move, v, axes)
            v = v - share * change
            shares.append(share)
        v = self.scale * v
        for (move, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            v = v + (share - inverse * dot(change, v, axes)) * move
        return v


def _first_scale(objective: Objective, x: Tensor, slope: Tensor, axes: int) -> Tensor:
    """1 / curvature along the slope from one more evaluation nearby; a short step where that is not positive."""
    size = norm2(slope, axes).sqrt()
    length = 1e-3 * torch.maximum(norm2(x, axes).sqrt(), torch.full_like(size, math.prod(x.shape[x.ndim - axes :]) ** 0.5))
    move = -ratio(length, size) * slope
    curvature = dot(move, objective(x + move)[1] - slope, axes)
    return torch.where(curvature > 0, ratio(length**2, curvature), ratio(length, size))


@dataclass
class _Found:
    """The best point so far of every item."""

    x: Tensor
    value: Tensor
    slope: Tensor

    def replace(self, where: Tensor, x: Tensor, value: Tensor, slope: Tensor) -> None:
        self.x, self.slope = torch.where(where, x, self.x), torch.where(where, slope, self.slope)
        self.value = torch.where(where, value, self.value)


def _search(
    objective: Objective, x: Tensor, value: Tensor, slope: Tensor, direction: Tensor, axes: int, trials: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x + t direction, value and gradient there, t by bisection: halved where too long, doubled until too long."""
    fall = dot(slope, direction, axes)
    found, done = _Found(x, value, slope), ~(fall < 0)
    rounding = 10 * torch.finfo(value.dtype).eps * value.abs()
    low, high, t = torch.zeros_like(fall), torch.full_like(fall, torch.inf), torch.ones_like(fall)
    for _ in range(trials):
        if bool(done.all()):
            break
        new = x + t * direction
        there, steep = objective(new)
        # Written so that a value which is no number counts as too long.
        long = ~(there <= value + SUFFICIENT * t * fall + rounding)
        short = ~long & (dot(steep, direction, axes) < FLAT * fall)
        found.replace(~long & ~done, new, there, steep)
        high, low = torch.where(long, t, high), torch.where(short, t, low)
        done = done | ~(long | short)
        t = torch.where(done, t, torch.where(high.isinf(), 2 * t, (low + high) / 2))
    return found.x, found.value, found.slope
