"""Maximum likelihood for counts: expectation maximisation of emission data, parabolas below the likelihood of transmission.

Iterations (likelihood, x, **settings) -> steps on the laws of `medrecon.solvers.poisson`; the number of steps is the
regularisation. Images are real and >= 0, and so must the operator be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import torch
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.iterate import Step
from medrecon.solvers.algebraic import not_negative
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.poisson import FEWEST, Poisson, Transmission, deviance
from medrecon.solvers.subsets import interleaved, of_views, subset
from medrecon.tensors import ratio, trailing

LEAST = 1e-9
"""Pixels stay above this share of the brightest: at exactly 0 they could never rise again."""

SHORT = 1e-2
"""Line integrals below it have the curvature of 0: the quotient of differences would be rounding."""


def mlem(likelihood: Likelihood, x: Tensor) -> Iterator[Step]:
    """x / (A^T 1) A^T(y / (A x + background)) from x (*batch, *image): one A and A^T a step. `Poisson` likelihoods only.

    The likelihood never falls. After each step sum(A x) is the sum of y (mean - background) / mean, with the mean before the
    step: all counts, where there is no background. Items of x without positive pixels begin uniform, at the counts of their data.
    `measure`: likelihood.value(x) per datum, of x before the step. Shepp and Vardi 1982; Lange and Carson 1984.
    """
    return osem(likelihood, x, subsets=1)


@torch.no_grad()
def osem(likelihood: Likelihood, x: Tensor, *, subsets: int = 24) -> Iterator[Step]:
    """`mlem` for one group of interleaved views after the other; a step is a pass through all of them, as dear as a step of `mlem`.

    About `subsets` times as fast and then circling about the maximum, with more noise: choose fewer for few counts.
    `measure`: half of the deviance per datum, each view before its own update. Hudson and Larkin 1994.
    """
    if not isinstance(likelihood, Poisson):
        raise NotSupported(f"mlem and osem need counts of an emission, not {type(likelihood).__name__}: choose sirt, pwls or mltr")
    if likelihood.lowest not in (None, 0.0):
        raise NotSupported(f"mlem and osem need images whose 0 is no activity; here that is {likelihood.lowest}")
    axes, data_axes = len(likelihood.domain), likelihood.data_axes
    groups = interleaved(likelihood.A.range[0], subsets)
    parts = [_part(likelihood, views) for views in groups]
    seen = [not_negative(part.A.H(_real(x).new_ones(part.A.range))) for part in parts]
    x = _positive(likelihood, x, torch.stack(seen).sum(0))
    while True:
        value = x.new_zeros(())
        for part, sensitivity in zip(parts, seen, strict=True):
            mean = part.expected(x)
            value = value + deviance(mean.clamp(min=FEWEST), part.y).sum(trailing(data_axes))
            x = torch.where(sensitivity > 0, ratio(x * part.A.H(ratio(part.y, mean)), sensitivity.expand_as(x)), x)
            x = x.clamp(min=LEAST * x.amax(trailing(axes), keepdim=True))
        yield Step(x, value / likelihood.n_data)


@torch.no_grad()
def mltr(likelihood: Likelihood, x: Tensor, *, subsets: int = 10) -> Iterator[Step]:
    """max(0, x - gradient / (A^T (c A 1))) from x (*batch, *image) for one group of views after the other. `Transmission` only.

    c: curvature of the least parabola above each ray's -log likelihood that meets it without object, so with one group the
    likelihood never falls; with more it rises about as many times as fast and then circles about the maximum. A step
    is a pass through all groups: one A and two A^T. `measure`: half of the deviance per datum, each view before its own update.
    Erdogan and Fessler, Phys. Med. Biol. 44:2835 (1999), equation 28.
    """
    if not isinstance(likelihood, Transmission):
        raise NotSupported(f"mltr needs counts of a transmission, not {type(likelihood).__name__}: choose pwls or osem")
    parts = [_part(likelihood, views) for views in interleaved(likelihood.A.range[0], subsets)]
    lengths = [not_negative(part.A(_real(x).new_ones(part.domain))) for part in parts]
    x = x.clamp(min=0)
    while True:
        value = x.new_zeros(())
        for part, length in zip(parts, lengths, strict=True):
            line_integrals = part.A(x) + part.offset
            value = value + deviance(part.expected(x), part.y).sum(trailing(part.data_axes))
            bend = part.A.H(_curvature(part, line_integrals) * length)
            x = (x - ratio(part.gradient(x), bend.expand_as(x))).clamp(min=0)
        yield Step(x, value / likelihood.n_data)


def _curvature(likelihood: Transmission, line_integrals: Tensor) -> Tensor:
    """c such that the parabola through value and slope at l >= 0 has the value at 0 too; the curvature at 0 where l is short."""
    b, background, y = likelihood.incident, likelihood.background, likelihood.y
    passed = line_integrals.clamp(min=SHORT)
    without, through = b + background, b * torch.exp(-passed)
    mean = (through + background).clamp(min=FEWEST)
    excess = -b * torch.expm1(-passed) - passed * through
    excess = excess + y * (torch.log1p(b * torch.expm1(-passed) / without.clamp(min=FEWEST)) + passed * through / mean)
    at_zero = b * (1 - y * background / without.clamp(min=FEWEST) ** 2)
    return torch.where(line_integrals > SHORT, 2 * excess / passed**2, at_zero).clamp(min=0)


@overload
def _part(likelihood: Poisson, views: slice) -> Poisson: ...
@overload
def _part(likelihood: Transmission, views: slice) -> Transmission: ...
def _part(likelihood: Poisson | Transmission, views: slice) -> Poisson | Transmission:
    """The likelihood of some views."""
    axes = likelihood.data_axes
    A = likelihood.A if views.step == 1 else subset(likelihood.A, views)
    y, background = of_views(likelihood.y, views, axes), of_views(likelihood.background, views, axes)
    if isinstance(likelihood, Poisson):
        return Poisson(A, y, background, floor=likelihood.floor)
    incident, offset = of_views(likelihood.incident, views, axes), of_views(likelihood.offset, views, axes)
    return Transmission(A, y, incident, background, offset=offset)


def _real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise NotSupported("counts come from real images, this one is complex")
    return x


def _positive(likelihood: Poisson, x: Tensor, sensitivity: Tensor) -> Tensor:
    """x without negative pixels and without those that no ray meets; an item without positive pixels is uniform."""
    axes = len(likelihood.domain)
    image = trailing(axes)
    level = ratio(likelihood.per_image(likelihood.y), sensitivity.sum(image, keepdim=True))
    x = x.clamp(min=0)
    begun = x.amax(image, keepdim=True) > 0
    return torch.where(sensitivity > 0, torch.where(begun, x, level), 0)
