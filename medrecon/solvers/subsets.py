"""Ordered subsets: an operator cut into groups of views, its first data axis."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Diagonal, Mask
from medrecon.linop.operator import Composed, LinearOperator, Scaled, Sum


@runtime_checkable
class Subsettable(Protocol):
    """An operator that can be applied to some of its views at the cost of those."""

    def subset(self, views: slice) -> LinearOperator: ...


class Rows(LinearOperator):
    """Some views of an operator that knows no subsets, at the cost of the whole: (*batch, *domain) -> (*batch, views, ...)."""

    def __init__(self, operator: LinearOperator, views: slice) -> None:
        super().__init__()
        self.operator, self.views = operator, views
        n, *other = operator.range
        self.domain, self.range = operator.domain, (len(range(*views.indices(n))), *other)
        self.opaque, self.complex_range = operator.opaque, operator.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return of_views(self.operator._forward(x), self.views, len(self.range))

    def _adjoint(self, y: Tensor) -> Tensor:
        whole = y.new_zeros(*y.shape[: y.ndim - len(self.range)], *self.operator.range)
        of_views(whole, self.views, len(self.range)).copy_(y)
        return self.operator._adjoint(whole)


def subset(A: LinearOperator, views: slice) -> LinearOperator:
    """A with `views` of its first data axis only: (*batch, *domain) -> (*batch, views, ...).

    As cheap as its share of the views where the operator is `Subsettable`, seen through multiples, sums, weights and masks
    of the data and whatever is done to the image first. Any other operator is applied as a whole (`Rows`).
    """
    if isinstance(A, Subsettable):
        return A.subset(views)
    if isinstance(A, Scaled):
        return Scaled(subset(A.operator, views), A.factor)
    if isinstance(A, Sum):
        return Sum(subset(A.first, views), subset(A.second, views))
    if isinstance(A, Composed) and isinstance(A.left, Diagonal | Mask):
        return Composed(_diagonal(A.left, views), subset(A.right, views))
    if isinstance(A, Composed):
        return Composed(subset(A.left, views), A.right)
    return Rows(A, views)


def _diagonal(weights: Diagonal | Mask, views: slice) -> LinearOperator:
    """Weights or a mask of the data, for some views."""
    n, *other = weights.range
    shape = (len(range(*views.indices(n))), *other)
    if isinstance(weights, Mask):
        return Mask(of_views(weights.mask, views, len(shape)), shape)
    return Diagonal(of_views(weights.values, views, len(shape)), shape)


def of_views(data: Tensor, views: slice, axes: int) -> Tensor:
    """The `views` of the first of the `axes` trailing axes of data that broadcast over these; a view, no copy."""
    if data.ndim < axes or data.shape[data.ndim - axes] == 1:
        return data
    return data.movedim(-axes, 0)[views].movedim(0, -axes)


def interleaved(n_views: int, n_subsets: int) -> list[slice]:
    """Every n_subsets-th view from each start, in bit-reversed order: a subset is far from those just before it.

    No more subsets than views. Raises `BadInput` below 1.
    """
    if n_subsets < 1:
        raise BadInput(f"subsets = {n_subsets}: expected at least 1")
    n = max(1, min(n_subsets, n_views))
    return [slice(start, None, n) for start in bit_reversed(n)]


def bit_reversed(n: int) -> list[int]:
    """0 to n - 1, ordered by their binary digits read backwards (Herman and Meyer 1993)."""
    digits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda k: int(f"{k:0{digits}b}"[::-1], 2))
