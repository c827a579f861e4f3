"""Stacks take apart what they joined and refuse parts that do not meet."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity, Mask
from medrecon.linop.difference import Gradient
from medrecon.linop.stack import HStack, VStack, vstack


def test_each_operator_of_a_stack_finds_its_own_data() -> None:
    x = torch.randn(3, 5, 6)
    stack = VStack([Gradient((5, 6)), Identity((5, 6))])
    differences, image = stack.split(stack(x))
    torch.testing.assert_close(differences, Gradient((5, 6))(x))
    torch.testing.assert_close(image, x)


def test_a_stack_counts_the_samples_of_all_its_parts() -> None:
    mask = torch.tensor([True, False, True])
    assert VStack([Mask(mask), Identity((3,))]).n_samples == 5


def test_a_stack_of_one_is_the_operator() -> None:
    operator = Identity((3,))
    assert vstack([operator]) is operator


def test_operators_that_do_not_meet_are_refused() -> None:
    with pytest.raises(BadInput, match="different domains"):
        VStack([Identity((3,)), Identity((4,))])
    with pytest.raises(BadInput, match="different ranges"):
        HStack([Identity((3,)), Identity((4,))])
