"""Primal-dual iteration for penalties whose operator cannot be inverted: total variation and its kin."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.solvers.krylov import inner
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.regularisers import Regulariser
from medrecon.tensors import ratio


@torch.no_grad()
def pdhg(
    likelihood: Likelihood,
    regulariser: Regulariser,
    x: Tensor,
    *,
    weight: Tensor | float,
    lipschitz: Tensor | float,
    operator_norm: float,
    balance: Tensor | float = 1.0,
    tolerance: float = 0.0,
) -> Iterator[Step]:
    """min likelihood.value(x) + weight g(K x), from x (*batch, *image): one gradient and one K and K^H a step.

    `lipschitz`: bound on the likelihood's curvature, |A|^2; `operator_norm`: bound on |K|; `balance`: dual over primal
    step length in units of lipschitz, which sets the speed and not the result. Steps obey
    1/tau - sigma |K|^2 >= lipschitz / 2. `measure`: |x - x before| / |x| of every item, the dual's
    change included; `tolerance` as in `fista`. Condat 2013, algorithm 3.1; Vu 2013.
    """
    axes = len(likelihood.domain)
    operator = regulariser.operator
    sigma = balance * lipschitz
    tau = 1 / (lipschitz / 2 + sigma * operator_norm**2)
    dual = torch.zeros_like(operator(x))
    pull, active = torch.zeros_like(x), torch.ones((), dtype=torch.bool, device=x.device)
    while True:
        new = torch.where(active, x - tau * (likelihood.gradient(x) + pull), x)
        dual = regulariser.project(dual + regulariser.spread(sigma) * operator(2 * new - x), weight)
        move, turn = new - x, operator.H(dual) - pull
        x, pull = new, pull + turn
        # The dual's change counts as the step that it causes next: x alone may rest while the dual still builds up.
        size = inner(move, move, axes).sqrt() + tau * inner(turn, turn, axes).sqrt()
        change = ratio(size, inner(x, x, axes).sqrt())
        yield Step(x, change.reshape(change.shape[: change.ndim - axes]))
        active = active & ~(change <= tolerance)
        if tolerance > 0 and not bool(active.any()):
            return
