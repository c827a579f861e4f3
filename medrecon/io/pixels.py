"""The numbers of a volume on their way to a file: finite, real where the format is, and quantised with the scale as written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrecon.errors import BadInput
from medrecon.volume import Volume


def finite_array(volume: Volume, target: Path) -> NDArray[Any]:
    """The image (..., z, y, x) as an array; NaN and infinity are refused with the place of the first."""
    array = volume.numpy()
    finite = np.isfinite(array)
    if not finite.all():
        first = ", ".join(str(int(i)) for i in np.argwhere(~finite)[0])
        raise BadInput(
            f"{target}: {int((~finite).sum())} of {array.size} voxels are NaN or infinite, the first at ({first}); "
            "such an image is not written: check the scan and the method's settings"
        )
    return array


def decimal_string(value: float) -> str:
    """A number as DICOM decimal string: at most 16 characters, as many digits as fit."""
    if not np.isfinite(value):
        raise BadInput(f"a DICOM decimal string cannot hold {value}")
    for digits in range(17, 0, -1):
        text = f"{float(value) + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise BadInput(f"{value} does not fit a DICOM decimal string")


@dataclass(frozen=True)
class Scaling:
    """value = slope * stored + intercept with stored in [lowest, highest]; slope and intercept are exactly what the file says."""

    slope: float
    intercept: float
    lowest: int
    highest: int

    def stored(self, values: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Nearest stored numbers; where nothing clips the error is at most slope / 2."""
        nearest = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(nearest, self.lowest, self.highest).astype(dtype)


def unsigned_scaling(values: NDArray[Any], bits: int = 16) -> Scaling:
    """The scaling by which all values fit `bits` unsigned bits; zero stays zero unless values are negative."""
    low, high = float(values.min()), float(values.max())
    top = 2**bits - 1
    intercept = low if low < 0 else 0.0
    slope = (high - intercept) / top
    # Rounded up to nine digits, so that the largest value still fits with the slope as written.
    slope = float(f"{slope * (1 + 1e-8):.9g}")
    if slope < np.finfo(np.float32).tiny:
        slope = 1.0
    return Scaling(slope, intercept, 0, top)


HOUNSFIELD = Scaling(1.0, -1024.0, -32768, 32767)
"""HU + 1024 in signed 16 bits, as scanners store it: air is not negative, so that programs which take the numbers as unsigned are right."""
