"""Every law on every operator; `--device cuda` runs them there."""

from __future__ import annotations

import pytest
import torch

from medrecon.linop import laws
from tests.examples import OPERATORS, Example


def kinds(example: Example, *dtypes: torch.dtype) -> list[torch.dtype]:
    return [dtype for dtype in dtypes if example.real or dtype.is_complex]


@pytest.mark.parametrize("law", laws.LAWS)
@pytest.mark.parametrize("example", OPERATORS, ids=lambda e: e.name)
def test_operators_obey_the_laws_in_double_precision(example: Example, law: str, device: torch.device) -> None:
    for dtype in kinds(example, torch.complex128, torch.float64):
        operator = example.make(dtype).to(device)
        assert laws.LAWS[law](operator, dtype) <= laws.tolerance(dtype), dtype


@pytest.mark.parametrize("example", OPERATORS, ids=lambda e: e.name)
def test_operators_obey_the_laws_in_single_precision(example: Example, device: torch.device) -> None:
    for dtype in kinds(example, torch.complex64, torch.float32):
        assert laws.broken(example.make(dtype).to(device), dtype) == []


@pytest.mark.parametrize("example", OPERATORS, ids=lambda e: e.name)
def test_gradients_of_operators_agree_with_finite_differences(example: Example, device: torch.device) -> None:
    operator = example.make(torch.complex128).to(device)
    own = laws.lead(operator, torch.complex128)
    x = laws.random((*own, *operator.domain), torch.complex128, "x", device).requires_grad_()
    y = laws.random((*own, *operator.range), torch.complex128, "y", device).requires_grad_()
    assert torch.autograd.gradcheck(operator, x, fast_mode=True)
    assert torch.autograd.gradcheck(operator.H, y, fast_mode=True)


def test_a_broken_adjoint_is_named() -> None:
    class Wrong(laws.LinearOperator):
        domain = range = (4,)

        def _forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y

    assert any("<A x, y> = <x, A^H y>" in sentence for sentence in laws.broken(Wrong()))
