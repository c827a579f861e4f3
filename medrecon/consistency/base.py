"""Consistency: a prior that also knows the data, so that a sampler cannot tell it from one that does not."""

from __future__ import annotations

from medrecon.errors import NotSupported
from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped
from medrecon.solvers.likelihood import Gaussian, Likelihood


class Consistency(Wrapped):
    """Forwards to `prior`; a subclass overrides `estimate`. Made fresh for every run, so it may remember.

    One that does sets `remembers`; one whose formulas hold for sigma (*batch, 1, ..., 1) too sets `item_levels`.
    """

    item_levels = False

    def __init__(self, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__(prior)
        self.likelihood = likelihood


def linear(likelihood: Likelihood, step: str) -> Gaussian:
    """The likelihood, if it is Gaussian with a linear operator; else `NotSupported`, which names `step`."""
    if not isinstance(likelihood, Gaussian):
        raise NotSupported(
            f"{step} needs a linear operator and Gaussian noise, got {type(likelihood).__name__}: "
            "use a method that needs gradients only (dps, daps with preset langevin, reddiff) or none (enkg)"
        )
    return likelihood
