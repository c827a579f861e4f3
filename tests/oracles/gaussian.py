"""Gaussian problems whose posterior is known, and samplers run on them without Monte Carlo.

With a Gaussian prior and an exact proximal step every step of a sampler is affine in the state and in its noise. So the
production sampler is run on unit vectors, one step at a time, and mean and covariance are propagated exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medrecon.iterate import Step
from medrecon.linop.laws import random
from medrecon.linop.operator import Spectrum
from medrecon.prior.denoiser import Prior
from medrecon.prior.gaussian import Gaussian
from medrecon.solvers.likelihood import Gaussian as GaussianLikelihood
from medrecon.tensors import Draw
from tests.solvers.systems import Matrix

Sampler = Callable[[Prior, Tensor, Tensor, Draw], Iterator[Step]]


class Dense(Matrix):
    """A dense operator (m, n) that knows the eigenbasis of A^H A, so its proximal step is exact."""

    @property
    def spectrum(self) -> Spectrum:
        values, vectors = torch.linalg.eigh(self.matrix.mH @ self.matrix)
        return Spectrum(Matrix(vectors.mH), values.clamp_min(0))


@dataclass(frozen=True)
class Problem:
    """x ~ N(mean, cov), y = matrix x + noise_std n; all per real component. `truth` is the x that y was made of."""

    mean: Tensor
    cov: Tensor
    matrix: Tensor
    y: Tensor
    noise_std: float
    truth: Tensor

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.mean, self.cov)

    def likelihood(self, *, exact: bool = True) -> GaussianLikelihood:
        """Whitened; `exact`: with the spectrum of A, else proximal steps are conjugate gradients."""
        kind = Dense if exact else Matrix
        return GaussianLikelihood(kind(self.matrix / self.noise_std), self.y / self.noise_std)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean (n,) and covariance (n, n) in closed form."""
        cross = self.cov.to(self.matrix.dtype) @ self.matrix.mH
        gain = torch.linalg.solve(
            self.matrix @ cross + self.noise_std**2 * torch.eye(len(self.matrix), dtype=torch.float64), cross, left=False
        )
        mean = self.mean + gain @ (self.y - self.matrix @ self.mean)
        cov = self.cov - gain @ cross.mH
        return mean, (cov + cov.mH) / 2


def dense(
    n: int, m: int, *, complex_field: bool = False, noise_std: float = 0.1, rank: int | None = None, condition: float = 10.0
) -> Problem:
    """A random problem: anisotropic prior with a mean, A of the given rank (default full) and condition."""
    dtype = torch.complex128 if complex_field else torch.float64
    rank = min(m, n) if rank is None else rank
    left = torch.linalg.qr(random((m, m), dtype, "left")).Q[:, :rank]
    right = torch.linalg.qr(random((n, n), dtype, "right")).Q[:, :rank]
    matrix = left @ torch.diag(torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64)).to(dtype) @ right.mH
    basis = torch.linalg.qr(random((n, n), dtype, "basis")).Q
    cov = basis @ torch.diag(torch.logspace(0.7, -1.3, n, dtype=torch.float64)).to(dtype) @ basis.mH
    mean = 0.3 * random((n,), dtype, "mean")
    truth = mean + torch.linalg.cholesky(cov) @ random((n,), dtype, "truth")
    return Problem(mean, cov, matrix, matrix @ truth + noise_std * random((m,), dtype, "noise"), noise_std, truth)


def published(name: str) -> Problem:
    """The problems on which the published transitions were measured: "1d", "iso64", "aniso64".

    64 pixels, 32 data with singular values 1 to 0.1, noise 0.05; white prior, or a spectrum like 1/f^2 of mean 1.
    """
    if name == "1d":
        one = np.ones((1, 1))
        return _problem(np.zeros(1), one, one, 0.3, y=np.ones(1))
    n, k = 64, 32
    rng = np.random.default_rng(7)
    left, right = (np.linalg.qr(rng.standard_normal((s, s)))[0] for s in (k, n))
    matrix = left @ np.diag(np.linspace(1.0, 0.1, k)) @ right[:, :k].T
    if name == "iso64":
        return _problem(np.zeros(n), np.eye(n), matrix, 0.05)
    j, i = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    cosines = np.sqrt(2 / n) * np.cos(np.pi * (i + 0.5) * j / n)
    cosines[0] /= np.sqrt(2)
    power = 1 / (1 + (np.arange(n) / 4.0) ** 2)
    return _problem(0.2 * np.ones(n), cosines.T @ np.diag(power / power.mean()) @ cosines, matrix, 0.05)


