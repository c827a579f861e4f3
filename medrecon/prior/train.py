"""The training loop: Adam, warm-up and cosine decay, averaged weights, safe against blow-ups, resumable bit for bit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.errors import BadInput
from medrecon.files import atomic_file

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
Batches = Callable[[np.random.Generator], Tensor]
Report = Callable[[int, float], None]


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


def train(
    network: nn.Module, loss: Loss, batches: Batches, plan: Plan, checkpoint: Path, report: Report | None = None
) -> dict[str, Tensor]:
    """The averaged weights after `plan.iterations` steps.

    `batches(rng)` gives the next clean batch (batch, channel, y, x). All randomness comes from generators whose state
    is in the checkpoint, so a run that was killed and called again ends with the same weights as an unbroken one (same
    machine, torch and number of threads). A step whose loss is not finite or 8 times the running mean is skipped.
    """
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, (0.9, 0.99), weight_decay=plan.weight_decay)
    noise, patches = torch.Generator().manual_seed(plan.seed), np.random.default_rng(plan.seed)
    averaged, done, running = Averaged(network), 0, math.nan
    if checkpoint.exists():
        done, running = _restore(checkpoint, network, averaged, optimiser, noise, patches, plan)
    network.train()
    for step in range(done, plan.iterations):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (step + 1) / plan.warm_up) * 0.5 * (1 + math.cos(math.pi * step / plan.iterations))
        value = loss(network, batches(patches), noise)
        optimiser.zero_grad(set_to_none=True)
        now = float(value.detach())
        if math.isfinite(now) and not now > 8 * running:
            value.backward()
            if bool(torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), plan.clip))):
                optimiser.step()
                running = now if math.isnan(running) else 0.99 * running + 0.01 * now
        averaged.update(network, min(plan.average, (step + 1) / (step + 10)))
        if (step + 1) % plan.every == 0 or step + 1 == plan.iterations:
            _save(checkpoint, step + 1, running, network, averaged, optimiser, noise, patches, plan)
        if report is not None:
            report(step + 1, running)
    return averaged.weights


def _save(
    path: Path,
    done: int,
    running: float,
    network: nn.Module,
    averaged: Averaged,
    optimiser: torch.optim.Optimizer,
    noise: torch.Generator,
    patches: np.random.Generator,
    plan: Plan,
) -> None:
    state: Mapping[str, Any] = {
        "done": done,
        "running": running,
        "network": network.state_dict(),
        "averaged": averaged.weights,
        "optimiser": optimiser.state_dict(),
        "noise": noise.get_state(),
        "patches": _as_text(patches.bit_generator.state),
        "plan": asdict(plan),
    }
    with atomic_file(path, force=True) as temporary:
        torch.save(state, os.fspath(temporary))


def _as_text(state: Mapping[str, Any]) -> str:
    import json

    return json.dumps(state)


def _restore(
    path: Path,
    network: nn.Module,
    averaged: Averaged,
    optimiser: torch.optim.Optimizer,
    noise: torch.Generator,
    patches: np.random.Generator,
    plan: Plan,
) -> tuple[int, float]:
    import json
    import pickle

    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError) as error:
        raise BadInput(f"{path}: not a readable checkpoint; delete it to start again ({str(error).splitlines()[0]})") from error
    if state["plan"] != asdict(plan):
        different = [k for k, v in asdict(plan).items() if state["plan"].get(k) != v]
        raise BadInput(f"{path}: was made with other settings ({', '.join(different)}); give the same ones or delete it")
    network.load_state_dict(state["network"])
    averaged.weights = state["averaged"]
    optimiser.load_state_dict(state["optimiser"])
    noise.set_state(state["noise"])
    patches.bit_generator.state = json.loads(state["patches"])
    return int(state["done"]), float(state["running"])
