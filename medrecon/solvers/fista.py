"""Accelerated proximal gradient with adaptive restart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.solvers.krylov import inner
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.regularisers import Regulariser
from medrecon.tensors import ratio


@torch.no_grad()
def fista(
    likelihood: Likelihood,
    regulariser: Regulariser,
    x: Tensor,
    *,
    weight: Tensor | float,
    step: Tensor | float,
    tolerance: float = 0.0,
) -> Iterator[Step]:
    """min likelihood.value(x) + weight R(x) for an R with an exact proximal step, from x (*batch, *image).

    `weight` and `step` are numbers or (*batch, 1, ..., 1); `step` at most 1 / (largest curvature of the likelihood), that
    is 1/|A|^2. `measure`: |x - x before| / |x| of every item; an item freezes at `tolerance`, the iteration ends when
    all have. Momentum restarts in each item by itself when it points uphill.
    Beck and Teboulle 2009; O'Donoghue and Candes 2015 (gradient scheme).
    """
    axes = len(likelihood.domain)
    point, momentum, active = x, None, None
    while True:
        new = regulariser.prox(point - step * likelihood.gradient(point), step * weight)
        if momentum is None or active is None:
            momentum = torch.ones_like(inner(new, new, axes))
            active = torch.ones_like(momentum, dtype=torch.bool)
        new = torch.where(active, new, x)
        move = new - x
        uphill = inner(point - new, move, axes) > 0
        momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        point = new + ((momentum - 1) / following) * move
        x, momentum = new, following
        change = ratio(inner(move, move, axes).sqrt(), inner(x, x, axes).sqrt())
        yield Step(x, change.reshape(change.shape[: change.ndim - axes]))
        active = active & ~(change <= tolerance)
        if tolerance > 0 and not bool(active.any()):
            return
