"""The eigenbasis of A^H A of any small operator, by writing the matrix out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.linop.basic import Identity
from medrecon.linop.operator import LinearOperator, Spectrum

LIMIT = 2048
"""Numbers in an image: the matrix of so many takes 64 MB in complex128, its eigenvectors some ten seconds."""

_CHUNK = 256
"""Unit images that go through the operator at once."""


class Eigenbasis(LinearOperator):
    """V^H x for the columns of `vectors` (*batch, n, n), which are unitary: (*batch, *domain) -> (*batch, n)."""

    unitary = True
    vectors: Tensor

    def __init__(self, vectors: Tensor, domain: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.domain, self.range = tuple(domain), (vectors.shape[-1],)
        self.complex_range = vectors.is_complex()

    def _forward(self, x: Tensor) -> Tensor:
        return (self.vectors.mH @ x.flatten(x.ndim - len(self.domain)).unsqueeze(-1)).squeeze(-1)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = (self.vectors @ y.unsqueeze(-1)).squeeze(-1)
        return x.reshape(*x.shape[:-1], *self.domain)

    @property
    def normal(self) -> LinearOperator:
        return Identity(self.domain)


@torch.no_grad()
def exact_spectrum(operator: LinearOperator, like: Tensor, *, limit: int = LIMIT) -> Spectrum:
    """The eigenbasis of A^H A from its matrix, where an image has at most `limit` numbers; else `NotSupported`.

    `like` (*batch, *domain) gives field, precision and device, and the batch axes that A's own tensors may have. Squares of
    singular values come with an error of a few eps of the largest.
    """
    n = math.prod(operator.domain)
    if n > limit:
        raise NotSupported(
            f"{type(operator).__name__} {operator.domain} -> {operator.range} offers no eigenbasis of A^H A and is too large "
            f"({n} numbers, at most {limit}) for one from its matrix"
        )
    matrix = _matrix(operator.normal, like)
    values, vectors = torch.linalg.eigh((matrix + matrix.mH) / 2)
    return Spectrum(Eigenbasis(vectors, operator.domain), values.clamp_min(0))


def _matrix(operator: LinearOperator, like: Tensor) -> Tensor:
    """(*batch, n, n) of an operator on one domain; no batch axes where the operator has none of its own."""
    domain = operator.domain
    axes = like.ndim - len(domain)
    eye = torch.eye(math.prod(domain), dtype=like.dtype, device=like.device)
    images = [operator(part.reshape(-1, *[1] * axes, *domain)) for part in eye.split(_CHUNK)]
    columns = torch.cat(images).flatten(-len(domain)).movedim(0, -1)
    return columns if any(n > 1 for n in columns.shape[:-2]) else columns.reshape(columns.shape[-2:])
