"""Algebraic reconstruction: least squares by row and column sums (SIRT, ordered SART) or conjugate gradients (CGLS).

Iterations (likelihood, x, **settings) -> steps without a penalty: the number of steps is the regularisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import Step
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.classical import as_gaussian
from medrecon.solvers.krylov import add, inner, relative
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.subsets import interleaved, of_views, subset
from medrecon.tensors import ratio, trailing

UNSEEN = 1e-6
"""Rows and columns whose sum is below this share of the largest are left out."""

REFRESH = 20
"""After so many steps of `cgls` the residual is computed anew: the recurrence drifts in single precision."""


def sirt(likelihood: Likelihood, x: Tensor, *, relaxation: float = 1.0, lowest: float | None = None) -> Iterator[Step]:
    """x + relaxation C A^T R (y - A x) from x (*batch, *image), R = 1 / (A 1) and C = 1 / (A^T 1): one A and A^T a step.

    Converges for 0 < relaxation < 2 to the solution of A^T R (A x - y) = 0 nearest to the start in the metric 1 / C; rays that
    the likelihood weighs by w count with sqrt(w) over their length. `lowest`: pixels are kept at or above it.
    `measure`: |A x - y| / |y| in the norm of R, of x before the step; without `lowest` it never rises for relaxation <= 1.
    A must not be negative. Gregor and Benson, IEEE Trans. Med. Imaging 27:918 (2008).
    """
    return os_sart(likelihood, x, subsets=1, relaxation=relaxation, decay=1.0, lowest=lowest)


@torch.no_grad()
def os_sart(
    likelihood: Likelihood,
    x: Tensor,
    *,
    subsets: int = 10,
    relaxation: float = 0.9,
    decay: float = 0.99,
    lowest: float | None = None,
) -> Iterator[Step]:
    """`sirt` for one group of views after the other; a step is a pass through all of them, as dear as a step of `sirt`.

    Groups are interleaved views in bit-reversed order; `relaxation` falls by `decay` each pass. For data that fit, the limit is
    the solution nearest to the start in the metric 1 / C; for others `decay` < 1 ends the cycling between the groups. C is
    1 / max over groups of (A_s^T 1): no group can overshoot, and one image is kept instead of one for each.
    `measure`: |A x - y| / |y| in the norm of R, each view before its own update.
    Censor, Gordon and Gordon 2001; Andersen and Kak 1984.
    """
    gaussian = as_real(as_gaussian(likelihood, "SIRT"), x)
    if not 0 < relaxation < 2 or not 0 < decay <= 1:
        raise BadInput(f"relaxation = {relaxation}, decay = {decay}: expected 0 < relaxation < 2 and 0 < decay <= 1")
    views = interleaved(gaussian.A.range[0], subsets)
    axes = len(gaussian.A.range)
    parts = [gaussian.A] if len(views) == 1 else [subset(gaussian.A, group) for group in views]
    data = [of_views(gaussian.y, group, axes) for group in views]
    rows = [not_negative(part(x.new_ones(part.domain))) for part in parts]
    largest = torch.stack([row.amax(trailing(axes), keepdim=True) for row in rows]).amax(0)
    rows = [_inverse(row, largest) for row in rows]
    columns = _columns(parts, x)
    whole = torch.stack([inner(y, row * y, axes) for y, row in zip(data, rows, strict=True)]).sum(0)
    for step in count():
        misfit = torch.zeros_like(whole)
        for part, y, row in zip(parts, data, rows, strict=True):
            residual = y - part(x)
            pull = row * residual
            misfit = misfit + inner(residual, pull, axes)
            x = x + relaxation * decay**step * columns * part.H(pull)
            x = x if lowest is None else x.clamp(min=lowest)
        yield Step(x, relative(misfit, whole, axes))


@torch.no_grad()
def cgls(likelihood: Likelihood, x: Tensor, *, discrepancy: float = 1.02, tolerance: float = 1e-4) -> Iterator[Step]:
    """min |A x - y|^2 / 2 by conjugate gradients on the normal equations, from x (*batch, *image), real or complex.

    An item stops at |A x - y| <= discrepancy sqrt(n_data), where it explains the data down to their noise (0, or data without
    a noise level: never), or at |A^H (A x - y)| <= tolerance |A^H y|. `measure`: |A x - y| per square root of the number of
    data, which never rises: 1 is the noise. Unlike `least_squares` it holds the residual itself, which a stop by
    discrepancy needs to more digits than the normal equations can give. Bjoerck 1996, algorithm 7.4.1; Hansen 1998.
    """
    gaussian = as_gaussian(likelihood, "CGLS")
    A, n_data, data_axes, axes = gaussian.A, gaussian.n_data, len(gaussian.A.range), len(gaussian.domain)
    enough = discrepancy**2 * n_data if gaussian.noisy else 0.0
    residual = gaussian.y - A(x)
    gradient = A.H(residual)
    x = x.expand_as(gradient)
    direction, size = gradient, inner(gradient, gradient, axes)
    stop = tolerance**2 * inner(gaussian.back, gaussian.back, axes)
    active = (_per_image(inner(residual, residual, data_axes), data_axes, axes) > enough) & (size > stop)
    for step in count(1):
        seen = A(direction)
        length = torch.where(active, ratio(size, _per_image(inner(seen, seen, data_axes), data_axes, axes)), 0)
        x = add(x, length, direction)
        along = _per_image(length, axes, data_axes)
        residual = add(residual, -along, seen) if step % REFRESH else torch.where(along != 0, gaussian.y - A(x), residual)
        misfit = inner(residual, residual, data_axes)
        yield Step(x, misfit.div(n_data).sqrt().reshape(misfit.shape[: misfit.ndim - data_axes]))
        gradient = A.H(residual)
        old, size = size, inner(gradient, gradient, axes)
        active = active & (_per_image(misfit, data_axes, axes) > enough) & (size > stop)
        if not bool(active.any()):
            return
        direction = add(gradient, ratio(size, old), direction)


def _per_image(number: Tensor, axes: int, other: int) -> Tensor:
    """(*batch, 1, ..., 1) with `axes` ones as one with `other` ones."""
    return number.reshape(*number.shape[: number.ndim - axes], *[1] * other)


def as_real(gaussian: Gaussian, x: Tensor) -> Gaussian:
    """The likelihood, if image and data are real; else `NotSupported`."""
    if x.is_complex() or gaussian.y.is_complex():
        raise NotSupported("row and column sums need real images and data, these are complex: choose cgls or sense")
    return gaussian


def not_negative(sums: Tensor) -> Tensor:
    """Row or column sums of an operator, if none is below 0; else `NotSupported`."""
    if not bool((sums >= -UNSEEN * sums.abs().max()).all()):
        raise NotSupported("row and column sums need an operator without negative entries: choose cgls or sense")
    return sums


def _columns(parts: list[LinearOperator], x: Tensor) -> Tensor:
    """C: one over the largest column sum of any part; 0 for pixels that no part sees."""
    most = not_negative(parts[0].H(x.new_ones(parts[0].range)))
    for part in parts[1:]:
        most = torch.maximum(most, not_negative(part.H(x.new_ones(part.range))))
    return _inverse(most, most.amax(trailing(len(parts[0].domain)), keepdim=True))


def _inverse(sums: Tensor, largest: Tensor) -> Tensor:
    """1 / sums, 0 where they are next to nothing."""
    seen = sums > UNSEEN * largest
    return torch.where(seen, 1 / torch.where(seen, sums, 1), 0)