def _problem(mean: np.ndarray, cov: np.ndarray, matrix: np.ndarray, noise_std: float, y: np.ndarray | None = None) -> Problem:
    rng = np.random.default_rng(1)
    truth = mean + np.linalg.cholesky(cov + 1e-14 * np.eye(len(mean))) @ rng.standard_normal(len(mean))
    data = matrix @ truth + noise_std * rng.standard_normal(len(matrix)) if y is None else y
    return Problem(*(torch.from_numpy(a) for a in (mean, cov, matrix, data)), noise_std, torch.from_numpy(truth))


def moments(sampler: Sampler, prior: Prior, sigmas: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, over real components, of what a memoryless sampler returns from sigmas[0] times unit noise.

    `like`: an image (n,) that gives dtype and size. Exact where every step is affine.
    """
    n = len(_real(like))
    mean, cov = torch.zeros(n, dtype=torch.float64), float(sigmas[0]) ** 2 * torch.eye(n, dtype=torch.float64)
    for pair in sigmas.unfold(0, 2, 1):
        step = _Probe(sampler, prior, pair, like)
        offset, forward, noises = step.response()
        mean = forward @ mean + offset
        cov = forward @ cov @ forward.T + sum((g @ g.T for g in noises), torch.zeros(n, n, dtype=torch.float64))
    return mean, cov


@dataclass
class _Probe:
    """One step of a sampler as an affine map of its state and of each draw that it asks for."""

    sampler: Sampler
    prior: Prior
    sigmas: Tensor
    like: Tensor

    def response(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Offset (n,), matrix of the state (n, n), one matrix (n, size) for each draw."""
        zero = torch.zeros(1, *self.like.shape, dtype=self.like.dtype)
        sizes: list[Tensor] = []
        offset = self.run(zero, lambda x, call: sizes.append(x[0]) or torch.zeros_like(x))[0]  # type: ignore[func-returns-value]
        forward = self.run(_unit(self.like), lambda x, call: torch.zeros_like(x)) - offset
        noises = []
        for chosen, item in enumerate(sizes):
            units = _unit(item)
            start = zero.expand(len(units), *self.like.shape).clone()
            noises.append((self.run(start, lambda x, call, c=chosen, u=units: u if call == c else torch.zeros_like(x)) - offset).T)
        return offset, forward.T, noises

    def run(self, x: Tensor, noise: Callable[[Tensor, int], Tensor]) -> Tensor:
        """The state after the step for every start, (batch, n)."""
        calls = 0

        def draw(like: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return noise(like, calls - 1)

        return torch.stack([_real(item) for item in next(iter(self.sampler(self.prior, x, self.sigmas, draw))).x])


def _real(x: Tensor) -> Tensor:
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).flatten()


def _unit(like: Tensor) -> Tensor:
    """All unit vectors of the real components of `like`, (count, *like)."""
    eye = torch.eye(len(_real(like)), dtype=torch.float64)
    return torch.view_as_complex(eye.reshape(-1, *like.shape, 2)) if like.is_complex() else eye.reshape(-1, *like.shape)


def real_moments(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance over interleaved real components of a circular complex Gaussian (per real component)."""
    if not mean.is_complex():
        return mean, cov
    blocks = torch.stack([torch.stack([cov.real, -cov.imag], -1), torch.stack([cov.imag, cov.real], -1)], -2)
    n = len(mean)
    return _real(mean), blocks.permute(0, 2, 1, 3).reshape(2 * n, 2 * n)


@dataclass(frozen=True)
class Measured:
    """Against the posterior: bias of the mean in its standard deviations; ratios of standard deviation over all
    directions, the range of A^H and the null space of A; its mass within the reported 95 % intervals."""

    dmean: float
    sd: float
    sd_range: float
    sd_null: float
    coverage: float


def measured(problem: Problem, mean: Tensor, cov: Tensor) -> Measured:
    """Mean and covariance of a sampler, over real components, compared with the posterior."""
    truth, true_cov = real_moments(*problem.posterior())
    n = len(truth)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(true_cov), (mean - truth).unsqueeze(-1), upper=False)
    _, inside = real_moments(problem.mean, torch.linalg.pinv(problem.matrix) @ problem.matrix)
    outside = torch.eye(n, dtype=torch.float64) - inside
    half, spread = 1.959964 * cov.diagonal().clamp_min(0).sqrt(), true_cov.diagonal().sqrt()
    cdf = torch.special.ndtr
    mass = cdf((half - truth + mean) / spread) - cdf((-half - truth + mean) / spread)

    def ratio(projector: Tensor) -> float:
        below = float((projector @ true_cov).trace())
        return math.sqrt(max(0.0, float((projector @ cov).trace())) / below) if below > 1e-9 else math.nan

    return Measured(
        float(whitened.norm()) / math.sqrt(n),
        math.sqrt(float(torch.linalg.solve(true_cov, cov).trace()) / n),
        ratio(inside),
        ratio(outside),
        float(mass.mean()),
    )
