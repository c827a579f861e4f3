"""Gradients through a linear solve against finite differences."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.linop.laws import random
from medrecon.solvers.implicit import solve
from medrecon.solvers.krylov import shifted
from medrecon.solvers.likelihood import Gaussian
from tests.solvers.systems import Matrix

C128 = torch.complex128
EXACT = {"steps": 200, "tolerance": 1e-14}


def test_the_solution_is_differentiable_in_its_right_hand_side() -> None:
    A = Matrix(random((2, 7, 5), C128, "A"))
    b = random((2, 5), C128, "b").requires_grad_()
    assert torch.autograd.gradcheck(lambda b: solve(shifted(A.normal, 0.5), b, **EXACT), b)


def test_the_solution_is_differentiable_in_the_weight_of_each_item() -> None:
    A, b = Matrix(random((2, 7, 5), C128, "A")), random((2, 5), C128, "b")
    rho = torch.tensor([[0.5], [2.0]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda rho: solve(shifted(A.normal, rho), b, **EXACT), rho)


def test_the_solution_is_differentiable_in_the_operator() -> None:
    matrix, b = random((6, 4), C128, "A").requires_grad_(), random((4,), C128, "b").requires_grad_()

    def solution(matrix: Tensor, b: Tensor) -> Tensor:
        return solve(shifted(Matrix(matrix).normal, 0.3), b, **EXACT)

    assert torch.autograd.gradcheck(solution, (matrix, b))


def test_the_proximal_step_is_differentiable_in_image_data_and_weight() -> None:
    A = Matrix(random((7, 5), C128, "A"))
    y, v = random((2, 7), C128, "y").requires_grad_(), random((2, 5), C128, "v").requires_grad_()
    rho = torch.tensor([[0.5], [2.0]], dtype=torch.float64).requires_grad_()

    def step(y: Tensor, v: Tensor, rho: Tensor) -> Tensor:
        return Gaussian(A, y).prox(v, rho, **EXACT)

    assert torch.autograd.gradcheck(step, (y, v, rho))
