"""Compiled loops without Python's lock, and threads that share them out.

Threads are Python's own, made for one call: nothing is held between calls, so processes may fork and threads may call at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

LANES = 8
"""Items of a batch that are computed together."""

FEW = 3
"""So many items are worth the loop over `LANES`."""

SMALL = 200_000
"""Steps of an inner loop that are done before a thread has started."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call; kept on disk where there is a place to write.

    Products and sums are not fused, so that one item and a batch of them, which are different loops, give the same numbers.
    """
    from numba import njit

    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither beside the source nor in the user's cache folder
        return njit(nogil=True, error_model="numpy")(function)


def shared_out(task: Callable[..., None], parts: Sequence[tuple[Any, ...]], steps: int) -> None:
    """Calls task(*part) for every part, on as many threads as torch has if there are many `steps`; who does what changes nothing."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2 or steps < SMALL:
        for part in parts:
            task(*part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda part: task(*part), parts):
            pass


def pieces(n: int, count: int) -> list[tuple[int, int]]:
    """[0, n) cut into at most `count` pieces."""
    edges = np.linspace(0, n, min(n, count) + 1).astype(int).tolist()
    return list(pairwise(edges))


def in_groups(x: Tensor, apply: Any, tail: tuple[int, ...]) -> Tensor:
    """apply to the items (batch, ...) one by one, or to `LANES` of them together where there are several."""
    out = x.new_empty(len(x), *tail)
    start = 0
    while len(x) - start >= FEW:
        group = x[start : start + LANES]
        n = len(group)
        laid = x.new_zeros(*x.shape[1:], LANES)
        laid[..., :n] = group.movedim(0, -1)
        out[start : start + n] = apply(laid).movedim(-1, 0)[:n]
        start += n
    for b in range(start, len(x)):
        out[b] = apply(x[b].contiguous())
    return out
