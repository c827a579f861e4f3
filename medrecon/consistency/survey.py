"""What the data alone say of a volume or series: its images, the size of differences between neighbours, their spectrum."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from medrecon.linop.difference import Cosine
from medrecon.linop.lowrank import Subspace
from medrecon.linop.operator import LinearOperator
from medrecon.solvers.likelihood import Gaussian
from medrecon.tensors import generator_for, norm2, ratio, spatial_frequency, trailing, unit_noise

STEPS = 30
"""Conjugate gradients for an image."""

LEAST = 0.1
"""Less signal than this share of the differences is not told from noise: the power of N of them is known to sqrt(2 / N)."""

EDGES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Cycles a pixel: within such a band the spectrum of differences counts as flat."""

VISIBLE = 1.5
"""A band with less than this many times the power of its noise says nothing of the signal: model errors are of that size."""

STEEP = 0.25
"""Power density of an octave over that of the octave below, at most, where it is not seen: images fall with k^-2 (Field 1987)."""

ROUNDS = 500
"""Of the fit to the spectrum, which is as good as done after a hundred."""


def survey(likelihood: Gaussian, data_std: float) -> tuple[Tensor, Tensor]:
    """What the data alone say of the images of a series or volume, and of their own noise: (*batch, *domain) each.

    The second image comes from data of pure noise: `_Images` are a linear estimate, so it is a fair draw of the noise in
    the first.
    """
    images = _Images(likelihood, data_std)
    return images(likelihood.y), images(_probe(likelihood, likelihood.A.range, likelihood.y.dtype, "noise"))


class _Images:
    """Least squares under a white Gaussian prior of `data_std`, in two steps: with a quarter of the cosines along the first
    axis, which neighbours sampled in different places determine together, then what these leave of the data."""

    def __init__(self, likelihood: Gaussian, data_std: float) -> None:
        domain = likelihood.domain
        cosines = Cosine(domain, -len(domain)).matrix[: max(1, domain[0] // 4)].mT.to(likelihood.back)
        self.A, self.coarse, self.data_std = likelihood.A, Subspace(cosines, domain[1:]), data_std

    def __call__(self, y: Tensor) -> Tensor:
        shared = self.coarse(self._least_squares(self.A @ self.coarse, y))
        return shared + self._least_squares(self.A, y - self.A(shared))

    def _least_squares(self, A: LinearOperator, y: Tensor) -> Tensor:
        problem = Gaussian(A, y)
        return problem.prox(torch.zeros_like(problem.back), self.data_std**-2, steps=STEPS)


def laplace_scale(seen: tuple[Tensor, Tensor], difference: LinearOperator, data_std: float) -> Tensor:
    """b, (*batch, 1, ..., 1): the scale of Laplace-distributed differences D x, mean |D x|, half of it for complex images.

    A prior of single images does not know it, so it is read from what is `seen`, a `survey`, less the share of noise.
    """
    n, axes = difference.domain[0], len(difference.domain)
    changes, noise = (difference(image) for image in seen)
    signal = 1 - ratio(norm2(noise, axes), norm2(changes, axes))
    mean = changes.abs().mean(trailing(axes), keepdim=True) * n / max(1, n - 1) / (2 if changes.is_complex() else 1)
    scale = mean * signal.clamp(min=LEAST**2).sqrt()
    # Where nothing varies (one slice, no data) any scale gives the same image.
    return torch.where(scale > 0, scale, torch.full_like(scale, data_std))


def difference_power(likelihood: Gaussian, difference: LinearOperator, data_std: float, seen: tuple[Tensor, Tensor]) -> Tensor:
    """|D x|^2 of the true volume, (*batch, 1, ..., 1), with what the data cannot see of it; `seen`: the `survey`.

    Eight projections, or a quarter of the lines, show a part of the differences between slices. But they show a part of every
    spatial frequency, so if the spectrum depends on |k| alone the whole is known: the bands of the `survey` hold e = M c + n,
    c the power in each band of the truth, M what becomes of a random walk within one band on the way through data and survey,
    n the noise. c >= 0 by the multiplicative fit for the Kullback-Leibler divergence (Lee and Seung 2000). Bands that noise
    covers go on as the two below them fall, with k^-2 or faster. On chest and abdomen the root mean square is 0.86 to 1.04 of
    the truth from 8 or 64 views or an arc of 90 degrees, where the survey itself holds 0.35 to 0.9.
    """
    domain, axes = likelihood.domain, trailing(len(likelihood.domain) - 1)
    images, bands = _Images(likelihood, data_std), _bands(domain[1:], likelihood.back)

    def power(volume: Tensor) -> Tensor:
        spectrum = torch.fft.fftn(difference(volume), dim=axes, norm="ortho").abs().square()
        return torch.einsum("...zk,jk->...j", spectrum.flatten(-len(axes)), bands)

    columns = []
    for k, band in enumerate(bands):
        white = _walk(_probe(likelihood, domain, likelihood.back.dtype, k))
        probe = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * band.reshape(domain[1:]), dim=axes)
        probe = probe if likelihood.back.is_complex() else probe.real.contiguous()
        columns.append(ratio(power(images(likelihood.A(probe))), power(probe).sum(-1, keepdim=True)))
    measured, noise = (power(volume) for volume in seen)
    found = _fitted(measured, torch.stack(columns, -1), noise)
    found = _continued(found, bands.sum(-1), measured > VISIBLE * noise).sum(-1)
    return found.reshape(*found.shape, *[1] * len(domain))


def _walk(white: Tensor) -> Tensor:
    """A volume whose steps from slice to slice are independent, and whose mean over the slices is 0."""
    sums = white.cumsum(0)
    return sums - sums.mean(0)


def _fitted(measured: Tensor, mixing: Tensor, noise: Tensor) -> Tensor:
    """c >= 0 (*batch, j) of measured = mixing c + noise; `mixing` (*batch, j, j) where the operator differs from item to item."""
    power = measured.sum(-1, keepdim=True).expand_as(measured) / measured.shape[-1]
    gain = mixing.sum(-2)
    for _ in range(ROUNDS):
        model = (mixing @ power[..., None]).squeeze(-1) + noise
        power = power * ratio((mixing.mT @ ratio(measured, model)[..., None]).squeeze(-1), gain)
    return power


def _continued(power: Tensor, sizes: Tensor, visible: Tensor) -> Tensor:
    """Powers of bands with `sizes` coefficients: those not visible go on as the two below them fall, or as images do."""
    densities = list((power / sizes).unbind(-1))
    for k in range(2, len(densities)):
        slope = ratio(densities[k - 1], densities[k - 2]).clamp(max=STEEP)
        densities[k] = torch.where(visible[..., k], densities[k], densities[k - 1] * slope)
    return torch.stack(densities, -1) * sizes


def _bands(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """1 for the spatial frequencies of each band that has any, (j, pixels)."""
    radius = spatial_frequency(shape, like).flatten()
    bands = torch.stack([(low <= radius) & (radius < high) for low, high in pairwise(EDGES)])
    return bands[bands.any(-1)].to(radius)


def _probe(likelihood: Gaussian, shape: tuple[int, ...], kind: torch.dtype, name: object) -> Tensor:
    """Unit noise, the same for every scan."""
    return unit_noise(shape, kind, generator_for(0, "survey", name)).to(likelihood.back.device)
