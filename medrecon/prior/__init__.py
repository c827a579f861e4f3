"""Priors: denoisers of plausible images, closed-form and trained, and what can be put around them."""

from medrecon.prior.cache import Cached
from medrecon.prior.calibrated import Calibrated, calibration
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.gaussian import Gaussian, GaussianMixture, StationaryGaussian
from medrecon.prior.quantise import quantised
from medrecon.prior.store import available, card, load
from medrecon.prior.tiles import Tiled, exactly_tiled
from medrecon.prior.time_shift import TimeShifted

__all__ = [
    "Cached",
    "Calibrated",
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "Prior",
    "StationaryGaussian",
    "Tiled",
    "TimeShifted",
    "available",
    "calibration",
    "card",
    "exactly_tiled",
    "load",
    "quantised",
]
