"""Metal: rays through it say little, so they are replaced by what their neighbours say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.analytic import analytic
from medrecon.physics.ct.bad_bins import interpolated
from medrecon.physics.ct.counts import attenuation
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.scan import WATER

METAL = 2500.0
"""HU above which a voxel is metal."""

BONE, AIR = 300.0, -500.0
"""HU above which a voxel of the prior is kept as it is, and below which it is air; between them it is water."""

MOST = 0.5
"""Share of the rays through metal beyond which nothing is left to interpolate from."""

THROUGH = 1e-3
"""Part of a pixel of metal that makes a ray one through metal."""

THIN = 0.05
"""Line integrals of the prior, relative to its largest, below which a ray is not normalised."""


@dataclass(frozen=True)
class WithoutMetal:
    """`image` with the metal as it was, 1/mm; `line_integrals` with the rays of `trace` (bool) replaced; `metal` (bool, image)."""

    image: Tensor
    line_integrals: Tensor
    metal: Tensor
    trace: Tensor


def interpolated_metal(line_integrals: Tensor, operator: CTOperator, *, water: float = WATER, threshold: float = METAL) -> WithoutMetal:
    """The analytic image (*batch, *image) of data whose rays through metal lie on straight lines along the bins.

    Metal is what has more than `threshold` HU in the analytic image (Kalender et al., Radiology 164:576 (1987)). Where the data hold
    none they stay as they are. Raises `BadInput` where metal shades more than half of the rays.
    """
    found, trace, first = _metal(line_integrals, operator, water, threshold)
    replaced = interpolated(line_integrals, trace)
    return _pasted(replaced, operator, first, found, trace)


def normalised_metal(line_integrals: Tensor, operator: CTOperator, *, water: float = WATER, threshold: float = METAL) -> WithoutMetal:
    """As `interpolated_metal`, but of the data over those of a prior image of air, water and bone: steps beside metal survive.

    The prior is the image of `interpolated_metal`, classified (Meyer et al., Med. Phys. 37:5482 (2010)).
    """
    found, trace, first = _metal(line_integrals, operator, water, threshold)
    rough = analytic(interpolated(line_integrals, trace), operator.geometry, operator.pixels)
    seen = operator(_classified(rough, found, water))
    floor = THIN * seen.amax()
    scale = torch.where(seen > floor, seen, torch.ones_like(seen))
    # Rays that miss the prior are interpolated as they are.
    whole = interpolated(line_integrals / scale, trace) * scale
    return _pasted(torch.where(trace, whole, line_integrals), operator, first, found, trace)


def _metal(p: Tensor, operator: CTOperator, water: float, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where metal is in the image and in the projections; the image."""
    first = analytic(p, operator.geometry, operator.pixels)
    found = first > float(attenuation(torch.tensor(threshold, dtype=torch.float64), water))
    trace = operator(found.to(p.dtype)) > THROUGH * min(operator.pixels.spacing)
    share = float(trace.double().mean())
    if share > MOST:
        raise BadInput(f"metal shades {share:.0%} of the rays (above {threshold:g} HU): set a higher threshold, or check the data's unit")
    return found, trace, first


def _classified(image: Tensor, metal: Tensor, water: float) -> Tensor:
    """Air is 0, soft tissue and metal are water, bone is itself."""
    bone, air = (float(attenuation(torch.tensor(hu, dtype=torch.float64), water)) for hu in (BONE, AIR))
    tissue = torch.where(image > bone, image, torch.full_like(image, water))
    return torch.where(image < air, torch.zeros_like(image), tissue).masked_fill(metal, water)


def _pasted(replaced: Tensor, operator: CTOperator, first: Tensor, metal: Tensor, trace: Tensor) -> WithoutMetal:
    image = torch.where(metal, first, analytic(replaced, operator.geometry, operator.pixels))
    return WithoutMetal(image, replaced, metal, trace)
