"""The one place that knows that networks like real channels: complex images <-> (real, imaginary) channels."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F


def to_channels(image: Tensor) -> Tensor:
    """(batch, y, x) -> (batch, channel, y, x): 2 channels (real, imaginary) for complex images, else 1."""
    if image.is_complex():
        return torch.view_as_real(image).permute(0, -1, *range(1, image.ndim))
    return image.unsqueeze(1)


def from_channels(channels: Tensor) -> Tensor:
    """The inverse of `to_channels`, by the number of channels (2: complex, 1: real)."""
    if channels.shape[1] == 1:
        return channels.squeeze(1)
    return torch.view_as_complex(channels.permute(0, *range(2, channels.ndim), 1).contiguous())


def padded(channels: Tensor, multiple: int) -> Tensor:
    """Each image axis reflected up to the next multiple; an image too small to be reflected repeats its border."""
    sizes = channels.shape[2:]
    missing = [-n % multiple for n in sizes]
    if not any(missing):
        return channels
    mode = "reflect" if all(more < n for more, n in zip(missing, sizes, strict=True)) else "replicate"
    return F.pad(channels, tuple(chain.from_iterable((0, more) for more in reversed(missing))), mode=mode)
