"""Parts of a network that keep only their inputs for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medrecon.prior.jacobian import is_recomputed, recomputed


def checkpointed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """function(*arguments). Where `recomputed` is in force and a graph is built, it is computed again in the backward pass.

    Nested parts are recomputed one at a time, so a part costs the memory of its inputs and of its largest inner part.
    """
    if not (is_recomputed() and torch.is_grad_enabled()):
        return function(*arguments)

    def again(*values: Any) -> Tensor:
        # On an accelerator the backward pass runs in a thread of its own, which does not inherit the context.
        with recomputed():
            return function(*values)

    result: Tensor = checkpoint(again, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result
