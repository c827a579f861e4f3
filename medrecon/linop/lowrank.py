"""Series of images (frames, echoes, channels, slices): an operator on each of them, and few maps that make them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.basic import Identity
from medrecon.linop.operator import LinearOperator, Spectrum


class Series(LinearOperator):
    """The images of a series, each seen by its own operator: (*batch, count, *domain) -> (*batch, count, *range).

    `operator` acts on all images alike, or has a batch axis of length `count` as the last of its own (masks of each
    echo, say), which becomes an axis of the image here: inner products then run over the whole series.
    """

    def __init__(self, operator: LinearOperator, count: int) -> None:
        super().__init__()
        self.operator, self.count = operator, count
        self.domain, self.range = (count, *operator.domain), (count, *operator.range)
        self.unitary, self.opaque, self.complex_range = operator.unitary, operator.opaque, operator.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint(y)

    @property
    def normal(self) -> LinearOperator:
        return Series(self.operator.normal, self.count)

    @property
    def spectrum(self) -> Spectrum | None:
        inner = self.operator.spectrum
        return None if inner is None else Spectrum(Series(inner.basis, self.count), inner.values)

    @property
    def n_samples(self) -> int:
        """Those of all images, `count` times the mean."""
        return self.count * self.operator.n_samples


class Subspace(LinearOperator):
    """Coefficient maps to a series: (*batch, r, *image) -> (*batch, t, *image), series = basis @ maps.

    `basis`: (*batch, t, r) with orthonormal columns, which is checked; so the adjoint projects, and E^H E = 1.
    """

    basis: Tensor

    def __init__(self, basis: Tensor, image: Sequence[int]) -> None:
        super().__init__()
        t, r = basis.shape[-2:]
        error = (basis.mH @ basis - torch.eye(r, dtype=basis.dtype, device=basis.device)).abs().max()
        if not float(error) < 100 * t * torch.finfo(basis.dtype).eps:
            raise BadInput(
                f"Subspace: the columns of the basis are not orthonormal (error {float(error):.1e}): take the Q of its QR factors"
            )
        self.register_buffer("basis", basis)
        self.domain, self.range = (r, *image), (t, *image)
        self.complex_range, self.unitary = basis.is_complex(), r == t

    def _forward(self, x: Tensor) -> Tensor:
        return self._mixed(self.basis, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._mixed(self.basis.mH, y)

    def _mixed(self, matrix: Tensor, x: Tensor) -> Tensor:
        image, dtype = self.domain[1:], torch.promote_types(matrix.dtype, x.dtype)
        mixed = matrix.to(dtype) @ x.flatten(x.ndim - len(image)).to(dtype)
        return mixed.reshape(*mixed.shape[:-1], *image)

    @property
    def normal(self) -> LinearOperator:
        return Identity(self.domain)
