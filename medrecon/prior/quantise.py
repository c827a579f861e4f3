"""Weights in 8 bits: a quarter of the memory, dequantised where they are used."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon.errors import BadInput
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.wrapped import Wrapped, refuse_gradient

CLIPS = torch.linspace(0.5, 1.0, 51).tolist()
"""Where weights are clipped, in units of the largest of their channel: the best of these is taken."""


class IntegerLayer(nn.Module):
    """A convolution or linear layer with integer weights: weight = integers * steps, one step for each output channel.

    The product is made for each call, in the precision of the input, and not kept.
    """

    integers: Tensor
    steps: Tensor

    def __init__(self, layer: nn.Module, function: Callable[..., Tensor], channel_axis: int, bits: int) -> None:
        super().__init__()
        assert isinstance(layer.weight, Tensor)
        integers, steps = rounded(layer.weight.detach(), channel_axis, bits)
        self.register_buffer("integers", integers)
        self.register_buffer("steps", steps)
        self.function, self.bias = function, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.integers.to(x.dtype) * self.steps.to(x.dtype)
        return self.function(x, weight, self.bias)


class Quantised(Wrapped):
    """A prior whose network has integer weights. It refuses to be differentiated: its gradient is not that of the original."""

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        refuse_gradient(noisy, "a prior with 8-bit weights")
        return self.prior.denoise(noisy, sigma)


def quantised(prior: NetworkPrior, bits: int = 8, *, keep: Sequence[str] = ("level", "stem", "head")) -> Quantised:
    """The prior with weights of `bits` bits, symmetric, a step for each output channel; `prior` itself is not changed.

    `keep`: parts of the network that stay as they are, by default those of `UNet` that embed the noise level, read the image
    and write it. Activations stay floating point, so nothing needs calibration (post-training quantisation, Shang et al. 2023,
    arXiv:2211.15736, quantises these too).

    Measured with the prior "brain" on slices of its validation subjects: weights of 2.4 MB instead of 8.9; 75 ms instead of
    73 for an image of 128 x 128 on one CPU core; RMS(D_q - D) / sigma of 1.8 % at sigma = 0.01, 1.2 % at 0.02, 0.8 % at 0.05
    and 0.1, 0.6 % at 0.2, 0.3 % at 0.5 and 0.1 % at 1, and a PSNR of the denoised image within 0.01 dB at all of them. It
    saves memory and what is read from it, not arithmetic.
    """
    if not 2 <= bits <= 8:
        raise BadInput(f"bits = {bits}: expected 2 to 8")
    if not isinstance(prior, NetworkPrior):
        raise BadInput(f"{type(prior).__name__} has no network weights to quantise: give the network prior itself, then wrap it")
    parts = [name for name, _ in prior.network.named_children()]
    if missing := [name for name in keep if name not in parts]:
        raise BadInput(f"the network has no part {', '.join(missing)} to keep: its parts are {', '.join(parts)}")
    light = copy.deepcopy(prior)
    for name, layer in list(light.network.named_modules()):
        if name.split(".")[0] in keep:
            continue
        if (integer := _integer(layer, bits)) is not None:
            owner, _, own = name.rpartition(".")
            setattr(light.network.get_submodule(owner), own, integer)
    return Quantised(light)


def _integer(layer: nn.Module, bits: int) -> IntegerLayer | None:
    """The layer with integer weights, None for one that has no weights of a known kind."""
    match layer:
        case nn.Linear():
            return IntegerLayer(layer, F.linear, 0, bits)
        case nn.Conv2d(padding_mode="zeros"):
            return IntegerLayer(layer, partial(F.conv2d, **_settings(layer)), 0, bits)
        case nn.ConvTranspose2d():
            function = partial(F.conv_transpose2d, **_settings(layer), output_padding=layer.output_padding)
            return IntegerLayer(layer, function, 1, bits)
    return None


def _settings(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def rounded(weight: Tensor, channel_axis: int, bits: int) -> tuple[Tensor, Tensor]:
    """Integers (int8, the weight's shape and memory order) and steps (1, ..., channel, ..., 1).

    The step of each channel is that with the least mean squared error: clipping the largest weights may buy finer steps.
    """
    axes = [axis for axis in range(weight.ndim) if axis != channel_axis]
    top = 2 ** (bits - 1) - 1
    largest = weight.abs().amax(axes, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    best, error = largest / top, torch.full_like(largest, torch.inf)
    for clip in CLIPS:
        step = clip * largest / top
        squared = (_whole(weight, step, top) * step - weight).square().mean(axes, keepdim=True)
        best, error = torch.where(squared < error, step, best), torch.minimum(squared, error)
    return _whole(weight, best, top).to(torch.int8), best


def _whole(weight: Tensor, step: Tensor, top: int) -> Tensor:
    return (weight / step).round().clamp(-top, top)
