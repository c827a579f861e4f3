"""Conjugate gradients for self-adjoint positive operators: batched, complex, each item with its own step and stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from medrecon.errors import Diverged
from medrecon.iterate import Step
from medrecon.linop.operator import LinearOperator
from medrecon.tensors import dot, ratio, real_dtype

REFRESH = 50
"""After so many steps the residual is computed anew: the recurrence drifts in single precision."""

ROUNDING = 100
"""Cosines below -ROUNDING eps are no longer rounding."""

_LONG = 1_000_000
"""Longer sums are accumulated in double precision."""

_WATCH = 10
"""On an accelerator without tolerance the host looks at the curvature only every so many steps."""


class Shifted(LinearOperator):
    """x to N x + rho x for a self-adjoint N; `rho` is a number or a tensor (*batch, 1, ..., 1), real."""

    rho: Tensor

    def __init__(self, operator: LinearOperator, rho: float | Tensor) -> None:
        super().__init__()
        self.operator = operator
        self.register_buffer("rho", rho if isinstance(rho, Tensor) else torch.tensor(rho, dtype=torch.float64))
        self.domain = self.range = operator.domain
        self.opaque, self.complex_range = operator.opaque and not self.rho.requires_grad, operator.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(x) + self.number(x) * x

    def number(self, x: Tensor) -> Tensor:
        """rho in x's precision: a 0-dim double does not promote single precision, a batch of them would."""
        return self.rho if self.rho.ndim == 0 else self.rho.to(real_dtype(x.dtype))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self


def shifted(normal: LinearOperator, rho: float | Tensor) -> LinearOperator:
    """N + rho I; N itself for the number 0."""
    return normal if not isinstance(rho, Tensor) and rho == 0 else Shifted(normal, rho)


@torch.no_grad()
def cg(normal: LinearOperator, b: Tensor, x0: Tensor | None = None, *, tolerance: float = 0.0) -> Iterator[Step]:
    """Conjugate gradients for N x = b, N self-adjoint and positive; b (*batch, *domain), real or complex.

    Starts at `x0` (zero by default), which may have more or fewer leading axes than b. `measure` is the residual
    |b - N x| / |b| of every item, (*batch,). An item freezes when that is at most `tolerance`; the iteration ends when
    all have. With tolerance 0 it goes on for ever and, on an accelerator, hardly ever waits for the device.
    No gradient passes (see `medrecon.solvers.implicit`). Raises `Diverged` where p^H N p < 0 beyond rounding.
    Hestenes and Stiefel 1952.
    """
    axes = len(normal.domain)
    x, r = start(normal, b, x0)
    p, rr, bb = r.clone(), inner(r, r, axes), inner(b, b, axes)
    stop = tolerance**2 * bb
    watch = _Curvature(normal)
    active = ~(rr <= stop)
    for step in count(1):
        q = normal(p)
        pq = inner(p, q, axes)
        watch(step, p, q, pq)
        # Curvature 0 is the null space reached by rounding: nothing to gain there. NaN must go on and be seen.
        active = active & ~(pq <= 0)
        a = torch.where(active, ratio(rr, pq), 0)
        x = add(x, a, p)
        r = add(r, -a, q, out=r) if step % REFRESH else torch.where(active, b - normal(x), r)
        old, rr = rr, inner(r, r, axes)
        yield Step(x, relative(rr, bb, axes))
        active = active & ~(rr <= stop)
        if tolerance > 0 and not bool(active.any()):
            return
        p = add(r, torch.where(active, ratio(rr, old), 0), p, out=p)


def start(normal: LinearOperator, b: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """x and b - N x, both with all leading axes of b, x0 and N's own tensors, in memory of their own."""
    if x0 is None:
        return torch.zeros_like(b, memory_format=torch.contiguous_format), b.clone(memory_format=torch.contiguous_format)
    r = (b - normal(x0)).contiguous()
    return x0.to(r.dtype).expand_as(r).contiguous(), r


class _Curvature:
    """Watches p^H N p and raises where it is negative beyond rounding.

    On the CPU that is looked at in every step; elsewhere it is remembered and looked at every `_WATCH` steps.
    """

    def __init__(self, normal: LinearOperator) -> None:
        self.normal, self.axes = normal, len(normal.domain)
        self.lowest: Tensor | None = None

    def __call__(self, step: int, p: Tensor, q: Tensor, pq: Tensor) -> None:
        if pq.device.type == "cpu":
            if bool((pq < 0).any()):
                self._check(step, self._cosine(p, q, pq))
            return
        cosine = self._cosine(p, q, pq)
        self.lowest = cosine if self.lowest is None else torch.minimum(self.lowest, cosine)
        if step % _WATCH == 0:
            self._check(step, self.lowest)

    def _cosine(self, p: Tensor, q: Tensor, pq: Tensor) -> Tensor:
        """p^H N p / (|p| |N p|): free of any scale."""
        return ratio(pq, inner(p, p, self.axes).sqrt() * inner(q, q, self.axes).sqrt())

    def _check(self, step: int, cosine: Tensor) -> None:
        lowest = float(cosine.min())
        if lowest < -ROUNDING * torch.finfo(cosine.dtype).eps:
            raise Diverged(
                f"conjugate gradients, step {step}: {type(self.normal).__name__} {self.normal.domain} is not positive "
                f"(p^H N p / |p||N p| = {lowest:.1e}): its adjoint does not match its forward, or use minres"
            )


def inner(a: Tensor, b: Tensor, axes: int) -> Tensor:
    """Re<a, b> as `tensors.dot` gives it, in one pass over the memory."""
    if math.prod(a.shape[a.ndim - axes :]) > _LONG or a.is_complex() != b.is_complex():
        return dot(a, b, axes)
    left, right = (_real(t).flatten(_real(t).ndim - axes - int(t.is_complex())) for t in (a, b))
    return torch.linalg.vecdot(left, right).reshape(*left.shape[:-1], *[1] * axes)


def add(x: Tensor, a: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """x + a y with real a (*batch, 1, ..., 1); `out` may be x or y."""
    if not x.is_complex():
        return torch.addcmul(x, a, y, out=out)
    total = torch.addcmul(_real(x), a.unsqueeze(-1), _real(y), out=None if out is None else torch.view_as_real(out))
    return torch.view_as_complex(total) if out is None else out


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def relative(rr: Tensor, bb: Tensor, axes: int) -> Tensor:
    """|r| / |b| of every item, (*batch,); 0 where b is 0."""
    return ratio(rr, bb.expand_as(rr)).sqrt().reshape(rr.shape[: rr.ndim - axes])
