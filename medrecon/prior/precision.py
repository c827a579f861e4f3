"""Mixed precision for training: the network in bfloat16 where that is faster, everything around it in single precision."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from medrecon.prior.losses import DenoisingLoss

WORTH_IT = 1.2
"""bfloat16 is taken where a step is that much faster: its rounding is not for free."""


class BFloat16(nn.Module):
    """The network under autocast: convolutions and linear layers in bfloat16, its weights as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            found: Tensor = self.network(x, level)
        return found


def faster_precision(network: nn.Module, loss: DenoisingLoss, clean: Tensor) -> str:
    """ "bfloat16" where a step on the batch `clean` is clearly faster with it, else "float32"."""
    if clean.device.type == "mps":  # autocast of convolutions is incomplete there
        return "float32"
    if clean.device.type == "cpu":  # where it is emulated it takes ten times as long: a small trial says so too
        clean = clean[:2]
    single, half = (step_seconds(f, loss, clean) for f in (network, BFloat16(network)))
    return "bfloat16" if half * WORTH_IT < single else "float32"


def step_seconds(network: nn.Module, loss: DenoisingLoss, clean: Tensor, repeats: int = 2) -> float:
    """Seconds of a forward and backward pass, the median after a first one; no weight changes."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        value = loss(network, clean, torch.Generator().manual_seed(0))
        value.backward()
        if clean.is_cuda:
            torch.cuda.synchronize(clean.device)
        times.append(time.perf_counter() - start)
    network.zero_grad(set_to_none=True)
    return statistics.median(times[1:])
