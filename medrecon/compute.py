"""Device choice, memory budget, chunk sizes."""

from __future__ import annotations

import torch

from medrecon.errors import BadInput, OutOfMemory

GIB = 1 << 30


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or for "auto" CUDA, then MPS, then the CPU; an error where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {name!r}: this machine or this torch build has no CUDA device; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BadInput(f"device {name!r}: this machine has no MPS device; use --device cpu")
    return device


def free_memory(device: torch.device) -> int:
    """Bytes free on the device now (for a CPU: what the system calls available)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def memory_budget(device: torch.device, limit: int | None = None) -> int:
    """Bytes that one batch of work may take: a quarter of what is free, at most `limit` (default 1 GiB on a CPU)."""
    quarter = free_memory(device) // 4
    if limit is None:
        limit = GIB if device.type == "cpu" else quarter
    return max(1, min(quarter, limit))


def chunk_length(item_bytes: int, budget: int, count: int) -> int:
    """How many of `count` items of `item_bytes` each fit the budget (at least 1, else `OutOfMemory`)."""
    if item_bytes > 4 * budget:
        raise OutOfMemory(
            f"one item needs {item_bytes / GIB:.2f} GiB, the budget is {budget / GIB:.2f} GiB: raise --max-memory or use a larger machine"
        )
    return max(1, min(count, budget // max(1, item_bytes)))


def parse_bytes(text: str) -> int:
    """Bytes of '512M', '2GiB', '1.5g' or a plain number."""
    import re

    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", text.lower())
    if not match:
        raise BadInput(f"memory size {text!r}: expected a number with K, M, G or T, as in 2G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))
