"""The one place that knows that networks like real channels: complex images <-> (real, imaginary) channels."""

from __future__ import annotations

import torch
from torch import Tensor


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
