"""Compiled loops without Python's lock, and threads that share them out.

Threads are Python's own, made for one call: nothing is held between calls, so processes may fork and threads may call at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

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
