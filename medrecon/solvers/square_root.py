"""The square root of a covariance times noise, for one that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrecon.solvers.krylov import ROUNDING, add, inner
from medrecon.tensors import ratio


@torch.no_grad()
def square_root(covariance: Callable[[Tensor], Tensor], z: Tensor, axes: int, *, steps: int = 10) -> Tensor:
    """V^(1/2) z from `steps` products V v of images (*batch, *image) with `axes` axes: a draw from N(0, V) for unit noise z.

    V is projected onto the Krylov space of z, where its root is dense (Chow and Saad 2014, doi:10.1137/130920587). Exact
    once the space is complete; before, the standard deviation is off by at most about 0.14 / steps of V's largest. The
    symmetric part of V is taken and negative eigenvalues count as 0, so a network's Jacobian will do. It keeps `steps` images.
    """
    size = inner(z, z, axes).sqrt()
    basis, images = [ratio(z, size.expand_as(z))], []
    for _ in range(steps - 1):
        images.append(covariance(basis[-1]))
        basis.append(_orthonormal(images[-1], basis, axes))
    images.append(covariance(basis[-1]))
    lead = z.shape[: z.ndim - axes]
    projected = torch.stack([torch.stack([inner(a, b, axes).reshape(lead) for b in images], -1) for a in basis], -2)
    values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
    first = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors[..., :1, :].mT
    root = torch.zeros_like(z)
    for k, direction in enumerate(basis):
        root = add(root, first[..., k, 0].reshape(size.shape) * size, direction)
    return root


def _orthonormal(image: Tensor, basis: list[Tensor], axes: int) -> Tensor:
    """The part of `image` orthogonal to the basis, of norm 1; 0 where only rounding is left, when the space is complete."""
    whole = inner(image, image, axes).sqrt()
    for _ in range(2):  # once more: the first pass leaves rounding errors of the size of `image`
        for direction in basis:
            image = add(image, -inner(direction, image, axes), direction)
    size = inner(image, image, axes).sqrt()
    kept = torch.where(size > ROUNDING * torch.finfo(size.dtype).eps * whole, size, 0)
    return ratio(image, kept.expand_as(image))
