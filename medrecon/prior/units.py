"""What the number 1 means to a prior: the map between its images and physical values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from medrecon.errors import BadInput


@dataclass(frozen=True)
class Units:
    """Physical value = gain x + offset, `name` its unit; the prior has seen x between `low` and `high`.

    "relative" has no physical scale: 1 is the 99.5th percentile of each image's magnitude, found anew for each scan.
    """

    name: str = "relative"
    gain: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.gain < math.inf and math.isfinite(self.offset) and self.low < self.high):
            raise BadInput(f"units {self}: expected a positive gain, a finite offset and a rising range")

    @property
    def physical(self) -> bool:
        """Whether gain and offset hold for every image, so that no scan needs a scale of its own."""
        return self.name != "relative"

    def to_prior(self, values: Tensor) -> Tensor:
        """x of physical values, clipped to the range that the prior has seen."""
        return ((values - self.offset) / self.gain).clamp(self.low, self.high)

    def from_prior(self, x: Tensor) -> Tensor:
        """Physical values of x."""
        return self.gain * x + self.offset

    def facts(self) -> dict[str, Any]:
        """Name and numbers for a file of weights; an infinite end of the range is None, since JSON has no infinity."""
        return {key: None if value in (math.inf, -math.inf) else value for key, value in asdict(self).items()}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Units:
        """The units that `facts` states; weights from before units were stored are relative."""
        ends = {"low": -math.inf, "high": math.inf}
        known: dict[str, Any] = {key: ends[key] if value is None else value for key, value in facts.items()}
        return cls(**known)


RELATIVE = Units()
HOUNSFIELD = Units("HU", gain=2000.0, offset=-1000.0, low=0.0, high=1.5)
"""x = (HU + 1000) / 2000: proportional to attenuation, air 0, water 0.5."""
DECIBEL = Units("dB", gain=60.0, offset=-60.0, low=0.0, high=1.0)
"""Log-compressed B-mode of 60 dB: x = 1 is the brightest echo (0 dB), x = 0 is -60 dB or less."""
