"""A small fully convolutional U-Net that sees the noise level: the F of EDM preconditioning.

It keeps a thin level at full resolution, has no normalisation layer (nothing couples distant pixels, so patches and
whole images behave alike) and is told the noise level by scaling and shifting each block's features (FiLM).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon.prior.channels import padded
from medrecon.prior.recompute import checkpointed

UNET_FULL = {"widths": (24, 48, 96, 160), "blocks": (1, 2, 2, 2), "embedding": 128}
"""2.2 M parameters, 8.5 MiB; the configuration of the shipped CPU priors."""

LARGE = {"widths": (48, 96, 192, 320), "blocks": (2, 2, 3, 3), "embedding": 256}
"""12.5 M parameters, 48 MiB (three times what a shipped prior may have); for training and use on a GPU."""

NETWORKS: dict[str, dict[str, Any]] = {"unet_full": UNET_FULL, "large": LARGE}
"""By name, as `medrecon train --network` takes them."""


class Block(nn.Module):
    """x + conv(silu(film(conv(silu(x))))), film from the embedded noise level."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        nn.init.kaiming_normal_(self.first.weight)
        nn.init.normal_(self.second.weight, std=0.1 / math.sqrt(9 * width))  # near-identity blocks at the start
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        gain, shift = self.film(level)[:, :, None, None].chunk(2, 1)
        hidden = self.first(F.silu(x))
        return x + self.second(F.silu(torch.addcmul(shift, hidden, 1 + gain)))


class Blocks(nn.ModuleList):
    """Blocks in a row."""

    def __init__(self, width: int, count: int, embedding: int) -> None:
        super().__init__(Block(width, embedding) for _ in range(count))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for block in self:
            x = block(x, level)
        return x


class UNet(nn.Module):
    """(batch, channel, y, x) -> the same shape, for any y, x >= 2; `level`: (batch,), ln(sigma)/4.

    Reflected at the border up to a multiple of 2^(levels - 1), so there is no dark halo.
    """

    frequencies: Tensor

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int], embedding: int = 128) -> None:
        super().__init__()
        self.settings = {"channels": channels, "widths": list(widths), "blocks": list(blocks), "embedding": embedding}
        self.counts = tuple(blocks)
        self.register_buffer("frequencies", torch.logspace(0, 2, embedding // 2))
        self.level = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Blocks(w, n, embedding) for w, n in zip(widths, blocks, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Blocks(w, n, embedding) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # so that the denoiser starts as the scalar Wiener filter
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        phase = level[:, None] * self.frequencies
        embedded = self.level(torch.cat([phase.sin(), phase.cos()], 1).to(x.dtype))
        y, x_size = x.shape[-2:]
        h = checkpointed(_entered, self.stem, self.down[0], padded(x, 2 ** len(self.halve)), embedded)
        skips = []
        for halve, blocks in zip(self.halve, self.down[1:], strict=True):
            skips.append(h)
            h = checkpointed(_entered, halve, blocks, h, embedded)
        for enlarge, blocks, skip in zip(self.enlarge[::-1], self.up[::-1], skips[::-1], strict=True):
            h = checkpointed(_merged, enlarge, blocks, h, skip, embedded)
        return self.head(h)[..., :y, :x_size]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> UNet:
        """Frequencies move with the weights but stay exact: rounded to 8 bits, 100 times a level would be wrong by a radian."""
        exact = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype in (torch.bfloat16, torch.float16):
            self.frequencies = exact.to(self.frequencies.device)
        return self

    @property
    def grid(self) -> int:
        """Moving the image by so many pixels moves the output; by fewer, it changes a little (strided convolutions)."""
        return int(2 ** len(self.halve))

    @property
    def radius(self) -> int:
        """No pixel depends on one that is farther away along an axis: 93 for the shipped priors.

        Two convolutions a block, 2^level pixels each, the first and the last one, and the alignment to the coarsest grid.
        """
        depths = list(enumerate(self.counts)) + list(enumerate(self.counts[:-1]))
        return 2 + sum(2 * count * 2**depth for depth, count in depths) + self.grid - 1


def _entered(first: nn.Module, blocks: nn.Module, x: Tensor, embedded: Tensor) -> Tensor:
    """A level on the way down."""
    found: Tensor = blocks(first(x), embedded)
    return found


def _merged(enlarge: nn.Module, blocks: nn.Module, h: Tensor, skip: Tensor, embedded: Tensor) -> Tensor:
    """A level on the way up."""
    found: Tensor = blocks(enlarge(h) + skip, embedded)
    return found
