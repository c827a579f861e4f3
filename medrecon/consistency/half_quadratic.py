"""Half-quadratic splitting with a denoiser: DiffPIR."""

from __future__ import annotations

from torch import Tensor

from medrecon.consistency.proximal import Proximal
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Prior
from medrecon.solvers.likelihood import Likelihood


class HalfQuadratic(Proximal):
    """clean = argmin |A x - y|^2 / 2 + weight |x - D|^2 / (2 sigma^2); noise from `clean`.

    Zhu et al. 2023 (DiffPIR, arXiv:2305.08995), `weight` its lambda, with the sampler `renoise`, eta = sqrt(zeta). Unlike the
    released code sigma and the noise of the data are in the same units, and the last level has its data step. At eta 1 the
    mean is right as the levels grow and the spread is the posterior's over sqrt(2); a weight other than 1 biases the mean.
    """

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, weight: float = 1.0, cg_steps: int = 10, cg_tolerance: float = 1e-3
    ) -> None:
        def variance(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
            return sigma**2 / weight

        if not weight > 0:
            raise BadInput(f"weight = {weight}: expected a positive number")
        super().__init__(prior, likelihood, variance=variance, cg_steps=cg_steps, cg_tolerance=cg_tolerance)
