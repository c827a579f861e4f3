"""Priors: denoisers of plausible images, closed-form and trained, and what can be put around them."""

from medrecon.prior.adapters import FromModule, from_deepinverse
from medrecon.prior.cache import Cached
from medrecon.prior.calibrated import Calibrated, calibration
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.diffusers_folder import from_diffusers
from medrecon.prior.gaussian import Gaussian, GaussianMixture, StationaryGaussian
from medrecon.prior.handcrafted import LocallyLowRank, NonLocalMeans, TotalVariationPrior, WaveletPrior
from medrecon.prior.parametrisation import (
    DiscreteTime,
    GeometricTime,
    Noising,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
    chain,
    ddpm_cosine,
    ddpm_linear,
    whole,
)
from medrecon.prior.quantise import quantised
from medrecon.prior.store import available, card, load
from medrecon.prior.tiles import Tiled, exactly_tiled
from medrecon.prior.time_shift import TimeShifted

__all__ = [
    "Cached",
    "Calibrated",
    "DiscreteTime",
    "Estimate",
    "FromModule",
    "Gaussian",
    "GaussianMixture",
    "GeometricTime",
    "LocallyLowRank",
    "Noising",
    "NonLocalMeans",
    "Prior",
    "RectifiedFlow",
    "StationaryGaussian",
    "Tiled",
    "TimeShifted",
    "TotalVariationPrior",
    "VarianceExploding",
    "VariancePreserving",
    "WaveletPrior",
    "available",
    "calibration",
    "card",
    "chain",
    "ddpm_cosine",
    "ddpm_linear",
    "exactly_tiled",
    "from_deepinverse",
    "from_diffusers",
    "load",
    "quantised",
    "whole",
]
