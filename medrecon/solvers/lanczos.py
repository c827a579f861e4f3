"""Functions of a self-adjoint operator, as a Krylov space sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import ROUNDING, add, inner
from medrecon.tensors import like_batch, ratio


@torch.no_grad()
def applied(function: Callable[[Tensor], Tensor], normal: LinearOperator, b: Tensor, *, steps: int) -> Tensor:
    """f(N) b for a self-adjoint N >= 0, from `steps` products with N; b (*batch, *domain).

    `function` maps eigenvalues (*batch, steps) to its values there; null vectors count as f = 0. Exact once the Krylov space
    of b is exhausted, before that as good as the best polynomial of degree `steps` - 1, up to a factor 2. Keeps `steps`
    images. Lanczos 1950; Druskin and Knizhnerman 1989.
    """
    axes = len(normal.domain)
    size = inner(b, b, axes).sqrt()
    images, diagonal, beside = _recurrence(normal, ratio(b, size.expand_as(b)), steps)
    values, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1))
    visible = values > ROUNDING * torch.finfo(values.dtype).eps * values[..., -1:]
    heights = torch.where(visible, function(torch.where(visible, values, 1)), 0) * vectors[..., 0, :]
    weights = (vectors @ heights.unsqueeze(-1)).squeeze(-1)
    total = torch.zeros_like(b)
    for image, weight in zip(images, weights.unbind(-1), strict=True):
        total = add(total, size * like_batch(weight, axes), image)
    return total


def _recurrence(normal: LinearOperator, v: Tensor, steps: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Orthonormal images, and the diagonal (*batch, steps) and its neighbour of N between them.

    Where the space is exhausted the images are 0 from there on. Each image is made orthogonal to all before it: without that
    rounding repeats eigenvalues, and few steps are worth more than their memory traffic.
    """
    axes = len(normal.domain)
    lead = v.shape[: v.ndim - axes]
    images, diagonal, beside = [v], [], []
    largest = torch.zeros_like(inner(v, v, axes))
    for _ in range(steps):
        w = normal(images[-1])
        diagonal.append(inner(images[-1], w, axes))
        largest = torch.maximum(largest, diagonal[-1].abs())
        for image in images:
            w = w - _product(image, w, axes) * image
        size = inner(w, w, axes).sqrt()
        alive = size > ROUNDING * torch.finfo(size.dtype).eps * largest
        beside.append(torch.where(alive, size, 0))
        images.append(ratio(w, beside[-1].expand_as(w)))
    return images[:-1], _stacked(diagonal, lead), _stacked(beside[:-1], lead)


def _stacked(numbers: list[Tensor], lead: torch.Size) -> Tensor:
    """(*batch, 1, ..., 1) each to (*batch, count)."""
    return torch.stack([t.reshape(lead) for t in numbers], -1) if numbers else torch.zeros(*lead, 0)


def _product(a: Tensor, b: Tensor, axes: int) -> Tensor:
    """<a, b>, complex where they are, (*batch, 1, ..., 1)."""
    return (a.conj() * b).sum(tuple(range(-axes, 0)), keepdim=True)
