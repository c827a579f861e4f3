"""The laws of a linear operator as functions: each returns a relative error, 0 where the law holds exactly.

`broken(operator)` runs them all and returns sentences. `dtype` is that of the argument: complex128 or complex64 for
operators on complex images, float64 or float32 on real ones. All randomness is fixed, so an error is reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.linop.operator import LinearOperator
from medrecon.tensors import generator_for, unit_noise

LARGEST_MATRIX = 4_000_000
"""Explicit matrices of more entries are not built."""


def random(shape: Sequence[int], dtype: torch.dtype, name: str, device: torch.device | str = "cpu") -> Tensor:
    """Reproducible unit noise, named so that two of them differ."""
    return unit_noise(shape, dtype, generator_for(0, "law", name)).to(device)


def device_of(operator: LinearOperator) -> torch.device:
    """Where the operator's tensors are; the CPU for one that has none."""
    return next((t.device for t in [*operator.buffers(), *operator.parameters()]), torch.device("cpu"))


def lead(operator: LinearOperator, dtype: torch.dtype) -> tuple[int, ...]:
    """Batch axes that the operator's own tensors have (maps of several slices, say)."""
    with torch.no_grad():
        y = operator(random(operator.domain, dtype, "x", device_of(operator)))
    return tuple(y.shape[: y.ndim - len(operator.range)])


def adjoint_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """|<A x, y> - <x, A^H y>| / (|A x| |y|) over a batch of two."""
    x, Ax = _argument_and_image(operator, dtype)
    y = random(Ax.shape, Ax.dtype, "y", Ax.device)
    left, right = torch.vdot(y.flatten(), Ax.flatten()), _vdot_real_aware(operator.H(y), x)
    return float((left - right).abs() / (Ax.norm() * y.norm()).clamp_min(1e-300))


def linearity_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """A(a x + z) against a A x + A z, a complex where the argument is."""
    x, Ax = _argument_and_image(operator, dtype)
    z = random(x.shape, dtype, "z", x.device)
    a = torch.tensor(0.6 - 1.1j if dtype.is_complex else -1.3, dtype=dtype, device=x.device)
    return _difference(operator(a * x + z), a * Ax + operator(z))


def normal_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """`A.normal` against A^H A, relative to |A^H A x|."""
    x, Ax = _argument_and_image(operator, dtype)
    return _difference(operator.normal(x), operator.H(Ax))


def twice_adjoint_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """(A^H)^H against A, and the normal operator against its own adjoint."""
    x, Ax = _argument_and_image(operator, dtype)
    normal = operator.normal
    return max(_difference(operator.H.H(x), Ax), _difference(normal.H(x), normal(x)))


def batch_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """A on a batch against A on its items, forward and adjoint: no item may see its neighbours."""
    x, Ax = _argument_and_image(operator, dtype)
    y = random(Ax.shape, Ax.dtype, "y", Ax.device)
    forward = max(_difference(operator(item), whole) for item, whole in zip(x, Ax, strict=True))
    adjoint = max(_difference(operator.H(item), whole) for item, whole in zip(y, operator.H(y), strict=True))
    return max(forward, adjoint)


def matrix(operator: LinearOperator, dtype: torch.dtype) -> Tensor:
    """The explicit matrix, (*own batch axes, range size, domain size); for tiny operators."""
    n, own = math.prod(operator.domain), lead(operator, dtype)
    units = torch.eye(n, dtype=dtype, device=device_of(operator)).reshape(n, *[1] * len(own), *operator.domain)
    columns = operator(units.expand(n, *own, *operator.domain))
    return columns.reshape(n, *own, math.prod(operator.range)).movedim(0, -1)


def matrix_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """Explicit matrices of A, A^H and A^H A against one another; 0 when they would be larger than LARGEST_MATRIX.

    The adjoint is asked for on complex data only where the range is complex.
    """
    m, n = math.prod(operator.range), math.prod(operator.domain)
    if max(m, n) * n > LARGEST_MATRIX or m * m > LARGEST_MATRIX:
        return 0.0
    A = matrix(operator, dtype)
    normal = _difference(matrix(operator.normal, dtype), A.mH @ A)
    return max(normal, _difference(matrix(operator.H, A.dtype), A.mH))


