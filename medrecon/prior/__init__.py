"""Priors: denoisers of plausible images, closed-form and trained."""

from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.gaussian import Gaussian, GaussianMixture, StationaryGaussian
from medrecon.prior.store import available, card, load

__all__ = ["Estimate", "Gaussian", "GaussianMixture", "Prior", "StationaryGaussian", "available", "card", "load"]
