"""Networks of other packages as priors: any torch module that takes images and a noise level or time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medrecon.errors import BadInput, nearest
from medrecon.prior.channels import from_channels, padded, to_channels
from medrecon.prior.curve import ErrorCurve
from medrecon.prior.denoiser import Prior
from medrecon.prior.parametrisation import PREDICTIONS, Noising, VarianceExploding
from medrecon.prior.recompute import checkpointed
from medrecon.prior.units import RELATIVE, Units

TYPICAL_STD = 0.3
"""Root mean square, per real component, of medical images whose brightest tissue is 1: 0.25 (complex MR) to 0.36 (ultrasound)."""


class FromModule(Prior):
    """E[x | x + sigma n] from `module(image, time)`, images (batch, channel, *image), time (batch,); put into evaluation mode.

    `predicts`: "clean", "noise", "score", "v", "flow" or "velocity", see `PREDICTIONS`. `noising`: what the module sees of
    x + sigma n and its time; `told` turns that into the number it takes (`whole` steps; ln(sigma) / 4; 999 t), floating ones
    in single precision at least. Otherwise the module computes in the precision of its own weights.

    `gain`, `offset`: the module's images are gain x + offset, 2 and -1 for one trained on [-1, 1] where x is in [0, 1]; its
    noise is gain sigma. Complex images take them in both parts.

    `channels`: 2 are (real, imaginary), the default for complex images; a module of 1 is given both parts of a complex image
    as two images. Where it returns twice as many channels, the second half (learnt variances) is dropped.

    Sigma is clamped to what `noising` states, divided by `gain` (`sigma_range`): below, the image is denoised as if it had the
    smallest noise, a difference of no consequence; above, too much noise stays in.

    `multiple`: sizes that the module needs (8 for three halvings); images are reflected up to it and cut again.
    `error_curve`: pairs (sigma, r^2) measured on images it has not seen; without it `error` is the formula for white images of
    `data_std`. `images_at_once` and `pixel_bytes` as in `NetworkPrior`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        predicts: str,
        noising: Noising,
        told: Callable[[Tensor], Tensor] = lambda time: time,
        field: str = "real",
        channels: int | None = None,
        gain: float = 1.0,
        offset: float = 0.0,
        image_axes: int = 2,
        multiple: int = 1,
        data_std: float = TYPICAL_STD,
        error_curve: Sequence[Sequence[float]] = (),
        domain_name: str = "any",
        units: Units = RELATIVE,
        images_at_once: int = 8,
        pixel_bytes: int = 0,
    ) -> None:
        super().__init__()
        if predicts not in PREDICTIONS:
            raise BadInput(f"predicts = {predicts!r}: expected one of {', '.join(PREDICTIONS)}{nearest(predicts, list(PREDICTIONS))}")
        if field not in ("real", "complex"):
            raise BadInput(f"field {field!r}: expected real or complex")
        most = 2 if field == "complex" else 1
        if channels not in (None, 1, most):
            raise BadInput(f"channels = {channels}: a module for {field} images takes {' or '.join(map(str, range(1, most + 1)))}")
        if not (gain > 0 and data_std > 0 and multiple >= 1 and images_at_once >= 1):
            raise BadInput(
                f"gain = {gain}, data_std = {data_std}, multiple = {multiple}, images_at_once = {images_at_once}: expected positive numbers"
            )
        self.module = module.eval()
        self.prediction, self.noising, self.told = PREDICTIONS[predicts], noising, told
        self.field, self.channels, self.gain, self.offset = field, channels or most, gain, offset
        self.image_axes, self.multiple, self.data_std = image_axes, multiple, data_std
        low, high = noising.sigma_range
        self.sigma_range = low / gain, high / gain
        self.domain_name, self.units = domain_name, units
        self.images_at_once, self.pixel_bytes = images_at_once, pixel_bytes
        self._curve = ErrorCurve(error_curve) if len(error_curve) else None

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if noisy.is_complex() != (self.field == "complex"):
            kind = "complex" if noisy.is_complex() else "real"
            raise BadInput(f"prior {self.domain_name!r} denoises {self.field} images, got {kind} ones: choose a {kind} prior")
        image = noisy.shape[-self.image_axes :]
        levels = torch.as_tensor(sigma, dtype=noisy.real.dtype, device=noisy.device)
        levels = levels.reshape(levels.shape[: max(0, levels.ndim - self.image_axes)]).expand(noisy.shape[: -self.image_axes])
        both = to_channels(noisy.reshape(-1, *image))
        seen = both.reshape(-1, self.channels, *image)
        # A module of one channel sees a complex image as two images of the same noise level.
        levels = levels.reshape(-1).repeat_interleave(both.shape[1] // self.channels)
        chunks = zip(seen.split(self.images_at_once), levels.split(self.images_at_once), strict=True)
        clean = torch.cat([checkpointed(self._clean, u, s) for u, s in chunks])
        return from_channels(clean.reshape(both.shape)).reshape(noisy.shape)

    def _clean(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """D for channel images and their levels (batch,), in the module's units and back."""
        level = (self.gain * sigma).clamp(*self.noising.sigma_range)
        wide = level.reshape(-1, *[1] * (noisy.ndim - 1))
        u = self.gain * noisy + self.offset
        a = self.noising.amplitude(wide)
        clean = self.prediction(self._output(a * u, self.told(self.noising.time(level))), u, wide, a)
        return (clean - self.offset) / self.gain

    def _output(self, seen: Tensor, time: Tensor) -> Tensor:
        kind = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), seen.dtype)
        if time.is_floating_point():
            # Half precision would round 999 steps to 1000.
            time = time.to(torch.promote_types(kind, torch.float32))
        found = self.module(padded(seen, self.multiple).to(kind), time)
        if not isinstance(found, Tensor):
            raise BadInput(
                f"{type(self.module).__name__} returns {type(found).__name__}: wrap it in a module that returns the image tensor"
            )
        kept = self.channels if found.shape[1] == 2 * self.channels else found.shape[1]
        found = found[(slice(None), slice(kept), *(slice(n) for n in seen.shape[2:]))]
        if found.shape != seen.shape:
            raise BadInput(
                f"{type(self.module).__name__} returns {tuple(found.shape)} for images {tuple(seen.shape)} (batch, channel, *image): "
                "expected the same shape; sizes that it cannot take are padded by multiple=8 (or as many as it halves)"
            )
        return found.to(seen.dtype)

    def error(self, sigma: Tensor) -> Tensor:
        return super().error(sigma) if self._curve is None else self._curve(sigma)

    def workspace(self, n_images: int, n_pixels: int) -> int:
        return min(n_images, self.images_at_once) * n_pixels * self.pixel_bytes

    def extra_repr(self) -> str:
        return f"{self.domain_name}, {self.field}, sigma {self.sigma_range}"


def from_deepinverse(
    denoiser: nn.Module,
    sigma_range: tuple[float, float],
    *,
    field: str = "real",
    channels: int | None = None,
    gain: float | None = None,
    offset: float | None = None,
    image_axes: int = 2,
    data_std: float = TYPICAL_STD,
    error_curve: Sequence[Sequence[float]] = (),
    domain_name: str = "any",
) -> FromModule:
    """A denoiser of DeepInverse (deepinv.models), called denoiser(x, sigma) with x in [0, 1].

    `sigma_range`: the noise levels that it was trained for, in the units of its own images. Parts of complex images lie in
    [-1, 1]: by default they are halved and shifted into [0, 1]. Other settings as in `FromModule`.
    """
    shrink = 0.5 if field == "complex" else 1.0
    return FromModule(
        denoiser,
        predicts="clean",
        noising=VarianceExploding(*sigma_range),
        field=field,
        channels=channels,
        gain=shrink if gain is None else gain,
        offset=1 - shrink if offset is None else offset,
        image_axes=image_axes,
        data_std=data_std,
        error_curve=error_curve,
        domain_name=domain_name,
    )