def spectrum_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """V^H diag(values) V against the normal operator, V^H V against 1, negative values; 0 without a spectrum."""
    spectrum = operator.spectrum
    if spectrum is None:
        return 0.0
    x, Ax = _argument_and_image(operator, dtype)
    coefficients = spectrum.basis(x)
    values = spectrum.values.to(device=x.device, dtype=x.real.dtype)
    rebuilt = _difference(spectrum.basis.H(values * coefficients), operator.H(Ax))
    unitary = _difference(spectrum.basis.H(coefficients), x)
    return max(rebuilt, unitary, float((-values).max().clamp_min(0)))


def gradient_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """Autograd of |A x|^2 / 2 and |A^H y|^2 / 2 against A^H A x and A A^H y, and the derivative of
    those."""
    x, Ax = _argument_and_image(operator, dtype)
    y = random(Ax.shape, Ax.dtype, "y", Ax.device)
    error = 0.0
    for A, v in ((operator, x), (operator.H, y)):
        v = v.clone().requires_grad_()
        half = A(v).abs().square().sum() / 2
        (slope,) = torch.autograd.grad(half, v, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, v, v.detach())
        with torch.no_grad():
            expected = A.H(A(v))
        error = max(error, _difference(slope.detach(), expected), _difference(curvature, expected))
    return error


def keeps_kind_error(operator: LinearOperator, dtype: torch.dtype) -> float:
    """0 when device and precision of the argument come back from A, A^H and A^H A, else 1."""
    x, Ax = _argument_and_image(operator, dtype)
    images = (Ax, operator.H(Ax), operator.normal(x))
    return float(any(t.device != x.device or t.real.dtype != x.real.dtype for t in images))


LAWS: dict[str, Callable[[LinearOperator, torch.dtype], float]] = {
    "<A x, y> = <x, A^H y>": adjoint_error,
    "A is linear": linearity_error,
    "A.normal is A^H A": normal_error,
    "(A^H)^H is A": twice_adjoint_error,
    "items of a batch are independent": batch_error,
    "explicit matrices of A, A^H and A.normal agree": matrix_error,
    "A.spectrum rebuilds A.normal": spectrum_error,
    "autograd is the adjoint": gradient_error,
    "device and precision stay": keeps_kind_error,
}


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may cost: 1e-12 in double, 1e-5 in single precision."""
    return 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-5


def broken(operator: LinearOperator, dtype: torch.dtype = torch.complex128, limit: float | None = None) -> list[str]:
    """A sentence for every law that the operator breaks by more than `limit` (`tolerance(dtype)`); empty when none."""
    limit = tolerance(dtype) if limit is None else limit
    errors = {law: error(operator, dtype) for law, error in LAWS.items()}
    name = f"{type(operator).__name__} {operator.domain} -> {operator.range}, {dtype}"
    return [f"{name}: the law '{law}' fails by {error:.1e} (allowed {limit:.0e})" for law, error in errors.items() if not error <= limit]


def _argument_and_image(operator: LinearOperator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, a batch of two before the operator's own batch axes, and A x."""
    own = lead(operator, dtype)
    x = random((2, *own, *operator.domain), dtype, "x", device_of(operator))
    with torch.no_grad():
        return x, operator(x)


def _vdot_real_aware(a: Tensor, x: Tensor) -> Tensor:
    """<a, x> = sum conj(a) x, for a real x with a complex a too."""
    dtype = torch.promote_types(a.dtype, x.dtype)
    return torch.vdot(a.to(dtype).flatten(), x.to(dtype).flatten())


def _difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, or |a| where b is zero."""
    size = float(b.detach().norm())
    return float((a - b).detach().norm()) / (size if size > 0 else 1.0)
