"""Functions of a self-adjoint operator, as a Krylov space sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import ROUNDING, inner
from medrecon.tensors import ratio


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
    weights = (vectors @ heights.unsqueeze(-1)).squeeze(-1).to(images.dtype)
    return size * (weights.unsqueeze(-2) @ images).reshape(b.shape)


def _recurrence(normal: LinearOperator, v: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal images (*batch, steps, n), and the diagonal (*batch, steps) and its neighbour of N between them.

    Where the space is exhausted the images are 0 from there on. Each image is made orthogonal to all before it, or rounding
    would repeat eigenvalues.
    """
    lead, axes = v.shape[: v.ndim - len(normal.domain)], len(normal.domain)
    images = v.new_zeros(*lead, steps, v[(0,) * len(lead)].numel())
    images[..., 0, :] = v.flatten(len(lead))
    diagonal = torch.zeros(*lead, steps, dtype=v.real.dtype, device=v.device)
    beside = torch.zeros_like(diagonal)
    for step in range(steps):
        w = normal(v)
        diagonal[..., step] = inner(v, w, axes).reshape(lead)
        found, w = images[..., : step + 1, :], w.flatten(len(lead)).unsqueeze(-1)
        w = (w - found.mT @ (found.conj() @ w)).squeeze(-1).reshape(v.shape)
        size = inner(w, w, axes).sqrt()
        floor = ROUNDING * torch.finfo(size.dtype).eps * diagonal.amax(-1).reshape(size.shape)
        size = torch.where(size > floor, size, 0)
        v = ratio(w, size.expand_as(w))
        if step + 1 < steps:
            beside[..., step], images[..., step + 1, :] = size.reshape(lead), v.flatten(len(lead))
    return images, diagonal, beside[..., :-1]
