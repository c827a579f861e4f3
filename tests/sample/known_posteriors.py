"""Exact posteriors as priors: their denoiser is the exact conditional mean given image and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medrecon.iterate import Step, run
from medrecon.prior.gaussian import Gaussian
from tests.oracles.gaussian import Problem

Sampler = Callable[..., Iterator[Step]]


def exact(problem: Problem) -> Gaussian:
    """E[x | noisy image, y] is the denoiser of the posterior (conditional Tweedie)."""
    return Gaussian(*problem.posterior())


def silent(like: Tensor) -> Tensor:
    """For samplers that must not ask for noise."""
    raise AssertionError("a deterministic sampler asked for noise")


def endpoint(prior: Gaussian, x: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """The end of the probability flow of a Gaussian, from x at level `high` to `low`."""
    scale = ((prior.values + low**2) / (prior.values + high**2)).sqrt()
    return prior.mean + ((x - prior.mean) @ prior.vectors.conj() * scale) @ prior.vectors.mT


def wasserstein(problem: Problem, sampler: Sampler, sigmas: Tensor) -> float:
    """Distance of what a deterministic affine sampler returns to the posterior, relative to the posterior's spread."""
    n = len(problem.mean)
    start = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()
    end = run(sampler(exact(problem), start, sigmas, silent)).x
    mean, forward = end[0], (end[1:] - end[0]).T
    return distance(problem, mean, float(sigmas[0]) ** 2 * forward @ forward.T)


def distance(problem: Problem, mean: Tensor, cov: Tensor) -> float:
    """Wasserstein-2 between Gaussians, over the root of the trace of the posterior's covariance."""
    true_mean, true_cov = problem.posterior()
    values, vectors = torch.linalg.eigh(true_cov)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov @ root).clamp_min(0).sqrt().sum()
    square = (mean - true_mean).square().sum() + true_cov.trace() + cov.trace() - 2 * overlap
    return float((square / true_cov.trace()).clamp_min(0).sqrt())
