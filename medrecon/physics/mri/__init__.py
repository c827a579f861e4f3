"""Cartesian MRI: encoding operators, calibration, masks, scans."""

from medrecon.physics.mri.coils import walsh
from medrecon.physics.mri.columns import g_factor
from medrecon.physics.mri.espirit import espirit
from medrecon.physics.mri.fastmri_masks import fastmri_mask
from medrecon.physics.mri.masks import equispaced, poisson_disc, variable_density
from medrecon.physics.mri.sense import sense
from medrecon.physics.mri.simulate import simulate, undersample

__all__ = [
    "equispaced",
    "espirit",
    "fastmri_mask",
    "g_factor",
    "poisson_disc",
    "sense",
    "simulate",
    "undersample",
    "variable_density",
    "walsh",
]
