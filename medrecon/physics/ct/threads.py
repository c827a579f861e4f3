"""One parallel kernel at a time: numba's default threads abort the process when two Python threads enter such kernels at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.RLock()


@contextmanager
def parallel_kernel() -> Iterator[None]:
    """Holds the process-wide lock of numba's parallel kernels, which then use as many threads as torch does."""
    import numba

    with _LOCK:
        numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
        yield
