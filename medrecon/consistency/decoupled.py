"""Decoupled annealing: draw a clean image given the denoised one and the data, then forget where it came from."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.gain import Gain
from medrecon.consistency.proximal import Perturbed, Variance, error_curve
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.schedule import edm_levels
from medrecon.prior.wrapped import Wrapped
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw

END = 0.01
"""The last level of the inner probability flow, as in the released code."""


class FlowEnd(Wrapped):
    """Denoises by `steps` Euler steps of the probability flow, from the noise level to `END` and then 0."""

    item_levels = False

    def __init__(self, prior: Prior, steps: int) -> None:
        super().__init__(prior)
        self.steps = steps

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        levels = edm_levels(self.steps, float(sigma), min(END, float(sigma) / 2))
        for level, lower in pairwise(levels):
            mean = self.prior.denoise(noisy, level)
            noisy = mean + (lower / level) * (noisy - mean)
        return noisy


def _end(prior: Prior, ode_steps: int) -> Prior:
    """The prior itself for one step: that is its mean."""
    if ode_steps < 1:
        raise BadInput(f"ode_steps = {ode_steps}: expected at least 1")
    return prior if ode_steps == 1 else FlowEnd(prior, ode_steps)


class Decoupled(Perturbed):
    """A draw from N(D, r^2) times the likelihood, by perturb and solve; use with `renoise` and eta 1.

    Zhang et al. 2024 (DAPS, arXiv:2407.01521) with an exact draw for linear A instead of Langevin steps. A sampler, exact
    where r^2 is the covariance of x given the noisy image. `ode_steps` above 1 replaces the mean D by the end of the
    probability flow, as published: that is already like a draw, and the noise added to it counts the uncertainty twice
    (the spread tends to sqrt(2) times the posterior's where there are no data). For strongly nonlinear problems only.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        ode_steps: int = 1,
        variance: Variance = error_curve,
        cg_steps: int = 20,
        cg_tolerance: float = 1e-4,
    ) -> None:
        super().__init__(_end(prior, ode_steps), likelihood, variance=variance, cg_steps=cg_steps, cg_tolerance=cg_tolerance)


class LangevinDraw(Consistency):
    """The same draw by Langevin dynamics, for any likelihood: `langevin_steps` gradients from a draw of N(D, r^2).

    x <- x - h U'(x) + sqrt(2 h) (z + z') / 2, U = data term + |x - D|^2 / (2 r^2), z' the next step's z: the average of
    neighbouring noises makes the stationary variance exact for a quadratic U (Leimkuhler and Matthews 2013,
    arXiv:1203.5428), where the published step inflates it by 1 / (1 - h L / 2). h = step / L, L = |A'|^2 + 1 / r^2, A' the
    steeper of the Jacobians at D and at the start.
    A sampler, if its steps suffice: directions of curvature k relax by (1 - step k / L)^langevin_steps. Where it diverges
    lower `step`.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        langevin_steps: int = 50,
        step: float = 1.0,
        ode_steps: int = 1,
        variance: Variance = error_curve,
    ) -> None:
        super().__init__(_end(prior, ode_steps), likelihood)
        if not 0 < step < 2:
            raise BadInput(f"step = {step}: expected 0 to 2, in units of the inverse curvature")
        self.langevin_steps, self.step, self.variance, self.gain = langevin_steps, step, variance, Gain(likelihood)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        r2 = self.variance(self.prior, self.likelihood, mean, sigma)
        clean, z = mean + r2.sqrt() * draw(mean), draw(mean)
        h = self.step / (torch.maximum(self.gain(mean), self.gain(clean)) ** 2 + 1 / r2)
        for _ in range(self.langevin_steps):
            old, z = z, draw(mean)
            clean = clean - h * (self.likelihood.gradient(clean) + (clean - mean) / r2) + (h / 2).sqrt() * (old + z)
        return Estimate(clean, (noisy - clean) / sigma)
