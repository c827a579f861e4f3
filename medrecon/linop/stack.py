"""Several operators as one: on the same image, on parts of a vector, or each on its own part.

Where parts meet they are flattened and joined to one vector of length sum(sizes), since their shapes may differ;
`split` takes it apart again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrecon.errors import BadInput
from medrecon.linop.operator import LinearOperator

Shape = tuple[int, ...]


def join(parts: Sequence[Tensor], shapes: Sequence[Shape]) -> Tensor:
    """Parts (*batch, *shape) to one vector (*batch, sum of sizes); batch axes broadcast."""
    flat = [p.reshape(*p.shape[: p.ndim - len(s)], math.prod(s)) for p, s in zip(parts, shapes, strict=True)]
    batch = torch.broadcast_shapes(*(p.shape[:-1] for p in flat))
    return torch.cat([p.expand(*batch, p.shape[-1]) for p in flat], -1)


def split(vector: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """The inverse of `join`."""
    pieces = vector.split([math.prod(s) for s in shapes], -1)
    return [p.reshape(*p.shape[:-1], *s) for p, s in zip(pieces, shapes, strict=True)]


class _Several(LinearOperator):
    """Holds the operators and what they share."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__()
        if not operators:
            raise BadInput(f"{type(self).__name__} of no operators: give at least one")
        self.operators = nn.ModuleList(operators)
        self.opaque = all(a.opaque for a in operators)
        self.complex_range = any(a.complex_range for a in operators)

    @property
    def parts(self) -> list[LinearOperator]:
        return list(self.operators)  # type: ignore[arg-type]

    @property
    def domains(self) -> list[Shape]:
        """The domain of each operator."""
        return [a.domain for a in self.parts]

    @property
    def ranges(self) -> list[Shape]:
        """The range of each operator."""
        return [a.range for a in self.parts]

    @property
    def n_samples(self) -> int:
        return sum(a.n_samples for a in self.parts)


class VStack(_Several):
    """x to (A x, B x, ...), all from one domain: (*batch, *domain) -> (*batch, sum of range sizes)."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        if len(set(self.domains)) != 1:
            raise BadInput(f"VStack: the operators start from different domains {self.domains}")
        self.domain, self.range = self.domains[0], (sum(map(math.prod, self.ranges)),)

    def _forward(self, x: Tensor) -> Tensor:
        return join([a._forward(x) for a in self.parts], self.ranges)

    def _adjoint(self, y: Tensor) -> Tensor:
        return _total([a._adjoint(piece) for a, piece in zip(self.parts, split(y, self.ranges), strict=True)])

    def split(self, y: Tensor) -> list[Tensor]:
        """The data of each operator, (*batch, *range) each."""
        return split(y, self.ranges)

    @property
    def normal(self) -> LinearOperator:
        return Total([a.normal for a in self.parts])


class HStack(_Several):
    """(x, z, ...) to A x + B z + ..., all into one range: (*batch, sum of domain sizes) -> (*batch, *range)."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        if len(set(self.ranges)) != 1:
            raise BadInput(f"HStack: the operators end in different ranges {self.ranges}")
        self.domain, self.range = (sum(map(math.prod, self.domains)),), self.ranges[0]

    def _forward(self, x: Tensor) -> Tensor:
        return _total([a._forward(piece) for a, piece in zip(self.parts, split(x, self.domains), strict=True)])

    def _adjoint(self, y: Tensor) -> Tensor:
        return join([a._adjoint(y) for a in self.parts], self.domains)

    def split(self, x: Tensor) -> list[Tensor]:
        """The unknowns of each operator, (*batch, *domain) each."""
        return split(x, self.domains)

    @property
    def n_samples(self) -> int:
        return self.parts[0].n_samples


class BlockDiagonal(_Several):
    """(x, z, ...) to (A x, B z, ...): (*batch, sum of domain sizes) -> (*batch, sum of range sizes)."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        self.domain, self.range = (sum(map(math.prod, self.domains)),), (sum(map(math.prod, self.ranges)),)

    def _forward(self, x: Tensor) -> Tensor:
        return join([a._forward(piece) for a, piece in zip(self.parts, split(x, self.domains), strict=True)], self.ranges)

    def _adjoint(self, y: Tensor) -> Tensor:
        return join([a._adjoint(piece) for a, piece in zip(self.parts, split(y, self.ranges), strict=True)], self.domains)

    @property
    def normal(self) -> LinearOperator:
        return BlockDiagonal([a.normal for a in self.parts])


class Total(_Several):
    """x to A x + B x + ...: the sum of any number of operators."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        super().__init__(operators)
        if len({(a.domain, a.range) for a in operators}) != 1:
            raise BadInput(f"Total: operators {self.domains} -> {self.ranges} cannot be added")
        self.domain, self.range = self.domains[0], self.ranges[0]

    def _forward(self, x: Tensor) -> Tensor:
        return _total([a._forward(x) for a in self.parts])

    def _adjoint(self, y: Tensor) -> Tensor:
        return _total([a._adjoint(y) for a in self.parts])

    @property
    def n_samples(self) -> int:
        return max(a.n_samples for a in self.parts)


def vstack(operators: Sequence[LinearOperator]) -> LinearOperator:
    """`VStack`; a single operator is itself."""
    return operators[0] if len(operators) == 1 else VStack(operators)


def _total(parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result
