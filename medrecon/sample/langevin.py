"""Samplers by Langevin dynamics: correctors after a predictor, and annealed Langevin dynamics.

The state after the data step is clean + sigma noise of its `Estimate`, and -noise / sigma is the score there: a data step
that merges the noisy image with data returns the noise of the merged image, one that adds the likelihood's gradient to the
score returns noise from which it is subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from medrecon.iterate import Step
from medrecon.prior.denoiser import Prior
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw, norm2, ratio


def predictor_corrector(
    prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, corrector_steps: int = 1, snr: float = 0.16
) -> Iterator[Step]:
    """Reverse diffusion, then `corrector_steps` of Langevin dynamics at the new level (Song et al. 2021, arXiv:2011.13456,
    algorithms 2 and 4); the data step comes before each of them, inside the estimate. 1 + `corrector_steps` evaluations
    a level. The last step, to 0, returns the mean without noise.

    Step h = 2 (snr |z| / |score|)^2; the norms are those of each image, not of the batch as in the released code, where
    images depend on their neighbours. A sampler for h -> 0 and many levels; the corrector takes away most of the bias that
    merging with data leaves in unmeasured directions. Should it diverge, lower `snr`.
    """
    for sigma, lower in pairwise(sigmas):
        if lower > sigma:
            x = bridge(x, sigma, lower, draw)
            yield Step(x, lower)
            continue
        estimate = prior.estimate(x, sigma, lower, draw)
        x = estimate.clean
        if lower > 0:
            x = x + (lower**2 / sigma) * estimate.noise + (sigma**2 - lower**2).sqrt() * draw(x)
            for _ in range(corrector_steps):
                x = _corrected(prior, x, lower, draw, snr)
        yield Step(x, lower)


def _corrected(prior: Prior, x: Tensor, sigma: Tensor, draw: Draw, snr: float) -> Tensor:
    estimate = prior.estimate(x, sigma, sigma, draw)
    z = draw(x)
    # |score| = |noise| / sigma, so h = 2 (snr sigma |z| / |noise|)^2.
    h = 2 * snr**2 * ratio(norm2(z, prior.image_axes), norm2(estimate.noise, prior.image_axes))
    return estimate.clean + sigma * (1 - h) * estimate.noise + sigma * (2 * h).sqrt() * z


def annealed_langevin(prior: Prior, x: Tensor, sigmas: Tensor, draw: Draw, *, inner: int = 3, step: float = 0.3) -> Iterator[Step]:
    """`inner` steps x <- x + h score + sqrt(2 h) z at every level, h = step sigma^2 / stiffness (Jalal et al. 2021,
    arXiv:2108.01368, algorithm 1); `inner` evaluations a level, one more at the end, which returns the clean image.

    At a level where the score is that of a Gaussian of variance v, the stationary variance is v / (1 - h / (2 v)): the
    bias that is left, which goes with `step`. Released code has step 1.15, a factor 2.35. A biased sampler, a sampler for
    many levels and small steps. Should it diverge, lower `step`: it must be less than 2.
    """
    for sigma, lower in pairwise(sigmas):
        h = step / prior.stiffness(sigma)
        for _ in range(inner):
            estimate = prior.estimate(x, sigma, sigma, draw)
            x = estimate.clean + sigma * ((1 - h) * estimate.noise + (2 * h) ** 0.5 * draw(x))
        if lower > sigma:
            x = bridge(x, sigma, lower, draw)
        elif not lower > 0:
            x = prior.estimate(x, sigma, lower, draw).clean
        yield Step(x, lower)
