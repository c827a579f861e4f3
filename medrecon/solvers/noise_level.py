"""How noisy the data are, told by the data alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.operator import LinearOperator
from medrecon.tensors import generator_for, like_batch, norm2, ratio, unit_noise

STEPS = (100, 200, 400)
"""Of bidiagonalisation: more for items that the fewer do not settle; one A and one A^H each for the data and for all probes."""
PROBED = 8_000
"""So many random signs give tr(1 - H) to about 2 %."""
LAMBDAS = torch.logspace(-8, 4, 241, dtype=torch.float64)
"""In units of the largest |A^H u|^2 / |u|^2 seen."""
COARSER = 8
"""So many lambdas on is a factor of 2.5."""
RESOLVED = 0.02
"""Lower and upper bounds may differ by this share; a lambda that is not resolved so well is left out."""
SETTLED = 0.02
"""So much may sigma change with the last factor of 2.5 in lambda where the minimum lies beyond what is resolved."""
LARGEST_ERROR = 0.2
"""Data that cannot tell sigma to 20 % are refused."""


@torch.no_grad()
def estimated_noise_std(A: LinearOperator, y: Tensor) -> Tensor:
    """Noise standard deviation per real component, (*batch,) for y (*batch, *A.range), white noise and linear A.

    sigma^2 = |y - A x|^2 / (M - tr H) with the Tikhonov solution x at the minimum of the generalised cross-validation,
    M acquired real numbers, H = A (A^H A + lambda)^-1 A^H (Golub, Heath and Wahba 1979). All lambda at once by
    quadrature over the spectrum of A A^H, as y and random signs see it (Golub and von Matt 1997). A complex y takes x
    as complex.

    What tells noise from image is that A cannot make it: data outside the range of A (redundant coils or rays), or
    where A is weak, if the image is about as strong in all directions. Data that show neither (a square A with equal
    singular values: identity, Fourier transform, with or without a mask) are refused with `BadInput`: when the
    Cramer-Rao bound on sigma, for noise and a white image both of unknown power, exceeds 20 %.
    Refused too: a minimum that even 400 steps do not resolve (condition 1e4 under noise of 1e-3, say).
    Unreliable where the model is wrong (maps, motion: the misfit counts as noise), and with little redundancy for images
    that are far from white.
    """
    if not bool((torch.isfinite(norm2(y, len(A.range))) & (norm2(y, len(A.range)) > 0)).all()):
        raise BadInput("noise estimate: all data of an item are 0, or some are not finite: give noise_std")
    std, error, settled = _fit(A, y, STEPS[0])
    for steps in STEPS[1:]:
        if bool(settled.all()):
            break
        new = _fit(A, y, steps)
        std, error = std.where(settled, new[0]), error.where(settled, new[1])
        settled = settled | new[2]
    _refuse(error.where(settled, torch.inf))
    return std.to(y.real.dtype).to(y.device)


def _fit(A: LinearOperator, y: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """sigma at the minimum of the cross-validation, the bound on its relative error, and whether more steps change nothing."""
    parts = 2 if y.is_complex() else 1
    whole, count = math.prod(A.range) * parts, A.n_samples * parts
    spectrum = _spectrum(A, y, steps)
    lambdas = spectrum.lower.nodes.amax(-1, keepdim=True) * LAMBDAS
    residual, usable = spectrum.lost(lambdas, 2)

    spectrum = _spectrum(A, _signs(A.range, y), steps)
    (free, resolved), (far, _) = (spectrum.lost(lambdas, exponent) for exponent in (1, 2))
    free, far = (t.mean(0) - (whole - count) for t in (free, far))  # tr(1 - H), tr(1 - H)^2 over the acquired data
    usable = usable & resolved.all(0) & (free > 1e-9 * count)
    residual, free, far = torch.broadcast_tensors(residual, free, far)

    best = (residual / free**2).where(usable, torch.inf).argmin(-1, keepdim=True)
    variance = residual / free
    above = (best + COARSER).clamp(max=len(LAMBDAS) - 1)
    flat = variance.gather(-1, above) <= (1 + SETTLED) ** 2 * variance.gather(-1, best)
    inside = (best == 0) | usable.gather(-1, (best - 1).clamp(min=0))
    error = _relative_error(count, free.gather(-1, best), far.gather(-1, best)).where(usable.any(-1, keepdim=True), torch.inf)
    return variance.gather(-1, best).sqrt().squeeze(-1), error.squeeze(-1), (flat | inside).squeeze(-1)


@dataclass(frozen=True)
class _Measure:
    """start^H f(A A^H) start = sum of masses f(nodes), both (*batch, k)."""

    nodes: Tensor
    masses: Tensor

    def lost(self, lambdas: Tensor, exponent: int) -> Tensor:
        share = lambdas.unsqueeze(-2) / (self.nodes.unsqueeze(-1) + lambdas.unsqueeze(-2))
        return (self.masses.unsqueeze(-1) * share**exponent).sum(-2)


@dataclass(frozen=True)
class _Spectrum:
    """Gauss quadrature, a lower bound for the powers of 1 - H, and Gauss-Radau with a node at 0, an upper one."""

    lower: _Measure
    upper: _Measure

    def lost(self, lambdas: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
        """start^H (1 - H)^exponent start for each lambda (*batch, lambda) -> the same shape; whether the bounds are close."""
        lower, upper = self.lower.lost(lambdas, exponent), self.upper.lost(lambdas, exponent)
        return (lower + upper) / 2, upper - lower <= RESOLVED * upper


def _spectrum(A: LinearOperator, start: Tensor, steps: int) -> _Spectrum:
    """From L, lower bidiagonal and begun at `start` (Golub and Kahan 1965): L L^T, and L L^T with the last diagonal entry 0."""
    axes, image_axes = len(A.range), len(A.domain)
    start = start.expand_as(A(A.H(start)))  # with the batch axes of A's own tensors
    u, length = _unit(start, axes)
    v, a = _unit(A.H(u), image_axes)
    least = 10 * torch.finfo(a.dtype).eps * a  # what is smaller is rounding: the space is exhausted
    diagonal, below = [a], []
    for _ in range(min(steps, 2 * min(math.prod(A.range), math.prod(A.domain)))):
        u, b = _unit(A(v) - like_batch(a, axes) * u, axes, least)
        v, a = _unit(A.H(u) - like_batch(b, image_axes) * v, image_axes, least)
        diagonal.append(a)
        below.append(b)
        if not bool(a.any()):
            break
    a, b, length = (t.double().cpu() for t in (torch.stack(diagonal, -1), torch.stack(below, -1), length))
    last = torch.cat([torch.ones_like(a[..., 1:]), torch.zeros_like(a[..., :1])], -1)
    lower, upper = (_measure(diagonal.diag_embed() + b.diag_embed(-1), length) for diagonal in (a, a * last))
    return _Spectrum(lower, upper)


def _unit(x: Tensor, axes: int, least: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """x / |x| and |x| (*batch,) over the last axes; both 0 where |x| is at most `least`."""
    size = norm2(x, axes).sqrt().reshape(x.shape[: x.ndim - axes])
    size = size.where(size > least, 0)
    return ratio(x, like_batch(size, axes).expand_as(x)), size


def _measure(bidiagonal: Tensor, length: Tensor) -> _Measure:
    nodes, vectors = torch.linalg.eigh(bidiagonal @ bidiagonal.mT)
    return _Measure(nodes.clamp(min=0), (length.unsqueeze(-1) * vectors[..., 0, :]) ** 2)


def _signs(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Random signs of both parts, (probe, 1, ..., 1, *shape) with as many ones as `like` has batch axes.

    Variance 1 per real component, and a sum of squares that is not random.
    """
    size = math.prod(shape) * (2 if like.is_complex() else 1)
    lead = [max(2, -(-PROBED // size)), *[1] * (like.ndim - len(shape))]
    noise = unit_noise((*lead, *shape), like.dtype, generator_for(0, "signs")).to(like.device)
    return torch.complex(noise.real.sign(), noise.imag.sign()) if noise.is_complex() else noise.sign()


def _relative_error(count: int, free: Tensor, far: Tensor) -> Tensor:
    """Cramer-Rao bound on the relative error of sigma when y ~ N(0, t A A^H + sigma^2) with t and sigma^2 unknown.

    With h the eigenvalues of H at lambda = sigma^2 / t, the Fisher information of (log t, log sigma^2) is half of
    [[sum h^2, sum h (1 - h)], [sum h (1 - h), sum (1 - h)^2]]; free = sum (1 - h), far = sum (1 - h)^2.
    """
    image, mixed = count - 2 * free + far, free - far
    determinant = image * far - mixed**2
    # Within rounding of 0 all singular values are equal: noise and image look alike.
    known = determinant > 1e-6 * image * far
    return (image / (2 * determinant)).sqrt().where(known, torch.inf)


def _refuse(error: Tensor) -> None:
    worst = float(error.max())
    if not worst <= LARGEST_ERROR:
        how = f"to {worst:.0%} at best" if worst < 10 else "not reliably"
        raise BadInput(
            f"noise estimate: these data tell their noise {how} (item {int(error.flatten().argmax())}; {LARGEST_ERROR:.0%} is accepted): "
            "A is not redundant enough, nor clearly weak in some directions, so noise and image look alike; give noise_std"
        )
