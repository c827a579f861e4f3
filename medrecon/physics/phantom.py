"""Ellipse phantoms whose image and k-space are both known in closed form, so that tests commit no inverse crime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from medrecon.tensors import generator_for


@dataclass(frozen=True)
class Ellipse:
    """A uniform ellipse added to a phantom. Lengths in units of the field of view, which runs from -1/2 to 1/2.

    `centre`, `axes`: (y, x) centre and half axes; `angle` rad turns the x half axis towards y; `value` is added inside.
    """

    value: float
    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float = 0.0


def shepp_logan() -> tuple[Ellipse, ...]:
    """The head phantom of Shepp and Logan (1974) with the contrasts of Toft (1996).

    It fills 92 % of the field of view and is not symmetric along x or y, so a flip or a turn shows.
    """
    rows = (  # value, centre y, centre x, half axis y, half axis x, degrees; on [-1, 1]
        (1.0, 0.0, 0.0, 0.92, 0.69, 0.0),
        (-0.8, 0.0184, 0.0, 0.874, 0.6624, 0.0),
        (-0.2, 0.0, 0.22, 0.31, 0.11, 18.0),
        (-0.2, 0.0, -0.22, 0.41, 0.16, -18.0),
        (0.1, -0.35, 0.0, 0.25, 0.21, 0.0),
        (0.1, -0.1, 0.0, 0.046, 0.046, 0.0),
        (0.1, 0.1, 0.0, 0.046, 0.046, 0.0),
        (0.1, 0.605, -0.08, 0.023, 0.046, 0.0),
        (0.1, 0.605, 0.0, 0.023, 0.023, 0.0),
        (0.1, 0.605, 0.06, 0.046, 0.023, 0.0),
    )
    return tuple(Ellipse(v, (y / 2, x / 2), (a / 2, b / 2), math.radians(turn)) for v, y, x, a, b, turn in rows)


def ellipse_image(ellipses: tuple[Ellipse, ...], shape: tuple[int, int], oversampling: int = 4) -> Tensor:
    """(ny, nx) float64: mean over `oversampling`^2 points of each pixel; pixel n lies at (n - N//2) / N."""
    axes = []
    for n in shape:
        fine = torch.arange(n * oversampling, dtype=torch.float64)
        axes.append((fine // oversampling - n // 2 + ((fine % oversampling) + 0.5) / oversampling - 0.5) / n)
    y, x = torch.meshgrid(*axes, indexing="ij")
    image = torch.zeros_like(y)
    for e in ellipses:
        u, v = _turned(y - e.centre[0], x - e.centre[1], e.angle)
        image += e.value * ((u / e.axes[0]) ** 2 + (v / e.axes[1]) ** 2 <= 1)
    return image.reshape(shape[0], oversampling, shape[1], oversampling).mean((1, 3))


def ellipse_kspace(ellipses: tuple[Ellipse, ...], ky: Tensor, kx: Tensor) -> Tensor:
    """The continuous Fourier transform at (ky, kx) in cycles per field of view, complex128.

    A disc of radius 1 transforms to J1(2 pi k) / k; an ellipse is a scaled, turned and shifted disc
    (Van de Walle et al. 2000, IEEE TMI 19, eq. 4).
    """
    total = torch.zeros(torch.broadcast_shapes(ky.shape, kx.shape), dtype=torch.complex128)
    for e in ellipses:
        u, v = _turned(ky, kx, e.angle)
        radius = torch.sqrt((u * e.axes[0]) ** 2 + (v * e.axes[1]) ** 2)
        small = radius < 1e-9
        safe = torch.where(small, torch.ones_like(radius), radius)
        disc = torch.where(small, torch.full_like(radius, math.pi), torch.special.bessel_j1(2 * math.pi * safe) / safe)
        shift = -2 * math.pi * (ky * e.centre[0] + kx * e.centre[1])
        total += e.value * e.axes[0] * e.axes[1] * torch.polar(disc.abs(), shift) * disc.sign()
    return total


@dataclass(frozen=True)
class FourierMaps:
    """Coil maps that are short Fourier sums: S_c(r) = sum_m coefficients[c, m] exp(2 pi i m.r), orders m = (my, mx).

    Multiplying by such a map shifts and adds k-space, so multi-coil k-space stays in closed form.
    `coefficients` (coil, order) complex128, `orders` (order, 2).
    """

    coefficients: Tensor
    orders: Tensor

    def image(self, shape: tuple[int, int]) -> Tensor:
        """The maps on the grid, (coil, ny, nx) complex128."""
        y, x = (((torch.arange(n, dtype=torch.float64) - n // 2) / n) for n in shape)
        phase = self.orders[:, 0, None, None] * y[:, None] + self.orders[:, 1, None, None] * x
        return torch.einsum("cm,myx->cyx", self.coefficients, torch.polar(torch.ones_like(phase), 2 * math.pi * phase))


def fourier_maps(coils: int, *, order: int = 1, seed: int = 0) -> FourierMaps:
    """Smooth maps with random coefficients that fall off with the order."""
    orders = torch.tensor(list(product(range(-order, order + 1), repeat=2)), dtype=torch.float64)
    generator = generator_for(seed, "fourier maps")
    parts = torch.randn(coils, len(orders), 2, generator=generator, dtype=torch.float64)
    return FourierMaps(torch.view_as_complex(parts) / (1 + orders.square().sum(1)), orders)


def phantom_kspace(ellipses: tuple[Ellipse, ...], shape: tuple[int, int], maps: FourierMaps) -> Tensor:
    """Multi-coil k-space (coil, ny, nx) complex128 of the continuous object, scaled like the centred orthonormal FFT.

    Its inverse FFT shows the ringing and blur of a real measurement; the image of `ellipse_image` is only near to it.
    """
    ky, kx = ((torch.arange(n, dtype=torch.float64) - n // 2) for n in shape)
    kspace = torch.zeros(len(maps.coefficients), *shape, dtype=torch.complex128)
    for m, (my, mx) in enumerate(maps.orders):
        kspace += maps.coefficients[:, m, None, None] * ellipse_kspace(ellipses, ky[:, None] - my, kx - mx)
    return kspace * math.sqrt(math.prod(shape))


def _turned(y: Tensor, x: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Coordinates along an ellipse's own (y, x) axes."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * y - sin * x, sin * y + cos * x
