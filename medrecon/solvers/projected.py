"""Functions of a covariance that is known by its products alone and only nearly symmetric, as a Krylov space sees it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.solvers.krylov import ROUNDING, add, inner
from medrecon.tensors import ratio


@torch.no_grad()
def projected(
    function: Callable[[Tensor], Tensor], operator: Callable[[Tensor], Tensor], z: Tensor, axes: int, *, steps: int = 10
) -> Tensor:
    """f(V) z from `steps` products V v of tensors (*batch, ...) with `axes` trailing axes; f maps eigenvalues (*batch, steps).

    V is projected onto the Krylov space of z, where f is dense; exact once the space is complete. For a symmetric V and
    f = 1 / (1 + v) these are the conjugate gradients of (V + 1) x = z. The symmetric part of V is taken and negative eigenvalues
    count as 0, so a network's Jacobian will do: conjugate gradients diverge on one. It keeps 2 `steps` tensors like z.
    """
    size = inner(z, z, axes).sqrt()
    basis, images = [ratio(z, size.expand_as(z))], []
    for _ in range(steps - 1):
        images.append(operator(basis[-1]))
        basis.append(_orthonormal(images[-1], basis, axes))
    images.append(operator(basis[-1]))
    lead = z.shape[: z.ndim - axes]
    matrix = torch.stack([torch.stack([inner(a, b, axes).reshape(lead) for b in images], -1) for a in basis], -2)
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    first = (vectors * function(values.clamp_min(0)).unsqueeze(-2)) @ vectors[..., :1, :].mT
    result = torch.zeros_like(z)
    for k, direction in enumerate(basis):
        result = add(result, first[..., k, 0].reshape(size.shape) * size, direction)
    return result


def square_root(covariance: Callable[[Tensor], Tensor], z: Tensor, axes: int, *, steps: int = 10) -> Tensor:
    """V^(1/2) z: a draw from N(0, V) for unit noise z (Chow and Saad 2014, doi:10.1137/130920587).

    Before the Krylov space is complete the standard deviation is off by at most about 0.14 / steps of V's largest.
    """
    return projected(torch.sqrt, covariance, z, axes, steps=steps)


def _orthonormal(image: Tensor, basis: list[Tensor], axes: int) -> Tensor:
    """The part of `image` orthogonal to the basis, of norm 1; 0 where only rounding is left, when the space is complete."""
    whole = inner(image, image, axes).sqrt()
    for _ in range(2):  # once more: the first pass leaves rounding errors of the size of `image`
        for direction in basis:
            image = add(image, -inner(direction, image, axes), direction)
    size = inner(image, image, axes).sqrt()
    kept = torch.where(size > ROUNDING * torch.finfo(size.dtype).eps * whole, size, 0)
    return ratio(image, kept.expand_as(image))
