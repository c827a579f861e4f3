"""Restoration in the eigenbasis of A^H A: each coefficient mixes data and denoised image as its own noise level asks."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.consistency.projection import Mix, added, spare
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.pseudoinverse import BySpectrum, by_spectrum
from medrecon.tensors import Draw


class Spectral(Consistency):
    """DDRM, Kawar et al. 2022 (arXiv:2201.11793), eqs. 7 and 8; for the sampler `euler`: `noise` is all that is added.

    With x = V^H D, e = V^H (noisy - D) / sigma, the data V^H A^+ y =: y and their noise rho = 1/s, the next state is
        unseen (s = 0):  x + sigma' (sqrt(1 - eta^2) e + eta z)
        sigma' < rho:    x + sigma' (sqrt(1 - eta^2) (y - x) / rho + eta z)
        sigma' >= rho:   x + eta_b (y - x) + sqrt(sigma'^2 - eta_b^2 rho^2) z,
    coefficient by coefficient; U is never needed. A tie belongs to the last line (to none in the released code). The
    paper's first state is centred on y; here it is white noise of sigma_0, far above the image, and a level later the
    difference is forgotten. For eta_b = 1 this is DDNM+ (`projection.reused`).

    A biased sampler: the second line uses the same y at every level, so the spread of what is measured shrinks as the levels
    grow. 20 to 50 of them are meant.
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, *, eta: float = 0.85, eta_b: float = 1.0) -> None:
        super().__init__(prior, likelihood)
        for name, value in (("eta", eta), ("eta_b", eta_b)):
            if not 0 <= value <= 1:
                raise BadInput(f"{name} = {value}: expected 0 to 1")
        self.eta, self.eta_b = eta, eta_b

    @cached_property
    def _inverse(self) -> BySpectrum:
        return by_spectrum(linear(self.likelihood, "ddrm"), "ddrm")

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, mix = self.prior.denoise(noisy, sigma), self._mix(lower)
        clean = mean + self._inverse.towards(mean, mix.share)
        return Estimate(clean, added(self._inverse, mix, self.eta, (noisy - mean) / sigma, lower, draw))

    def _mix(self, lower: Tensor) -> Mix:
        eta, eta_b = self.eta, self.eta_b

        def share(rho: Tensor) -> Tensor:
            above = rho <= lower
            return torch.where(above, eta_b, (1 - eta**2) ** 0.5 * lower / torch.where(above, 1, rho))

        def fresh(rho: Tensor) -> Tensor:
            return torch.where(rho <= lower, spare(eta_b * rho, lower), eta)

        return Mix(share, torch.zeros_like, fresh)
