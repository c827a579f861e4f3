"""Data steps with the prior's own covariance, sigma^2 times the Jacobian of the denoiser: guidance and moment matching."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medrecon.consistency.base import Consistency
from medrecon.consistency.proximal import Variance, error_curve
from medrecon.iterate import run
from medrecon.linop.operator import LinearOperator
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.prior.jacobian import differentiated
from medrecon.solvers.krylov import cg, inner
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.prox import damped
from medrecon.solvers.square_root import square_root
from medrecon.tensors import Draw, ratio

Covariance = Callable[[Tensor], Tensor]
"""v -> V v for images, V = Cov[x | noisy] = sigma^2 J (second-order Tweedie)."""


def unit_error(prior: Prior, likelihood: Likelihood, mean: Tensor, sigma: Tensor) -> Tensor:
    """r^2 = sigma^2 / (1 + sigma^2): the error of a white prior of unit variance, as published."""
    return sigma**2 / (1 + sigma**2)


class PseudoinverseGuided(Consistency):
    """clean = D + sigma^2 J^H A^H (r^2 A A^H + 1)^-1 (y - A D): the Jacobian outside, the prior's error r^2 inside.

    Song et al. 2023 (PiGDM, openreview 9_gsMA8MRKQ), with the noise from the corrected image; `prior_noise` takes it from D
    instead, as published, which applies the whole correction at every level and over-fits the data. The system is solved
    for images, A^H (r^2 A A^H + 1)^-1 = (r^2 A^H A + 1)^-1 A^H, in closed form where A has a spectrum. Other likelihoods are
    linearised at D. A biased sampler, unless the prior is white: then it is the proximal step.

    Along directions where sigma^2 J is much more than r^2 (the low frequencies of images) the published step overshoots, and
    in few levels it diverges. `bounded` goes no farther along it than the minimum of |A x - y|^2 + (x - D)^H V^-1 (x - D):
    a factor of at most 1, and just 1 where V = r^2.
    """

    item_levels = True

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        variance: Variance = error_curve,
        prior_noise: bool = False,
        bounded: bool = True,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(prior, likelihood)
        self.variance, self.prior_noise, self.bounded = variance, prior_noise, bounded
        self.cg_steps, self.cg_tolerance, self.checkpoint = cg_steps, cg_tolerance, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        local = self.likelihood.linearised(mean)
        rho = 1 / self.variance(self.prior, self.likelihood, mean, sigma)
        downhill = -local.gradient(mean)
        pull = rho * damped(local, downhill, rho, steps=self.cg_steps, tolerance=self.cg_tolerance)
        move = sigma**2 * transposed(pull)
        if self.bounded:
            move = _length(local, downhill, pull, move) * move
        clean = mean + move
        return Estimate(clean, (noisy - (mean if self.prior_noise else clean)) / sigma)


def _length(likelihood: Gaussian, downhill: Tensor, pull: Tensor, move: Tensor) -> Tensor:
    """argmin over t in [0, 1] of |A (D + t move) - y|^2 + t^2 move^H V^-1 move, where move = V pull."""
    axes = len(likelihood.domain)
    curvature = inner(move, likelihood.normal(move), axes) + inner(pull, move, axes)
    return ratio(inner(downhill, move, axes), curvature).clamp(0, 1)


class MomentMatched(Consistency):
    """clean = D + V A^H (A V A^H + 1)^-1 (y - A D), V = sigma^2 J: the conditional mean if x given the noisy image is Gaussian.

    Boys et al. 2023 (TMPD, arXiv:2310.06721) without its diagonal approximation, as in Rozet et al. 2024
    (arXiv:2405.13712): conjugate gradients over data, one backward pass through the prior each; an image freezes where a
    network's Jacobian has negative curvature. Other likelihoods are linearised at D. With `ancestral` a sampler, exact for
    Gaussian priors as the levels grow. Where it diverges lower `cg_steps`.
    """

    item_levels = True

    def __init__(
        self, prior: Prior, likelihood: Likelihood, *, cg_steps: int = 10, cg_tolerance: float = 1e-3, checkpoint: bool = False
    ) -> None:
        super().__init__(prior, likelihood)
        self.cg_steps, self.cg_tolerance, self.checkpoint = cg_steps, cg_tolerance, checkpoint

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, covariance = self.moments(noisy, sigma)
        local = self.likelihood.linearised(mean)
        clean = self.conditioned(mean, covariance, local)
        return Estimate(clean, (noisy - clean) / sigma)

    def moments(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Covariance]:
        """Mean and covariance of the clean image given the noisy one."""
        mean, transposed = differentiated(self.prior, noisy, sigma, checkpoint=self.checkpoint)
        return mean, lambda v: sigma**2 * transposed(v)

    def conditioned(self, image: Tensor, covariance: Covariance, likelihood: Gaussian) -> Tensor:
        """The image moved to where data and covariance want it."""
        A = likelihood.A
        innovation = cg(Innovation(A, covariance), -likelihood.residual(image), tolerance=self.cg_tolerance, definite=False)
        return image + covariance(A.H(run(innovation, limit=self.cg_steps).x))


class MomentMatchedDraw(MomentMatched):
    """A draw from N(D, V) times the likelihood instead of its mean: D + V^(1/2) z and y + n, then the same step.

    With `renoise` (eta 1) a sampler: exact for Gaussian priors at any number of levels. V^(1/2) z takes `root_steps` more
    backward passes through the prior (see `square_root`).
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        *,
        root_steps: int = 10,
        cg_steps: int = 10,
        cg_tolerance: float = 1e-3,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(prior, likelihood, cg_steps=cg_steps, cg_tolerance=cg_tolerance, checkpoint=checkpoint)
        self.root_steps = root_steps

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        mean, covariance = self.moments(noisy, sigma)
        disturbed = self.likelihood.linearised(mean).perturbed(draw, mean)
        drawn = mean + square_root(covariance, draw(mean), len(self.likelihood.domain), steps=self.root_steps)
        clean = self.conditioned(drawn, covariance, disturbed)
        return Estimate(clean, (noisy - clean) / sigma)


class Innovation(LinearOperator):
    """A V A^H + 1, the covariance of y - A D."""

    def __init__(self, A: LinearOperator, covariance: Covariance) -> None:
        super().__init__()
        self.A, self.covariance = A, covariance
        self.domain = self.range = A.range
        self.complex_range = A.complex_range

    def _forward(self, x: Tensor) -> Tensor:
        return x + self.A(self.covariance(self.A.H(x)))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)
