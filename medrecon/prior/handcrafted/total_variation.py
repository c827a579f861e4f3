"""Total variation as a denoiser: the model of Rudin, Osher and Fatemi."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.difference import Gradient
from medrecon.prior.handcrafted.base import Curves, Handcrafted, level_like
from medrecon.prior.recompute import checkpointed

STRENGTH = {"real": 0.8, "complex": 1.0}
"""The penalty in units of sigma."""

SEGMENT = 8
"""So many iterations are recomputed together in the backward pass, about the root of their number."""


class TotalVariationPrior(Handcrafted):
    """argmin over x of |x - noisy|^2 / 2 + strength sigma sum |gradient x|, a biased point estimate (Rudin et al. 1992).

    The gradient is periodic, with one magnitude over both axes and over real and imaginary parts. Right for images of flat
    regions; texture fainter than the noise is lost, slopes become steps.

    `strength`: by default the one with the least error on synthetic images, on average over noise levels from a tenth of the
    images' standard deviation to all of it (mean of ln r^2, benchmarks/handcrafted.py): 0.8 for real images, 1.0 for complex
    ones; weaker noise and much texture want less, down to a half. `iterations` of accelerated projection on the dual (Beck and
    Teboulle 2009, FGP): 50 of them raise the squared error by about 1 % at most, up to ten times the images' standard
    deviation. Differentiable, through all iterations.
    """

    summary: ClassVar[str] = "Total variation: flat regions with sharp edges (Rudin, Osher and Fatemi 1992)."
    curves: ClassVar[Curves] = {
        "real": ((0.01, 0.000142), (0.03, 0.00113), (0.1, 0.00897), (0.3, 0.0416), (1.0, 0.134), (3.0, 0.343), (10.0, 1.58), (20.0, 5.43)),
        "complex": (
            (0.01, 0.000145),
            (0.03, 0.00113),
            (0.1, 0.00872),
            (0.3, 0.0402),
            (1.0, 0.129),
            (3.0, 0.316),
            (10.0, 1.34),
            (20.0, 4.45),
        ),
    }

    def __init__(self, *, strength: float | None = None, iterations: int = 50, field: str = "complex", data_std: float = 0.3) -> None:
        super().__init__(field=field, data_std=data_std)
        if (strength is not None and not strength >= 0) or iterations < 1:
            raise BadInput(f"strength = {strength}, iterations = {iterations}: expected at least 0 and 1")
        self.strength, self.iterations = strength, iterations

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        strength = STRENGTH["complex" if noisy.is_complex() else "real"] if self.strength is None else self.strength
        return smoothed(noisy, strength * level_like(noisy, sigma), self.iterations)


def smoothed(image: Tensor, weight: Tensor, iterations: int) -> Tensor:
    """argmin over x of |x - image|^2 / 2 + weight TV(x) = image - K^H p, p = argmin |image - K^H p|^2 with |p| <= weight.

    `image` (*batch, y, x), `weight` 0-dim or (*batch, 1, 1), K the gradient with |K|^2 = 8.
    """
    # Real and imaginary parts as two real planes: faster than complex arithmetic, and equal.
    planes = torch.stack([image.real, image.imag] if image.is_complex() else [image], -3)
    gradient = Gradient(image.shape[-2:])
    bound = weight[..., None, None, :, :] if weight.ndim else weight
    dual = torch.zeros_like(gradient(planes))
    state = torch.stack([dual, dual])
    for first in range(0, iterations, SEGMENT):
        steps = range(first, min(first + SEGMENT, iterations))
        state = checkpointed(partial(_projected, gradient, steps), planes, bound, state)
    parts = (planes - gradient.H(state[0])).unbind(-3)
    return torch.complex(*parts) if image.is_complex() else parts[0]


def _projected(gradient: Gradient, steps: range, planes: Tensor, bound: Tensor, state: Tensor) -> Tensor:
    """Those steps of FISTA on the dual; `state` holds the iterate and the extrapolated point."""
    dual, point = state.unbind(0)
    square, tiny = bound**2, torch.finfo(planes.dtype).tiny
    for step in steps:
        raised = point + gradient(planes - gradient.H(point)) / 8
        size = raised.square().sum((-4, -3), keepdim=True).clamp_min(tiny).maximum(square).sqrt()
        new = raised * (bound / size)
        point = new + step / (step + 3) * (new - dual)
        dual = new
    return torch.stack([dual, point])
