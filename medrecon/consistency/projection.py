"""Null-space projection: the data fix what the operator sees, the prior fills in what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medrecon.consistency.base import Consistency, linear
from medrecon.errors import BadInput
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.solvers.likelihood import Likelihood
from medrecon.solvers.pseudoinverse import Filter, Pseudoinverse, pseudoinverse
from medrecon.tensors import Draw


@dataclass(frozen=True)
class Mix:
    """What a seen direction of the next state is made of, as functions of its noise rho: the `share` of the way from the
    denoised image to the data, sigma' `kept` times the noise of unseen directions, and sigma' `fresh` noise (None: no)."""

    share: Filter
    kept: Filter
    fresh: Filter | None = None


Rule = Callable[[Tensor, Tensor, float], Mix]
"""(sigma, sigma', eta) -> mix, eta the share of fresh noise in unseen directions."""


def handed_over(sigma: Tensor, lower: Tensor, eta: float) -> Mix:
    """Down to their own noise level the data are the noisy image; from there on the prior goes on alone.

    At sigma' = rho the data y = x + rho n are just such a state as the prior samples from, and have said all they know; to
    use them again at lower levels, as published, would take one measurement for many. So the spread is the posterior's. In
    the step that passes rho the denoised image knows them with noise sigma only, and takes the rest: 1 - rho^2 / sigma^2.
    """
    return Mix(
        share=lambda rho: torch.where(rho <= lower, 1, (1 - (rho / sigma) ** 2).clamp_min(0)),
        kept=lambda rho: torch.where(rho <= lower, spare(rho, lower), 1),
    )


def reused(sigma: Tensor, lower: Tensor, eta: float) -> Mix:
    """DDNM+ as published (arXiv:2212.00490, section 3.3 and appendix I): below their own noise level the data count for less,
    but at every level, and the noise of the denoised image is dropped. Exact data: DDNM, which keeps it."""
    weak = (1 - eta**2) ** 0.5 * lower

    def share(rho: Tensor) -> Tensor:
        return torch.where(rho <= lower, 1, weak / torch.where(rho <= lower, 1, rho))

    def fresh(rho: Tensor) -> Tensor:
        return torch.where(rho == 0, 0, torch.where(rho <= lower, spare(rho, lower), eta))

    return Mix(share, lambda rho: (rho == 0).to(rho.dtype), fresh)


def spare(rho: Tensor, lower: Tensor) -> Tensor:
    """The noise that is missing to sigma' beside rho, in units of sigma'."""
    return (1 - (rho / torch.where(lower > 0, lower, 1)) ** 2).clamp_min(0).sqrt()


class NullSpace(Consistency):
    """clean = D + A^+ (y - A D) for exact data, Wang et al. 2023 (DDNM, arXiv:2212.00490); for the sampler `euler`.

    `noise` is all that is added: sqrt(1 - eta^2) (noisy - D) / sigma + eta z, noise of the prior's mean, as hard projections
    need it. `eta` None is that of ancestral sampling, sqrt(1 - sigma'^2 / sigma^2), with which the draws approach the
    posterior as the levels grow; the paper has 0.85, which shrinks their spread.

    Noisy data: `rule` says by singular direction what the next state takes from them, `handed_over` (a sampler) or DDNM+ as
    published, `reused` (biased: the spread of what is measured shrinks as the levels grow). Where A offers no spectrum the
    directions are those of a Krylov space of `cg_steps` dimensions; the released code then puts one noise level for all of
    them. Exact data without a spectrum are solved for by as many conjugate gradients, down to `cg_tolerance`: raise both
    where A is badly conditioned.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        rule: Rule = handed_over,
        eta: float | None = None,
        cg_steps: int = 30,
        cg_tolerance: float = 1e-4,
    ) -> None:
        super().__init__(prior, likelihood)
        if eta is not None and not 0 <= eta <= 1:
            raise BadInput(f"eta = {eta}: expected 0 to 1, the share of fresh noise, or none for that of ancestral sampling")
        self.rule, self.eta, self.cg_steps, self.cg_tolerance = rule, eta, cg_steps, cg_tolerance

    @cached_property
    def inverse(self) -> Pseudoinverse:
        gaussian = linear(self.likelihood, "the projection on the data")
        return pseudoinverse(gaussian, steps=self.cg_steps, tolerance=self.cg_tolerance)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean = self.prior.denoise(noisy, sigma)
        eta = self.fresh_share(sigma, lower)
        mix = self.rule(sigma, lower, eta)
        clean = mean + self.inverse.towards(mean, mix.share)
        return Estimate(clean, added(self.inverse, mix, eta, (noisy - mean) / sigma, lower, draw))

    def fresh_share(self, sigma: Tensor, lower: Tensor) -> float:
        """eta, or that of ancestral sampling."""
        return max(0.0, 1 - float(lower / sigma) ** 2) ** 0.5 if self.eta is None else self.eta


def added(inverse: Pseudoinverse, mix: Mix, eta: float, noise: Tensor, lower: Tensor, draw: Draw) -> Tensor:
    """All noise of the next state, in units of sigma': sqrt(1 - eta^2) noise + eta z, and what `mix` says where A sees."""
    if not lower > 0:
        return noise
    z = draw(noise)
    plain = (1 - eta**2) ** 0.5 * noise + eta * z
    total = plain + inverse.seen(plain, lambda rho: mix.kept(rho) - 1)
    return total if mix.fresh is None else total + inverse.seen(z, mix.fresh)
