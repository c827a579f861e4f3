"""One loop for solvers and samplers: they are generators of `Step`, the caller owns the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medrecon.errors import Diverged


@dataclass(frozen=True)
class Step:
    """x after one step; `measure`: what the iteration watches (a residual norm per item, a noise level, an objective)."""

    x: Tensor
    measure: Tensor | None = None


@dataclass(frozen=True)
class Finished:
    """The last x, how many steps, why it stopped ("converged", "limit" or "until") and the measure after each step."""

    x: Tensor
    n_steps: int
    reason: str
    history: list[Tensor] = field(default_factory=list)


Progress = Callable[[int, Step], None]


def run(
    steps: Iterable[Step],
    limit: int | None = None,
    until: Callable[[Step], bool] | None = None,
    progress: Progress | None = None,
) -> Finished:
    """Draws steps until the iteration ends by itself, `limit` is reached or `until(step)` is true.

    Raises `Diverged` when a step is not finite, naming the step: a silent NaN image is the worst outcome.
    """
    history: list[Tensor] = []
    last: Step | None = None
    n, reason = 0, "converged"
    for step in _first(steps, limit):
        n, last = n + 1, step
        if step.measure is not None:
            history.append(step.measure.detach())
        # On an accelerator looking at every step would make the host wait for it.
        if step.measure is not None and step.measure.device.type == "cpu" and not bool(torch.isfinite(step.measure).all()):
            raise Diverged(f"step {n} is not finite: check the data for NaN, lower the step or raise the regularisation")
        if progress is not None:
            progress(n, step)
        if until is not None and until(step):
            reason = "until"
            break
    else:
        reason = "limit" if limit is not None and n >= limit else "converged"
    if last is None:
        raise ValueError("the iteration made no step")
    if not bool(torch.isfinite(torch.view_as_real(last.x) if last.x.is_complex() else last.x).all()):
        raise Diverged(f"the image after step {n} is not finite: check the data for NaN, raise the regularisation")
    return Finished(last.x, n, reason, history)


def _first(steps: Iterable[Step], limit: int | None) -> Iterator[Step]:
    """At most `limit` steps, without asking the generator for one too many."""
    if limit is None:
        yield from steps
        return
    iterator = iter(steps)
    for _ in range(limit):
        try:
            yield next(iterator)
        except StopIteration:
            return
