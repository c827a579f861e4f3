"""DRP: a network that restores degraded images as a prior; a denoiser is the restorer of images that are only noisy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import Step, run
from medrecon.linop.operator import LinearOperator, Scaled
from medrecon.prior.denoiser import Prior
from medrecon.prior.wrapped import Wrapped
from medrecon.sample.start import regularised
from medrecon.solvers.descent import proximal
from medrecon.solvers.krylov import cg, shifted
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.tensors import Draw, norm2


class Restorer(Prior):
    """A prior that restores: `restore(degraded, sigma)` is E[x | H x + sigma n = degraded], H its `degradation`.

    H maps images to whatever the network takes (blurred, or smaller). `denoise` serves the start.
    """

    degradation: LinearOperator

    def restore(self, degraded: Tensor, sigma: Tensor) -> Tensor:
        """E[x | H x + sigma n = degraded], (*batch, *image) from (*batch, *H.range)."""
        raise NotImplementedError


@torch.no_grad()
def drp(
    prior: Prior,
    likelihood: Likelihood,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    anneal: bool = True,
    tau: float = 1.0,
    gamma: float | None = None,
    damping: float = 1e-3,
    data_steps: int = 10,
) -> Iterator[Step]:
    """s = x - tau (x - R(H x)), x = argmin over v of gamma |A v - y|^2 / 2 + |H (v - s)|^2 / 2: a point estimate.

    Its fixed point solves gamma grad(x) + tau H^H H (x - R(H x)) = 0. For an R of least squared error the second term is
    -tau sigma^2 times the score of degraded images at H x, so gamma = tau sigma^2 (the default) makes it the mode of
    p(y | x) p_sigma(H x), p_sigma the density of degraded images. sigma follows the levels (`anneal`), else it is the last.
    A `Restorer` brings its H; any other prior is the denoiser it is, H = 1, and takes any likelihood. `damping` is
    added to H^H H, which sees only part of the image, and holds the rest; it does not shift the fixed point. Where it diverges lower `tau`.
    Hu, Delbracio, Milanfar, Kamilov 2024, arXiv:2310.01391, algorithm 1 and theorem 1.
    """
    if not 0 < tau <= 1 or (gamma is not None and not gamma > 0):
        raise BadInput(f"tau = {tau}, gamma = {gamma}: expected 0 < tau <= 1 and a positive gamma")
    axes, restorer = len(likelihood.domain), _restorer(prior)
    x = regularised(prior, likelihood, x, sigmas[0], draw, steps=data_steps)
    for level in sigmas[:-1]:
        sigma = level if anneal else sigmas[-2]
        share = tau * sigma**2 if gamma is None else gamma
        if restorer is not None:
            target = x - tau * (x - restorer.restore(restorer.degradation(x), sigma))
            new = _weighted(likelihood, restorer.degradation, target, x, float(share), damping, data_steps)
        else:
            target = x - tau * (x - prior.denoise(x, sigma))
            new = proximal(likelihood, target, 1 / share, steps=data_steps)
        gap, x = norm2(new - x, axes).sqrt(), new
        yield Step(x, gap.reshape(gap.shape[: gap.ndim - axes]))


def _restorer(prior: Prior) -> Restorer | None:
    """The restorer within whatever is wrapped around it: wrappers know denoising only, so it is asked directly."""
    while isinstance(prior, Wrapped):
        prior = prior.prior
    return prior if isinstance(prior, Restorer) else None


def _weighted(likelihood: Likelihood, H: LinearOperator, s: Tensor, x: Tensor, gamma: float, damping: float, steps: int) -> Tensor:
    """argmin over v of gamma value(v) + |H (v - s)|^2 / 2 + damping |v - x|^2 / 2, by conjugate gradients from x.

    Damped towards x and not towards s: it then vanishes where x no longer moves.
    """
    if not isinstance(likelihood, Gaussian):
        raise NotSupported(
            f"drp with a restorer needs a linear operator and Gaussian noise, got {type(likelihood).__name__}: use a denoiser"
        )
    normal = shifted(Scaled(likelihood.normal, gamma) + H.normal, damping)
    return run(cg(normal, gamma * likelihood.back + H.normal(s) + damping * x, x, tolerance=1e-8), limit=steps).x
