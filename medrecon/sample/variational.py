"""RED-diff: the prior's estimate of added noise as a regulariser, from high to low noise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.sample.start import regularised
from medrecon.solvers.descent import curvature, proximal
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw


@torch.no_grad()
def reddiff(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    noises: int = 2,
    weight: float = 1.0,
    data_steps: int = 10,
) -> Iterator[Step]:
    """min over x of |A x - y|^2 / 2 + weight E[lambda(sigma) |eps(x + sigma e, sigma) - e|^2], a point estimate.

    The gradient of the prior's part is lambda (eps - e) without the network's Jacobian (Mardani et al. 2023,
    arXiv:2305.04391, proposition 2). lambda = 1 / sigma makes it the score of the prior smoothed by sigma, so with weight 1
    the fixed point of every level is the smoothed posterior's mode; for a Gaussian prior the posterior mean as sigma falls.
    The released weight, proportional to sigma, loses the prior at low noise and drifts to least squares (`released`).

    Each step is preconditioned by (A^H A + 1/sigma^2)^-1, the largest curvature that a prior has at this level: a
    proximal step of `data_steps` conjugate gradients (other likelihoods: of L-BFGS), nothing to tune. A step evaluates the
    prior for `noises` draws of e, in pairs of opposite sign that cancel to first order, and uses up as many levels: NFE is
    the number of levels, one more for the start. Any likelihood with a gradient. Where it diverges lower `weight`.
    """
    if noises < 1 or not weight > 0:
        raise BadInput(f"noises = {noises}, weight = {weight}: expected at least one draw and a positive weight")
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    for levels in sigmas[:-1].split(noises):
        sigma = levels[-1]
        away = x - _denoised(prior, x, sigma, draw, len(levels))  # sigma (eps - e), averaged
        x = proximal(likelihood, x - weight * away, 1 / sigma**2, steps=data_steps)
        yield Step(x, sigma)


def _denoised(prior: Prior, x: Tensor, sigma: Tensor, draw: Draw, noises: int) -> Tensor:
    """The mean over `noises` draws of D(x + sigma e), e of alternating sign."""
    total, e = torch.zeros_like(x), torch.zeros_like(x)
    for one in range(noises):
        e = -e if one % 2 else draw(x)
        total = total + prior.denoise(x + sigma * e, sigma)
    return total / noises


@torch.no_grad()
def released(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    rate: float = 0.2,
    data_weight: float = 1.0,
    weight: float = 0.25,
    data_steps: int = 10,
) -> Iterator[Step]:
    """RED-diff with the settings of the released code: Adam, lambda = `weight` sigma, data term of an A of norm 1.

    `rate` is in units of the prior's standard deviation (0.1 for images from -1 to 1), betas 0.9 and 0.99; one draw a level.
    Since lambda falls with sigma and the data term does not, low levels fit the noise. Where it diverges lower `rate`.
    """
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    data = data_weight / curvature(likelihood, x, prior.data_std)
    adam = _Adam(rate * prior.data_std)
    for sigma in sigmas[:-1]:
        e = draw(x)
        noisy = x + sigma * e
        surprise = (noisy - prior.denoise(noisy, sigma)) / sigma - e
        x = x + adam.move(data * likelihood.gradient(x) + weight * sigma * surprise)
        yield Step(x, sigma)


class _Adam:
    """Kingma and Ba 2015 (arXiv:1412.6980) for one tensor; a complex pixel is one number with one second moment."""

    def __init__(self, rate: float, fade: float = 0.9, fade_square: float = 0.99) -> None:
        self.rate, self.fade, self.fade_square = rate, fade, fade_square
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.steps = count(1)

    def move(self, gradient: Tensor) -> Tensor:
        """What to add to the minimised tensor."""
        n = next(self.steps)
        self.mean = self.fade * self.mean + (1 - self.fade) * gradient
        self.square = self.fade_square * self.square + (1 - self.fade_square) * gradient.abs().square()
        size = (self.square / (1 - self.fade_square**n)).sqrt().clamp_min(1e-8)
        return -self.rate / (1 - self.fade**n) * self.mean / size
