"""The training loop: Adam, warm-up and cosine decay, averaged weights, safe against blow-ups, resumable bit for bit."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.errors import BadInput, Diverged
from medrecon.files import atomic_file
from medrecon.prior.precision import BFloat16

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
Batches = Callable[[np.random.Generator], Tensor]
Report = Callable[[int, float], None]
Observe = Callable[[int, Mapping[str, Tensor]], None]

PATIENCE = 100
"""So many skipped steps in a row are no accident."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast: `iterations` in all, peak learning rate, averaging, gradient clipping, checkpoint interval."""

    iterations: int
    learning_rate: float = 1e-3
    warm_up: int = 200
    average: float = 0.999
    clip: float = 1.0
    weight_decay: float = 1e-4
    every: int = 250
    seed: int = 0


class Averaged:
    """Exponential moving average of the weights, with a short memory at the start."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module, decay: float) -> None:
        with torch.no_grad():
            for key, value in network.state_dict().items():
                self.weights[key].lerp_(value, 1 - decay) if value.is_floating_point() else self.weights[key].copy_(value)


@dataclass(frozen=True)
class _Run:
    """Everything that changes while training, and what must be the same when it goes on."""

    network: nn.Module
    averaged: Averaged
    optimiser: torch.optim.Optimizer
    noise: torch.Generator
    patches: np.random.Generator
    fixed: Mapping[str, Any]


@torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)  # a resumed run must repeat the sums in their order
def train(
    network: nn.Module,
    loss: Loss,
    batches: Batches,
    plan: Plan,
    checkpoint: Path,
    report: Report | None = None,
    *,
    observe: Observe | None = None,
    circumstances: Mapping[str, Any] | None = None,
    half: bool = False,
) -> dict[str, Tensor]:
    """The averaged weights after `plan.iterations` steps, on the device of the network.

    `half`: the network in bfloat16, see `BFloat16`. After each step `report` gets its number and the running loss, `observe`
    its number and the averaged weights.

    `batches(rng)` gives the next clean batch (batch, channel, y, x). All randomness comes from generators whose state
    is in the checkpoint, so a run that was killed and called again ends with the same weights as an unbroken one (same
    machine, torch and number of threads). A checkpoint of another plan or other `circumstances` (numbers and texts: what
    the batches are made of) is refused. The first is written before the first step, so that what was decided by then
    holds (`settings_of`). A step whose loss is not finite or 8 times the running mean is skipped; raises `Diverged` after
    100 of them in a row.
    """
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, (0.9, 0.99), weight_decay=plan.weight_decay)
    noise, patches = torch.Generator().manual_seed(plan.seed), np.random.default_rng(plan.seed)
    averaged, done, running, skipped = Averaged(network), 0, math.nan, 0
    state = _Run(network, averaged, optimiser, noise, patches, {**asdict(plan), **(circumstances or {})})
    device = next(network.parameters()).device
    if checkpoint.exists():
        done, running = _restore(checkpoint, state)
    else:
        _save(checkpoint, done, running, state)
    network.train()
    forward = BFloat16(network) if half else network
    for step in range(done, plan.iterations):
        for group in optimiser.param_groups:
            group["lr"] = _rate(plan, step)
        value = loss(forward, batches(patches).to(device), noise)
        optimiser.zero_grad(set_to_none=True)
        now, skipped = float(value.detach()), skipped + 1
        if math.isfinite(now) and not now > 8 * running:
            value.backward()
            if bool(torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), plan.clip))):
                optimiser.step()
                running, skipped = now if math.isnan(running) else 0.99 * running + 0.01 * now, 0
        if skipped >= PATIENCE:
            raise Diverged(f"step {step + 1}: the loss was unusable ({now:.3g}) {PATIENCE} times in a row: look for NaN in the images")
        averaged.update(network, min(plan.average, (step + 1) / (step + 10)))
        if (step + 1) % plan.every == 0 or step + 1 == plan.iterations:
            _save(checkpoint, step + 1, running, state)
        if report is not None:
            report(step + 1, running)
        if observe is not None:
            observe(step + 1, averaged.weights)
    return averaged.weights


def _rate(plan: Plan, step: int) -> float:
    """The learning rate of a step: linear warm-up, cosine decay to 0."""
    return plan.learning_rate * min(1.0, (step + 1) / max(1, plan.warm_up)) * 0.5 * (1 + math.cos(math.pi * step / plan.iterations))


def _save(path: Path, done: int, running: float, run: _Run) -> None:
    state: Mapping[str, Any] = {
        "done": done,
        "running": running,
        "network": run.network.state_dict(),
        "averaged": run.averaged.weights,
        "optimiser": run.optimiser.state_dict(),
        "noise": run.noise.get_state(),
        "patches": json.dumps(run.patches.bit_generator.state),
        "fixed": json.dumps(run.fixed),
    }
    with atomic_file(path, force=True) as temporary:
        torch.save(state, os.fspath(temporary))


def settings_of(checkpoint: Path) -> dict[str, Any]:
    """The plan and the circumstances of the run that wrote the checkpoint."""
    with _complaints(checkpoint):
        found: dict[str, Any] = json.loads(torch.load(checkpoint, map_location="cpu", weights_only=True)["fixed"])
        return found


def _restore(path: Path, run: _Run) -> tuple[int, float]:
    with _complaints(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(state["fixed"]), json.loads(json.dumps(run.fixed))
        different = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        if different:
            raise BadInput(f"{path}: was made with other settings ({', '.join(different)}); give the same ones or delete it")
        run.network.load_state_dict(state["network"])
        run.averaged.weights = {k: v.to(run.averaged.weights[k]) for k, v in state["averaged"].items()}
        run.optimiser.load_state_dict(state["optimiser"])
        run.noise.set_state(state["noise"])
        run.patches.bit_generator.state = json.loads(state["patches"])
        return int(state["done"]), float(state["running"])


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """What a damaged or foreign checkpoint makes torch say, in the reader's terms."""
    import pickle

    try:
        yield
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a checkpoint of this training; delete it to start again ({reason})") from error
