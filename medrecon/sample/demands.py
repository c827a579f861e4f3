"""What some samplers demand of a data step: the same answer each time they ask."""

from __future__ import annotations

from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.prior.denoiser import Prior
from medrecon.tensors import Draw


def memoryless(prior: Prior, sampler: str) -> None:
    """Raises `NotSupported` for a data step that remembers: it would be called more than once for the same step."""
    if prior.remembers:
        raise NotSupported(
            f"sampler {sampler} looks more than once at each step, but {type(prior).__name__} remembers what it saw: "
            "use a sampler that looks once (ancestral, renoise, multistep)"
        )


def undrawn(prior: Prior, sampler: str) -> Draw:
    """For the estimates of such a sampler: raises `NotSupported` for a data step that asks for noise."""

    def draw(like: Tensor) -> Tensor:
        raise NotSupported(
            f"sampler {sampler} compares estimates of the same image, but those of {type(prior).__name__} are random: use renoise"
        )

    return draw
