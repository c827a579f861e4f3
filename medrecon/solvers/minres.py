"""Minimal residuals for self-adjoint operators that need not be positive, or whose data are inconsistent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import add, inner, relative, start
from medrecon.tensors import ratio


@torch.no_grad()
def minres(normal: LinearOperator, b: Tensor, x0: Tensor | None = None, *, tolerance: float = 0.0) -> Iterator[Step]:
    """min |b - N x| over growing Krylov spaces, N self-adjoint; arguments and `measure` as in `cg`.

    The residual never grows, so stopping early is safe: use it where N is indefinite, singular with a b outside its
    range, or only a few steps are paid for. It keeps two more vectors than `cg` and does the same work with N.
    Paige and Saunders 1975, in the orthogonal-direction form with N p of unit length.
    """
    axes = len(normal.domain)
    x, r = start(normal, b, x0)
    rr, bb = inner(r, r, axes), inner(b, b, axes)
    stop = tolerance**2 * bb
    active = ~(rr <= stop)
    p, s = _unit(r, normal(r), axes)
    p_old, s_old = torch.zeros_like(p), torch.zeros_like(s)
    for _ in count(1):
        a = torch.where(active, inner(r, s, axes), 0)
        x, r = add(x, a, p), add(r, -a, s)
        rr = inner(r, r, axes)
        yield Step(x, relative(rr, bb, axes))
        active = active & ~(rr <= stop)
        if tolerance > 0 and not bool(active.any()):
            return
        q = normal(s)
        along, before = -inner(q, s, axes), -inner(q, s_old, axes)
        p_new = add(add(s, along, p), before, p_old)
        s_new = add(add(q, along, s), before, s_old)
        p_old, s_old = p, s
        p, s = _unit(p_new, s_new, axes)


def _unit(p: Tensor, s: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """p and N p = s, both divided by |s|; 0 where s is 0."""
    size = inner(s, s, axes).sqrt()
    return ratio(p, size.expand_as(p)), ratio(s, size.expand_as(s))
