"""Plug-and-play: a denoiser in the place of a proximal step of the prior, and regularisation by denoising."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.sample.start import regularised
from medrecon.solvers.descent import curvature, proximal
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw, norm2


@torch.no_grad()
def pnp_fista(
    prior: Prior, likelihood: Likelihood, x: Tensor, sigmas: Tensor, draw: Draw, *, anneal: bool = True, accelerated: bool = True
) -> Iterator[Step]:
    """x = D(z - t grad(z), s), z moved on by momentum: proximal gradients with a denoiser, a point estimate.

    t = 1 / |A|^2. For a Gaussian prior the fixed point solves grad(x) + (s^2 / t) C^-1 (x - m) = 0, the posterior's mode
    for s^2 = t only: so s ends at 1 / |A|, the data's noise in the image. Until there it falls with the levels (`anneal`),
    which finds what the data do not show in few steps; each level is then the mode for data of noise s |A|.
    Momentum restarts in each item by itself when its residual |x - z| grows. Any likelihood with a gradient.
    Kamilov et al. 2017, doi:10.1109/LSP.2017.2763583. Where it diverges set accelerated=false.
    """
    axes = len(likelihood.domain)
    x = regularised(prior, likelihood, x, sigmas[0], draw)
    step = 1 / curvature(likelihood, x, prior.data_std, margin=1.05)
    point, inertia = x, _Inertia(axes)
    for level in sigmas[:-1]:
        s = _strength(level, step.sqrt(), anneal)
        new = prior.denoise(point - step * likelihood.gradient(point), s)
        point = new + inertia.share(new - point) * (new - x) if accelerated else new
        x = new
        yield Step(x, inertia.residual)


@torch.no_grad()
def red(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    anneal: bool = True,
    accelerated: bool = True,
    weight: float = 1.0,
    data_steps: int = 10,
) -> Iterator[Step]:
    """Solves grad(x) + (weight / s^2) (x - D(x, s)) = 0, regularisation by denoising, a point estimate.

    With weight 1 that is the mode of the posterior whose prior is smoothed by s: (x - D) / s^2 is its score (Reehorst and
    Schniter 2019, arXiv:1806.02296). Fixed-point iteration of Romano, Elad and Milanfar 2017 (arXiv:1611.02862, eq. 37):
    (A^H A + weight / s^2) x = A^H y + (weight / s^2) D(z, s), z moved on by momentum, which restarts in each item by itself
    when its residual grows. s follows the levels to the last (`anneal`), else it is the last throughout. Any likelihood.
    Where it diverges set accelerated=false.
    """
    axes = len(likelihood.domain)
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    point, inertia = x, _Inertia(axes)
    for level in sigmas[:-1]:
        s = level if anneal else sigmas[-2]
        new = proximal(likelihood, prior.denoise(point, s), weight / s**2, steps=data_steps)
        point = new + inertia.share(new - point) * (new - x) if accelerated else new
        x = new
        yield Step(x, inertia.residual)


@torch.no_grad()
def pnp_admm(
    prior: Prior, likelihood: Likelihood, x: Tensor, sigmas: Tensor, draw: Draw, *, anneal: bool = True, data_steps: int = 10
) -> Iterator[Step]:
    """x = argmin |A x - y|^2 / 2 + |x - z + w|^2 / (2 s^2); z = D(x + w, s); w = w + x - z: a point estimate.

    The penalty is 1 / s^2, so that for a Gaussian prior the fixed point is the posterior's mode at every s. s falls with
    the levels to 1 / |A| (`anneal`), else it stays there; the dual w is rescaled with s^2, which leaves the force w / s^2.
    Returns z. Any likelihood.
    Venkatakrishnan et al. 2013, doi:10.1109/GlobalSIP.2013.6737048; Chan et al. 2017, arXiv:1605.01710 (continuation).
    """
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    floor = curvature(likelihood, x, prior.data_std).rsqrt()
    z, w = x, torch.zeros_like(x)
    before = _strength(sigmas[0], floor, anneal)
    for level in sigmas[:-1]:
        s = _strength(level, floor, anneal)
        w, before = w * (s / before) ** 2, s
        x = proximal(likelihood, z - w, 1 / s**2, steps=data_steps)
        z = prior.denoise(x + w, s)
        w = w + x - z
        yield Step(z, _size(x - z, len(likelihood.domain)))


@torch.no_grad()
def half_quadratic(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    weight: float = 0.23,
    strongest: float = 0.4,
    data_steps: int = 10,
) -> Iterator[Step]:
    """x = argmin |A x - y|^2 / 2 + weight |x - z|^2 / (2 s^2); z = D(x, s): no dual, s even in ln s, a point estimate.

    DPIR (Zhang et al. 2021, arXiv:2008.13751, algorithm 1). s falls to 1 / |A| from `strongest` standard deviations of the
    prior, 49/255 for images from 0 to 1; weight 0.23 is the paper's. Half a quadratic splitting is not exact at a finite s.
    """
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    floor = curvature(likelihood, x, prior.data_std).rsqrt()
    first = floor.clamp_min(strongest * prior.data_std)
    steps = len(sigmas) - 1
    z = x
    for step in range(steps):
        s = first * (floor / first) ** (step / max(1, steps - 1))
        x = proximal(likelihood, z, weight / s**2, steps=data_steps)
        z = prior.denoise(x, s)
        yield Step(z, _size(x - z, len(likelihood.domain)))


def _strength(level: Tensor, floor: Tensor, anneal: bool) -> Tensor:
    """The level, not below `floor` (*batch, 1, ..., 1); `floor` itself without annealing."""
    return floor.clamp_min(float(level)) if anneal else floor


def _size(x: Tensor, axes: int) -> Tensor:
    """|x| of every item, (*batch,)."""
    size = norm2(x, axes).sqrt()
    return size.reshape(size.shape[: size.ndim - axes])


class _Inertia:
    """Nesterov's momentum for every item, started again where the residual grows (O'Donoghue and Candes 2015)."""

    def __init__(self, axes: int) -> None:
        self.axes = axes
        self.residual: Tensor | None = None
        self.weight: Tensor | None = None

    def share(self, gap: Tensor) -> Tensor:
        """How much of the last move to add, (*batch, 1, ..., 1); `gap` is the residual of this step."""
        now = norm2(gap, self.axes).sqrt()
        one = torch.ones_like(now)
        weight = one if self.weight is None else self.weight
        if self.residual is not None:
            weight = torch.where(now.reshape(self.residual.shape) > self.residual, 0, 1).reshape(now.shape) * (weight - 1) + 1
        following = (1 + (1 + 4 * weight**2).sqrt()) / 2
        self.residual, self.weight = now.reshape(now.shape[: now.ndim - self.axes]), following
        return (weight - 1) / following
