"""Posterior sampling with flow models: the data step fades with the noise."""

from __future__ import annotations

from torch import Tensor

from medrecon.consistency.gain import Gain
from medrecon.consistency.proximal import Proximal, Variance, error_curve
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw


class Damped(Proximal):
    """clean = (1 - t) D + t prox(D), t = sigma / (1 + sigma), and prox(D) alone where sigma |A| < `undamped`; noise from D.

    Kim et al. 2025 (FlowDPS, arXiv:2503.08136) with a proximal step instead of three gradient steps on a latent; use with
    `flow_noise`. As published (`undamped` 0) the data lose their say as the noise fades, so noise from earlier levels stays
    in what was measured. Over-fits or under-fits the data: a biased sampler.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        undamped: float = 3.0,
        variance: Variance = error_curve,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
    ) -> None:
        super().__init__(prior, likelihood, variance=variance, cg_steps=cg_steps, cg_tolerance=cg_tolerance)
        self.undamped, self.gain = undamped, Gain(likelihood)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        r2 = self.variance(self.prior, self.likelihood, mean, sigma)
        moved = self.likelihood.prox(mean, 1 / r2, steps=self.cg_steps, tolerance=self.cg_tolerance) - mean
        near = (sigma * self.gain(mean) < self.undamped).to(mean.real.dtype)
        time = sigma / (1 + sigma)
        return Estimate(mean + (time + (1 - time) * near) * moved, (noisy - mean) / sigma)
