"""Morozov's discrepancy principle: data that are explained down to the noise pull no more."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate
from medrecon.tensors import Draw


class Explained(Consistency):
    """The estimate of `step`, or that of its prior alone for images whose denoised image already has chi^2 <= `threshold`.

    With 1 this is the discrepancy principle (Morozov 1966): it keeps steps that over-fit from following the noise. One
    more evaluation of the prior a level.
    """

    def __init__(self, step: Consistency, *, threshold: float = 1.0) -> None:
        super().__init__(step.prior, step.likelihood)
        if not threshold > 0:
            raise BadInput(f"discrepancy = {threshold}: expected a positive chi^2 per datum")
        self.step, self.threshold, self.remembers = step, threshold, step.remembers

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        alone = self.prior.estimate(noisy, sigma, lower, draw)
        drawn = self.step.estimate(noisy, sigma, lower, draw)
        chi2 = self.likelihood.chi2(alone.clean)
        done = (chi2 <= self.threshold).reshape(*chi2.shape, *[1] * len(self.likelihood.domain))
        return Estimate(torch.where(done, alone.clean, drawn.clean), torch.where(done, alone.noise, drawn.noise))
