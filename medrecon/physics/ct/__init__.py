"""X-ray and emission tomography: geometries, projectors, analytic reconstruction, counts, scans."""

from medrecon.physics.ct.analytic import analytic, fbp, fdk
from medrecon.physics.ct.bad_bins import bad_bins, interpolated
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D, even_angles, from_dict
from medrecon.physics.ct.counts import (
    attenuation,
    dose_fraction,
    hounsfield,
    incident,
    line_integrals,
    low_dose,
    low_dose_counts,
    transmission,
    weights,
)
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.hardening import polychromatic, straightened, water_correction
from medrecon.physics.ct.metal import interpolated_metal, normalised_metal
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.rings import without_rings, without_rings_by_wavelets
from medrecon.physics.ct.rotation import Centre, find_centre, find_fan_centre
from medrecon.physics.ct.sampling import golden, interlaced, limited, random, sparse
from medrecon.physics.ct.spectra import Spectrum
from medrecon.physics.ct.truncation import truncated

__all__ = [
    "CTOperator",
    "Centre",
    "ConeBeam",
    "FanBeam2D",
    "Geometry",
    "HelicalCone",
    "ParallelBeam2D",
    "ParallelBeam3D",
    "Spectrum",
    "VectorGeometry",
    "analytic",
    "attenuation",
    "bad_bins",
    "dose_fraction",
    "even_angles",
    "fbp",
    "fdk",
    "find_centre",
    "find_fan_centre",
    "from_dict",
    "golden",
    "hounsfield",
    "incident",
    "interlaced",
    "interpolated",
    "interpolated_metal",
    "limited",
    "line_integrals",
    "low_dose",
    "low_dose_counts",
    "normalised_metal",
    "polychromatic",
    "random",
    "sparse",
    "straightened",
    "transmission",
    "truncated",
    "water_correction",
    "weights",
    "without_rings",
    "without_rings_by_wavelets",
]
