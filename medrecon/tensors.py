"""Inner products over trailing axes, crop and pad, unit noise, quantiles. Batch axes lead everywhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Draw = Callable[[Tensor], Tensor]
"""draw(x): noise like x with unit variance per real component."""

LEVEL_ROUNDS = 10
"""Level and foreground define each other; they settle in two or three rounds."""


def trailing(axes: int) -> tuple[int, ...]:
    """The last `axes` axes as negative indices."""
    return tuple(range(-axes, 0))


def dot(a: Tensor, b: Tensor, axes: int) -> Tensor:
    """Re<a, b> over the last `axes` axes, kept as axes of length 1, in the real dtype of the input.

    Single-precision sums of more than a million terms are accumulated in float64.
    """
    dims = trailing(axes)
    if a.is_complex() or b.is_complex():
        product = (a.real * b.real).add_(a.imag * b.imag) if a.is_complex() and b.is_complex() else (a.real * b.real)
    else:
        product = a * b
    if product.dtype == torch.float32 and math.prod(product.shape[-axes:]) > 1_000_000:
        return product.sum(dims, keepdim=True, dtype=torch.float64).to(product.dtype)
    return product.sum(dims, keepdim=True)


def norm2(a: Tensor, axes: int) -> Tensor:
    """|a|^2 over the last `axes` axes, kept as axes of length 1."""
    return dot(a, a, axes)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: an item that is done stays still."""
    zero = b == 0
    return torch.where(zero, torch.zeros_like(a), a / torch.where(zero, torch.ones_like(b), b))


def like_batch(value: Tensor, axes: int) -> Tensor:
    """(*batch,) -> (*batch, 1, ..., 1) with `axes` trailing ones."""
    return value.reshape(*value.shape, *[1] * axes)


def _block(x: Tensor, shape: Sequence[int], starts: Sequence[int]) -> Tensor:
    """A view of the trailing block of `shape` that begins at `starts`."""
    for axis, (start, length) in enumerate(zip(starts, shape, strict=True), start=x.ndim - len(shape)):
        x = x.narrow(axis, start, length)
    return x


def centre_crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The block of trailing `shape` whose index m//2 lies on index n//2: Fourier-correct (origin stays origin)."""
    return _block(x, shape, [n // 2 - m // 2 for n, m in zip(x.shape[-len(shape) :], shape, strict=True)])


def fastmri_crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The block of trailing `shape` that starts at (n - m)//2, as fastMRI's targets and metrics do.

    It differs from `centre_crop` when n is even and m odd.
    """
    return _block(x, shape, [(n - m) // 2 for n, m in zip(x.shape[-len(shape) :], shape, strict=True)])


def centre_pad(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Zero-pad the trailing axes to `shape`; the adjoint of `centre_crop`."""
    out = x.new_zeros(*x.shape[: x.ndim - len(shape)], *shape)
    inner = x.shape[-len(shape) :]
    _block(out, inner, [n // 2 - m // 2 for n, m in zip(shape, inner, strict=True)]).copy_(x)
    return out


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for complex64, float64 for complex128; real dtypes are themselves."""
    return {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}.get(dtype, dtype)


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """complex64 for float32, complex128 for float64; complex dtypes are themselves."""
    return {torch.float32: torch.complex64, torch.float64: torch.complex128, torch.float16: torch.complex32}.get(dtype, dtype)


def spatial_frequency(shape: Sequence[int], like: Tensor) -> Tensor:
    """|k| of the coefficients of a Fourier transform (*shape), cycles a pixel, in the real dtype and on the device of `like`."""
    axes = [torch.fft.fftfreq(n, dtype=real_dtype(like.dtype), device=like.device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def unit_noise(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Gaussian noise on the generator's device, unit variance per real component (E|n|^2 = 2 if complex)."""
    real = real_dtype(dtype)
    if not dtype.is_complex:
        return torch.randn(tuple(shape), generator=generator, dtype=real, device=generator.device)
    parts = torch.randn((*shape, 2), generator=generator, dtype=real, device=generator.device)
    return torch.view_as_complex(parts)


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A CPU generator that depends on the seed and the names alone: the same on every device and platform."""
    text = "\x1f".join(map(str, (seed, *names))).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1)


def seeded_draw(seed: int, keys: Sequence[object], lead: Sequence[int], case: object = "") -> Draw:
    """A `Draw` for tensors of shape (*lead, ...), prod(lead) = len(keys): one generator for each leading item.

    Each key (slice and sample, say) owns its stream of noise, so splitting the batch another way changes nothing.
    Noise is made on the CPU and moved, hence equal on every device.
    """
    if math.prod(lead) != len(keys):
        raise ValueError(f"{len(keys)} keys for a batch of {tuple(lead)}")
    generators = [generator_for(seed, case, *(key if isinstance(key, tuple) else (key,))) for key in keys]

    def draw(x: Tensor) -> Tensor:
        if tuple(x.shape[: len(lead)]) != tuple(lead):
            raise ValueError(f"noise for leading axes {tuple(lead)} was asked for a tensor of {tuple(x.shape)}")
        parts = (2,) if x.is_complex() else ()
        noise = torch.empty(len(keys), *x.shape[len(lead) :], *parts, dtype=real_dtype(x.dtype))
        _fill(noise, generators)
        shaped = noise.reshape(*x.shape, *parts).to(x.device)
        return torch.view_as_complex(shaped) if parts else shaped

    return draw


def _fill(noise: Tensor, generators: Sequence[torch.Generator]) -> None:
    """Unit noise in place, one generator for each leading item; many numbers are made by as many threads as torch has."""
    threads = min(torch.get_num_threads(), len(generators))
    if threads > 1 and noise.numel() > 1_000_000:
        # The generators are independent, so who fills what cannot change a number; the interpreter is free meanwhile.
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda pair: pair[0].normal_(generator=pair[1]), zip(noise, generators, strict=True)):
                pass
        return
    for item, generator in zip(noise, generators, strict=True):
        item.normal_(generator=generator)


def quantile(x: Tensor, q: float) -> Tensor:
    """The q-quantile of all values (nearest rank below); unlike torch.quantile it takes any number of them."""
    flat = x.flatten()
    if flat.numel() == 0:
        raise ValueError("quantile of nothing")
    rank = min(flat.numel(), max(1, math.ceil(q * flat.numel())))
    return flat.kthvalue(rank).values


def bright_level(magnitude: Tensor) -> Tensor:
    """The brightness of bright tissue: the 99th percentile of the foreground, which is what is brighter than a tenth of it.

    Unlike a percentile of all values it does not depend on how much empty background the image has, and unlike a maximum it does not follow
    single bright values. For images half filled it is about the 99.5th percentile of all. Zero where there is no image.
    """
    level = quantile(magnitude, 0.995)
    for _ in range(LEVEL_ROUNDS):
        foreground = magnitude[magnitude > level / 10]
        if foreground.numel() == 0:
            break
        last, level = level, quantile(foreground, 0.99)
        if bool(level == last):
            break
    return level
