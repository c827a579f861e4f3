"""Gaussian noise on data that any differentiable function of the image predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.gauss_newton import gauss_newton_prox
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import norm2


class Nonlinear(Likelihood):
    """|A(x) - y|^2 / 2 for a differentiable A: (*batch, *domain) -> (*batch, *data); noise of unit variance per real component.

    `data_axes`: how many trailing axes of y are data (default all: no batch). Image and data may each be real or
    complex. A must treat every leading item by itself and any number of them; unit variance means A / noise_std and
    y / noise_std. `n_data`: real numbers acquired for one item, by default all of y.

    `gradient` is one backward pass through A; `linearised` and `prox` differentiate A twice. `prox` finds a local
    minimum near v by at most `refreshes` Gauss-Newton steps and never raises its objective.
    """

    def __init__(
        self,
        A: Callable[[Tensor], Tensor],
        y: Tensor,
        domain: Sequence[int],
        *,
        data_axes: int | None = None,
        n_data: int | None = None,
        refreshes: int = 5,
    ) -> None:
        self.A, self.y = A, y
        self._domain = tuple(domain)
        self._data_axes = y.ndim if data_axes is None else data_axes
        if not 0 <= self._data_axes <= y.ndim:
            raise BadInput(f"data_axes = {data_axes} for data of shape {tuple(y.shape)}: expected 0 to {y.ndim}")
        whole = math.prod(y.shape[y.ndim - self._data_axes :]) * (2 if y.is_complex() else 1)
        self._n_data = whole if n_data is None else n_data
        self.refreshes = refreshes

    @property
    def domain(self) -> tuple[int, ...]:
        return self._domain

    @property
    def data_axes(self) -> int:
        return self._data_axes

    @property
    def n_data(self) -> int:
        return self._n_data

    def residual(self, x: Tensor) -> Tensor:
        predicted = self.A(x)
        lead = predicted.ndim - self.data_axes
        if tuple(predicted.shape[lead:]) != tuple(self.y.shape[self.y.ndim - self.data_axes :]) or lead != x.ndim - len(self.domain):
            raise BadInput(
                f"A takes images {tuple(x.shape)} to {tuple(predicted.shape)}, expected the leading axes "
                f"{tuple(x.shape[: x.ndim - len(self.domain)])} and the data {tuple(self.y.shape[self.y.ndim - self.data_axes :])}"
            )
        return predicted - self.y

    def value(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        half = norm2(residual, self.data_axes) / 2
        return half.reshape(*residual.shape[: residual.ndim - self.data_axes], *[1] * len(self.domain))

    def gradient(self, x: Tensor) -> Tensor:
        """J^H (A(x) - y), J the Jacobian over real components: d/dRe + i d/dIm. No graph is kept."""
        with torch.enable_grad():
            leaf = self._for_each_scan(x)
            residual = self.residual(leaf)
            (gradient,) = torch.autograd.grad(residual, leaf, residual.detach())
        return gradient.detach()

    def linearised(self, x: Tensor) -> Gaussian:
        """|J x' - (y - A(x) + J x)|^2 / 2: the residual and the gradient at x are those of A. It keeps the graph of A at x."""
        jacobian = Jacobian(self.A, self._for_each_scan(x), self.data_axes)
        with torch.no_grad():
            return Gaussian(jacobian, self.y - jacobian.value + jacobian(jacobian.point))

    def prox(self, v: Tensor, rho: Tensor | float, *, steps: int = 10, tolerance: float = 1e-4) -> Tensor:
        return gauss_newton_prox(self, v, rho, steps=steps, tolerance=tolerance, refreshes=self.refreshes)

    def _for_each_scan(self, x: Tensor) -> Tensor:
        """x as a leaf, with the batch axes of y too: else the gradients of several scans on one image would add up."""
        batch = self.y.shape[: self.y.ndim - self.data_axes]
        lead = torch.broadcast_shapes(x.shape[: x.ndim - len(self.domain)], batch)
        return x.detach().expand(*lead, *self.domain).requires_grad_()


class Jacobian(LinearOperator):
    """dA at `point`, linear over real numbers: J v and, for Re<a, b>, its transpose. Images (*batch, *domain) like `point`.

    The graphs of A and of its backward pass are made once; J v is a backward pass through the latter, since
    u -> J^H u is linear and its transpose is J.
    """

    point: Tensor

    def __init__(self, A: Callable[[Tensor], Tensor], point: Tensor, data_axes: int) -> None:
        super().__init__()
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            value = A(leaf)
            probe = torch.zeros_like(value).requires_grad_()
            (back,) = torch.autograd.grad(value, leaf, probe, create_graph=True)
        self._leaf, self._seen, self._probe, self._back = leaf, value, probe, back
        self.register_buffer("point", leaf.detach(), persistent=False)
        self.range = tuple(value.shape[value.ndim - data_axes :])
        self.domain = tuple(leaf.shape[value.ndim - data_axes :])
        self.complex_range = value.is_complex()

    @property
    def value(self) -> Tensor:
        """A(point)."""
        return self._seen.detach()

    def _forward(self, x: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(self._back, self._probe, self._like(x, self._leaf), retain_graph=True)
        return image.detach()

    def _adjoint(self, y: Tensor) -> Tensor:
        (back,) = torch.autograd.grad(self._seen, self._leaf, self._like(y, self._seen), retain_graph=True)
        return back.detach()

    def _like(self, v: Tensor, wanted: Tensor) -> Tensor:
        if v.ndim > wanted.ndim or (v.is_complex() and not wanted.is_complex()):
            raise BadInput(
                f"linearised at {tuple(self.point.shape)} ({wanted.dtype} here), applied to {tuple(v.shape)} ({v.dtype}): "
                "linearise at images with all leading axes"
            )
        return v.to(wanted.dtype).expand_as(wanted)
