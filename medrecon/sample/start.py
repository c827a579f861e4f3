"""Where iterations begin: the best image that a prior without structure allows."""

from __future__ import annotations

from torch import Tensor

from medrecon.prior.denoiser import Prior
from medrecon.solvers.descent import proximal
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw


def regularised(prior: Prior, likelihood: Likelihood, x: Tensor, sigma: Tensor, draw: Draw, *, steps: int = 10) -> Tensor:
    """Least squares towards the mean image: the posterior's mode for a white prior of the prior's mean and `data_std`.

    The mean is what the prior sees in pure noise of level `sigma`, the highest there is.
    """
    mean = prior.denoise(sigma * draw(x), sigma)
    return proximal(likelihood, mean, 1 / prior.data_std**2, steps=steps)
