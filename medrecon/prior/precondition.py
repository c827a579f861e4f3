"""A network as a Prior: EDM preconditioning (Karras et al. 2022, eq. 7), error curve, intensity scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from medrecon.errors import BadInput
from medrecon.prior.channels import from_channels, to_channels
from medrecon.prior.curve import ErrorCurve
from medrecon.prior.denoiser import Prior
from medrecon.prior.recompute import checkpointed
from medrecon.prior.units import RELATIVE, Units


def preconditioned(network: nn.Module, noisy: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """D = c_skip u + c_out F(c_in u, ln(sigma)/4) for channel images (batch, channel, y, x) and sigma (batch,).

    The network computes in the precision of its own weights, all else, and the noise level, in that of the images.
    """
    s = sigma[:, None, None, None]
    c_in = (s**2 + sigma_data**2).rsqrt()
    kind = next((p.dtype for p in network.parameters()), noisy.dtype)
    hidden = network((c_in * noisy).to(kind, memory_format=torch.channels_last), sigma.log() / 4)
    return (sigma_data * c_in) ** 2 * noisy + s * sigma_data * c_in * hidden.to(noisy.dtype)


class NetworkPrior(Prior):
    """A trained denoiser. `error_curve`: pairs (sigma, r^2) measured on images outside its training set; without it
    `error` is the formula for white images.

    `kappas`: pairs (calibration lines, kappa), see `Prior.scale`. `images_at_once` bounds memory: the network runs on
    that many images at a time, `pixel_bytes` for each of their pixels.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        field: str,
        sigma_data: float,
        sigma_range: tuple[float, float],
        error_curve: Sequence[Sequence[float]] = (),
        kappas: Sequence[Sequence[float]] = (),
        domain_name: str = "any",
        units: Units = RELATIVE,
        card: Mapping[str, str] | None = None,
        images_at_once: int = 8,
        pixel_bytes: int = 0,
    ) -> None:
        super().__init__()
        if field not in ("real", "complex"):
            raise BadInput(f"field {field!r}: expected real or complex")
        if not 0 < sigma_data < math.inf or len(sigma_range) != 2 or not 0 < sigma_range[0] < sigma_range[1]:
            raise BadInput(f"sigma_data = {sigma_data}, sigma_range = {sigma_range}: expected positive numbers, the range rising")
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.field, self.sigma_data, self.sigma_range, self.domain_name = field, sigma_data, sigma_range, domain_name
        self.data_std, self.units = sigma_data, units
        self._curve = ErrorCurve(error_curve) if len(error_curve) else None
        self.kappas = sorted((float(a), float(b)) for a, b in kappas)
        self.card = dict(card or {})
        self.images_at_once, self.pixel_bytes = images_at_once, pixel_bytes

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if noisy.is_complex() != (self.field == "complex"):
            kind = "complex" if noisy.is_complex() else "real"
            raise BadInput(f"prior {self.domain_name!r} denoises {self.field} images, got {kind} ones: choose a {kind} prior")
        lead = noisy.shape[:-2]
        levels = torch.as_tensor(sigma, dtype=noisy.real.dtype, device=noisy.device)
        levels = levels.reshape(levels.shape[: max(0, levels.ndim - 2)]).expand(lead).reshape(-1)
        levels = levels.clamp(*self.sigma_range)
        channels = to_channels(noisy.reshape(-1, *noisy.shape[-2:]))
        chunks = list(zip(channels.split(self.images_at_once), levels.split(self.images_at_once), strict=True))
        # The network recomputes its levels; only where there are several chunks must none keep even those for the others.
        part = partial(checkpointed, preconditioned) if len(chunks) > 1 else preconditioned
        parts = [part(self.network, u, s, self.sigma_data) for u, s in chunks]
        return from_channels(torch.cat(parts)).reshape(noisy.shape)

    def error(self, sigma: Tensor) -> Tensor:
        """The card's curve, see `ErrorCurve`; without one that of white images."""
        return super().error(sigma) if self._curve is None else self._curve(sigma)

    def scale(self, calib_lines: int | None) -> float:
        if not self.kappas:
            return 1.0
        if calib_lines is None or calib_lines >= self.kappas[-1][0]:
            return self.kappas[-1][1]
        lower = [k for k in self.kappas if k[0] <= calib_lines] or self.kappas[:1]
        upper = [k for k in self.kappas if k[0] > calib_lines]
        (a, ka), (b, kb) = lower[-1], upper[0]
        return ka if b == a else ka + (kb - ka) * max(0.0, calib_lines - a) / (b - a)

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return min(n_images, self.images_at_once) * n_pixels * self.pixel_bytes

    def extra_repr(self) -> str:
        n = sum(p.numel() for p in self.network.parameters())
        return f"{self.domain_name}, {self.field}, {n / 1e6:.2f} M parameters, sigma {self.sigma_range}"
