"""The training loop: resumes bit for bit after any end, refuses other settings, steps over unusable losses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medrecon.errors import BadInput, Diverged
from medrecon.prior.losses import DenoisingLoss
from medrecon.prior.network import UNet
from medrecon.prior.train import PATIENCE, Plan, train

PLAN = Plan(iterations=24, learning_rate=1e-2, warm_up=5, every=5, seed=4)
LONG = replace(PLAN, iterations=300, every=4)
ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    """Stands for any sudden end."""


def new_network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, (4, 6), (1, 1), embedding=8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def batches(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(size=(3, 2, 8, 8)).astype(np.float32))


def trained(checkpoint: Path, plan: Plan = PLAN, report: Callable[[int, float], None] | None = None) -> dict[str, Tensor]:
    return train(new_network(), DenoisingLoss(1.0), batches, plan, checkpoint, report)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def ends_at(step: int) -> Callable[[int, float], None]:
    def report(done: int, loss: float) -> None:
        if done == step:
            raise Killed

    return report


@pytest.mark.parametrize("step", [3, 5, 13, 23])
def test_a_run_that_was_ended_anywhere_gives_the_same_weights(tmp_path: Path, step: int) -> None:
    whole = trained(tmp_path / "whole.checkpoint")
    with pytest.raises(Killed):
        trained(tmp_path / "ended.checkpoint", report=ends_at(step))
    steps: list[int] = []
    assert_equal(trained(tmp_path / "ended.checkpoint", report=lambda done, loss: steps.append(done)), whole)
    assert steps[0] == step // PLAN.every * PLAN.every + 1


def test_a_run_that_was_ended_twice_gives_the_same_weights(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole.checkpoint")
    for step in (8, 17):
        with pytest.raises(Killed):
            trained(tmp_path / "ended.checkpoint", report=ends_at(step))
    assert_equal(trained(tmp_path / "ended.checkpoint"), whole)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from tests.prior.test_training_loop import LONG, trained

torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # what it imports late, for all children at once

checkpoint, moments = Path(sys.argv[1]), random.Random(6)
for kill in range(10):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # torch is loaded, but has not computed yet: its threads are the child's own
        def report(done, loss):
            os.write(write, b"%d " % done)
            time.sleep(0.01)
        trained(checkpoint, LONG, report)
        os._exit(0)
    os.close(write)
    os.read(read, 16)  # it has made a step
    time.sleep(moments.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_killed_at_ten_random_moments_gives_the_same_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "killed.checkpoint"
    command = [sys.executable, "-c", KILLS, str(checkpoint)]
    killed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert killed == ["9"] * 10  # SIGKILL, not an end of its own
    steps: list[int] = []
    found = trained(checkpoint, LONG, lambda done, loss: steps.append(done))
    assert 1 < steps[0] <= LONG.iterations
    assert_equal(found, trained(tmp_path / "whole.checkpoint", replace(LONG, every=100)))


def test_a_finished_run_gives_its_weights_again(tmp_path: Path) -> None:
    assert_equal(trained(tmp_path / "a.checkpoint"), trained(tmp_path / "a.checkpoint", report=ends_at(1)))


def test_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    trained(tmp_path / "a.checkpoint")
    with pytest.raises(BadInput, match=r"other settings \(learning_rate, seed\)"):
        trained(tmp_path / "a.checkpoint", replace(PLAN, learning_rate=1e-3, seed=5))


def test_other_circumstances_are_refused_by_name(tmp_path: Path) -> None:
    def run(**circumstances: object) -> None:
        train(new_network(), DenoisingLoss(1.0), batches, PLAN, tmp_path / "a.checkpoint", circumstances=circumstances)

    run(images="abc", patch=8)
    run(images="abc", patch=8)
    with pytest.raises(BadInput, match=r"other settings \(images\)"):
        run(images="abd", patch=8)


@pytest.mark.parametrize("content", [b"", b"noise" * 100])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.checkpoint").write_bytes(content)
    with pytest.raises(BadInput, match="delete it to start again"):
        trained(tmp_path / "a.checkpoint")


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "a.checkpoint")
    with pytest.raises(BadInput, match="not a checkpoint of this training"):
        trained(tmp_path / "a.checkpoint")


class Unusable:
    """The denoising loss, NaN or huge at some steps."""

    def __init__(self, value: float, steps: range) -> None:
        self.value, self.steps, self.calls = value, steps, 0
        self.loss = DenoisingLoss(1.0)

    def __call__(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        found = self.loss(network, clean, generator)
        return found * self.value if self.calls in self.steps else found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_step_with_an_unusable_loss_changes_no_weight(tmp_path: Path, value: float) -> None:
    network, seen = new_network(), {}

    def report(done: int, loss: float) -> None:
        seen[done] = torch.cat([p.detach().flatten() for p in network.parameters()]).clone()

    weights = train(network, Unusable(value, range(7, 9)), batches, PLAN, tmp_path / "a.checkpoint", report)
    assert torch.equal(seen[6], seen[8])
    assert not torch.equal(seen[8], seen[9])
    assert all(bool(torch.isfinite(w).all()) for w in weights.values())


def test_a_loss_that_stays_unusable_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=f"{PATIENCE} times in a row"):
        train(new_network(), Unusable(float("nan"), range(3, 1000)), batches, replace(PLAN, iterations=300), tmp_path / "a.checkpoint")


def test_the_loss_falls(tmp_path: Path) -> None:
    losses: list[float] = []
    trained(tmp_path / "a.checkpoint", replace(PLAN, iterations=120, learning_rate=3e-3), lambda done, loss: losses.append(loss))
    assert losses[-1] < losses[5]
