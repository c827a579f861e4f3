"""Priors in closed form: Gaussian (dense or stationary covariance) and Gaussian mixture. Exact, for tests and teaching."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.denoiser import Prior
from medrecon.tensors import norm2, real_dtype, trailing


class Gaussian(Prior):
    """N(mean, cov): `mean` of image shape, `cov` (n, n) Hermitian over its flattened pixels, per real component.

    A complex mean makes a circular complex prior: real and imaginary parts each have covariance `cov` (Re if it is complex).
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__()
        n = mean.numel()
        if cov.shape != (n, n):
            raise BadInput(f"covariance of shape {tuple(cov.shape)} for a mean of {n} pixels, expected ({n}, {n})")
        values, vectors = torch.linalg.eigh(cov)
        if float(values[0]) < -1e-6 * max(float(values[-1]), 1e-30):
            raise BadInput(f"covariance has a negative eigenvalue {float(values[0]):.3g}: it is no covariance")
        self.register_buffer("mean", mean)
        self.register_buffer("values", values.clamp_min(0))
        self.register_buffer("vectors", vectors.to(mean.dtype) if mean.is_complex() else vectors)
        self.field = "complex" if mean.is_complex() else "real"
        self.image_axes = mean.ndim
        self.data_std = float((self.values.mean() + mean.abs().square().mean() / (2 if mean.is_complex() else 1)).sqrt())

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=self.values.dtype, device=noisy.device)
        if sigma.ndim:
            sigma = sigma.reshape(*sigma.shape[: sigma.ndim - self.image_axes], 1)
        flat = (noisy - self.mean).flatten(-self.image_axes)
        gain = self.values / (self.values + sigma**2)
        kept = (flat @ self.vectors.conj() * gain.to(real_dtype(flat.dtype))) @ self.vectors.mT
        return self.mean + kept.reshape(noisy.shape)

    def error(self, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma).to(self.values).unsqueeze(-1) ** 2
        return (self.values * level / (self.values + level)).mean(-1)


class StationaryGaussian(Prior):
    """N(mean, circulant covariance): `spectrum` (*image,) are its eigenvalues per real component, zero frequency first."""

    mean: Tensor
    spectrum: Tensor

    def __init__(self, mean: Tensor, spectrum: Tensor) -> None:
        super().__init__()
        if mean.shape != spectrum.shape or bool((spectrum < 0).any()):
            raise BadInput(
                f"spectrum of shape {tuple(spectrum.shape)} for a mean of {tuple(mean.shape)}: expected equal shapes, values >= 0"
            )
        axes = tuple(range(spectrum.ndim))
        if not mean.is_complex() and not torch.allclose(spectrum, spectrum.flip(axes).roll([1] * len(axes), axes)):
            raise BadInput("spectrum of a real field differs between opposite frequencies: make it even, or the mean complex")
        self.register_buffer("mean", mean)
        self.register_buffer("spectrum", spectrum)
        self.field = "complex" if mean.is_complex() else "real"
        self.image_axes = mean.ndim
        self.data_std = float((spectrum.mean() + mean.abs().square().mean() / (2 if mean.is_complex() else 1)).sqrt())

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        axes = trailing(self.image_axes)
        gain = self.spectrum / (self.spectrum + torch.as_tensor(sigma).to(self.spectrum) ** 2)
        kept = torch.fft.ifftn(torch.fft.fftn(noisy - self.mean, dim=axes) * gain, dim=axes)
        return self.mean + (kept if noisy.is_complex() else kept.real)

    def error(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma).to(self.spectrum)
        level = sigma.reshape(*sigma.shape, *[1] * self.image_axes) ** 2
        return (self.spectrum * level / (self.spectrum + level)).mean(trailing(self.image_axes))

    def sample(self, noise: Tensor) -> Tensor:
        """Draws from the prior, made of unit noise (*batch, *image)."""
        axes = trailing(self.image_axes)
        drawn = torch.fft.ifftn(torch.fft.fftn(noise, dim=axes) * self.spectrum.sqrt(), dim=axes)
        return self.mean + (drawn if noise.is_complex() else drawn.real)


class GaussianMixture(Prior):
    """sum_i weights_i N(means_i, variances_i I): means (component, *image), variances per real component.

    `error` is the inherited formula, an upper bound here: the error of the best scalar times the noisy image.
    """

    means: Tensor
    log_weights: Tensor
    variances: Tensor

    def __init__(self, weights: Sequence[float], means: Tensor, variances: Sequence[float]) -> None:
        super().__init__()
        w, v = torch.tensor(weights, dtype=real_dtype(means.dtype)), torch.tensor(variances, dtype=real_dtype(means.dtype))
        if not len(w) == len(v) == len(means) or bool((w <= 0).any()) or bool((v < 0).any()):
            raise BadInput("mixture: expected as many positive weights and variances >= 0 as means")
        self.register_buffer("means", means)
        self.register_buffer("log_weights", (w / w.sum()).log())
        self.register_buffer("variances", v)
        self.field = "complex" if means.is_complex() else "real"
        self.image_axes = means.ndim - 1
        power = means.abs().square().flatten(1).mean(1) / (2 if means.is_complex() else 1)
        self.data_std = float(((w / w.sum()) * (v + power)).sum().sqrt())

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        ones = [1] * self.image_axes
        level = torch.as_tensor(sigma, dtype=self.variances.dtype, device=noisy.device)
        level = level.unsqueeze(-1 - self.image_axes) if level.ndim else level
        variances = self.variances.reshape(-1, *ones)
        total = variances + level**2
        offset = noisy.unsqueeze(-1 - self.image_axes) - self.means
        components = math.prod(self.means.shape[1:]) * (2 if noisy.is_complex() else 1)
        log = self.log_weights.reshape(-1, *ones) - norm2(offset, self.image_axes) / (2 * total) - components / 2 * total.log()
        share = torch.softmax(log, -1 - self.image_axes)
        return (share * (self.means + variances / total * offset)).sum(-1 - self.image_axes)
