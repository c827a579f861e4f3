"""What training does with images of each kind: their scale, which patches are worth learning from, what may be varied."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput, nearest
from medrecon.prior.units import DECIBEL, HOUNSFIELD, RELATIVE, Units

Array = NDArray[Any]


@dataclass(frozen=True)
class Modality:
    """Kind of image. `scaled` gives a slice in the prior's units, float16, None where there is nothing in it.

    Patches are clipped at `ceiling`, redrawn below the contrast `least` (their standard deviation), and varied by left-right
    flips, the factor `gain`, the summand `shift` (the floor at 0 stays) and, where `turned`, up-down flips and transposes.
    Pictures show what lies in `window`.
    """

    name: str
    field: str
    units: Units
    scaled: Callable[[Array], Array | None]
    ceiling: float
    least: float
    gain: tuple[float, float] | None = None
    shift: tuple[float, float] | None = None
    turned: bool = True
    window: tuple[float, float] = (0.0, 1.0)


def _by_percentile(image: Array) -> Array | None:
    """Magnitude over its 99.5th percentile."""
    image = np.abs(image).astype(np.float32)
    level = float(np.quantile(image, 0.995))
    if not math.isfinite(level):
        raise BadInput("it holds NaN or infinity: mend it or leave the file out")
    return (image / level).clip(0, 4).astype(np.float16) if level > 0 else None


def _hounsfield(image: Array) -> Array | None:
    """(HU + 1000) / 2000; float16 is finer than 1 HU up to 1000 HU."""
    values = _finite(image)
    if not values.any():
        return None
    if float(values.min()) >= 0:
        raise BadInput("no value is below 0, so these are not Hounsfield units (air is -1000): rescale it or leave the file out")
    x = _to_prior(values, HOUNSFIELD)
    return x if x.any() else None


def _grey_levels(image: Array) -> Array | None:
    """Grey levels 0 to 255 of log-compressed B-mode: 60 dB over the range of the display."""
    values = _finite(image)
    if not values.any():
        return None
    if float(values.min()) < 0 or not 1 < float(values.max()) <= 255:
        raise BadInput("expected grey levels of 0 to 255 (log-compressed B-mode): rescale it or leave the file out")
    return (values / 255).astype(np.float16)


def _finite(image: Array) -> Array:
    if np.iscomplexobj(image):
        raise BadInput("it is complex: give magnitudes in their own unit")
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput("it holds NaN or infinity: mend it or leave the file out")
    return values


def _to_prior(values: Array, units: Units) -> Array:
    return ((values - units.offset) / units.gain).clip(units.low, units.high).astype(np.float16)


MODALITIES = {
    "mr": Modality("mr", "complex", RELATIVE, _by_percentile, ceiling=1.2, least=0.03, gain=(0.5, 1.15)),
    # Soft tissue is flat: only patches of air (under 20 HU of contrast) are passed over.
    "ct": Modality("ct", "real", HOUNSFIELD, _hounsfield, ceiling=1.5, least=0.01, gain=(0.95, 1.05), window=(0.3, 0.7)),
    # The beam goes down the image, so no transposes; up to 6 dB less receiver gain, which is exact: what falls below 0 is 0.
    "ultrasound": Modality("ultrasound", "real", DECIBEL, _grey_levels, ceiling=1.0, least=0.03, shift=(-0.1, 0.0), turned=False),
}
"""By name, as `medrecon train --modality` takes them."""

GENERIC = "generic"
"""All kinds together, each scaled and varied in its own way."""


def default_field(modality: str) -> str:
    """The field of the images of a modality where the user names none."""
    return MODALITIES[modality].field if known(modality) != GENERIC else "complex"


def units_of(modality: str) -> Units:
    """The units of a prior of this modality."""
    return MODALITIES[modality].units if known(modality) != GENERIC else RELATIVE


def known(modality: str) -> str:
    """The name if there is such a modality, else an error that offers the nearest."""
    names = (*MODALITIES, GENERIC)
    if modality not in names:
        raise BadInput(f"modality {modality!r}: expected {', '.join(names)}{nearest(modality, names)}")
    return modality


def kind_of(modality: str, image: Array, source: str) -> Modality:
    """How to treat a slice: as the modality says; for "generic" as its file says (`source`: DICOM's Modality or "")
    and, where that says nothing, 8-bit numbers are B-mode, negative real ones HU, others magnitudes."""
    if known(modality) != GENERIC:
        return MODALITIES[modality]
    told = {"CT": "ct", "US": "ultrasound", "MR": "mr"}.get(source)
    if told is None and image.dtype == np.uint8:
        told = "ultrasound"
    if told is None and not np.iscomplexobj(image) and bool((image < 0).any()):
        told = "ct"
    return MODALITIES[told or "mr"]
