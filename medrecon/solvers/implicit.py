"""Solutions of linear systems as differentiable functions of the right-hand side and of the operator's own tensors."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medrecon.iterate import run
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.krylov import cg


def solve(normal: LinearOperator, b: Tensor, x0: Tensor | None = None, *, steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """x with N x = b by conjugate gradients, differentiable without keeping the iterations.

    From N x = b: dx = N^-1 (db - dN x). The backward pass is one more solve, with the incoming gradient on the right; what
    it gives flows on into b and, through N(x), into every tensor of N that asks for a gradient (a weight, coil maps,
    angles; such an operator need not be `opaque`). Gradients are as accurate as the solves: tighten `tolerance` where
    they matter. Once differentiable.
    """
    with torch.no_grad():
        x = run(cg(normal, b, x0, tolerance=tolerance), limit=steps).x
    if not torch.is_grad_enabled():
        return x
    residual = b - normal(x)
    return cast(Tensor, _Implicit.apply(residual, x, normal, steps, tolerance)) if residual.requires_grad else x


class _Implicit(torch.autograd.Function):
    """Gives x; its gradient with respect to the residual b - N x is N^-1 times the incoming one."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, normal: LinearOperator, steps: int, tolerance: float) -> Tensor:
        ctx.normal, ctx.steps, ctx.tolerance = normal, steps, tolerance
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        back = run(cg(ctx.normal, grad[0], tolerance=ctx.tolerance), limit=ctx.steps).x
        return back, None, None, None, None
