"""Time travel: noise levels that rise again, and the way back up."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.tensors import Draw


def travelled(sigmas: Tensor, *, length: int = 10, repeats: int = 10) -> Tensor:
    """The levels with every stretch of `length` steps gone through `repeats` times; the last one is still 0.

    From each `length`-th level, counted from the lowest above 0, the path returns to the level `length` steps earlier
    (Wang et al. 2023, DDNM, arXiv:2212.00490, algorithm 2; Lugmayr et al. 2022, RePaint, arXiv:2201.09865). About
    `repeats` times as many evaluations; `repeats` 1 changes nothing.
    """
    if length < 1 or repeats < 1:
        raise BadInput(f"time travel: length = {length}, repeats = {repeats}: expected at least 1")
    levels = len(sigmas) - 1
    returns = {levels - 1 - back: repeats - 1 for back in range(0, levels - length, length)}
    order, at = [], 0
    while at <= levels:
        order.append(at)
        again = returns.get(at, 0) > 0
        if again:
            returns[at] -= 1
        at = at - length if again else at + 1
    return sigmas[torch.tensor(order)]


def bridge(x: Tensor, sigma: Tensor, higher: Tensor, draw: Draw) -> Tensor:
    """x from level `sigma` to a higher one, without evaluating: just the noise that is missing.

    The released code of DDNM adds all of `higher` to the clean image instead and forgets where x had been.
    """
    return x + (higher**2 - sigma**2).sqrt() * draw(x)
