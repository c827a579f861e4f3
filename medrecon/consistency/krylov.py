"""The decomposed step as published: a few conjugate gradients from the denoised image, noise from the prior's mean."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.norm import norms
from medrecon.tensors import Draw


class Decomposed(Consistency):
    """clean = argmin gamma/2 |A x - y|^2 / |A|^2 + |x - D|^2 / 2 by `cg_steps` from D; noise = (noisy - D) / sigma.

    Chung et al. 2024 (arXiv:2303.05754), algorithm 1, with the constant gamma of the released code. Unlike that code
    the inner product is conjugated and every image has its own step lengths. Over-fits the data: not for uncertainty.
    """

    item_levels = True

    def __init__(self, prior: Prior, likelihood: Likelihood, *, gamma: float = 1.0, cg_steps: int = 5) -> None:
        super().__init__(prior, likelihood)
        if not gamma > 0:
            raise BadInput(f"gamma = {gamma}: expected a positive number")
        self.gamma, self.cg_steps = gamma, cg_steps

    @cached_property
    def _rho(self) -> Tensor:
        gaussian = linear(self.likelihood, "the decomposed step")
        return norms(gaussian.A, like=gaussian.back) ** 2 / self.gamma  # each image its own

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        clean = self.likelihood.prox(mean, self._rho, steps=self.cg_steps, tolerance=0.0)
        return Estimate(clean, (noisy - mean) / sigma)
