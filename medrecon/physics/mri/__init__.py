"""Cartesian MRI: encoding operators, calibration, masks, scans."""

from medrecon.physics.mri.espirit import espirit
from medrecon.physics.mri.sense import sense

__all__ = ["espirit", "sense"]
