"""Ramp filters of filtered backprojection, by their kernel in space, and the filtering of detector rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput, nearest

BUTTERWORTH_ORDER = 4
"""The higher, the steeper about the cutoff, where the window is a half."""


def _parzen(f: Tensor) -> Tensor:
    return torch.where(f <= 0.5, 1 - 6 * f**2 * (1 - f), 2 * (1 - f) ** 3)


WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "cosine": lambda f: torch.cos(math.pi * f / 2),
    "hann": lambda f: 0.5 + 0.5 * torch.cos(math.pi * f),
    "hamming": lambda f: 0.54 + 0.46 * torch.cos(math.pi * f),
    "blackman": lambda f: 0.42 + 0.5 * torch.cos(math.pi * f) + 0.08 * torch.cos(2 * math.pi * f),
    "parzen": _parzen,
    "butterworth": lambda f: 1 / (1 + f ** (2 * BUTTERWORTH_ORDER)),
}
"""Functions of frequency over cutoff. All end at the cutoff but butterworth, which falls through a half there."""


def window_values(window: str, frequency: Tensor, cutoff: float = 1.0) -> Tensor:
    """The window at `frequency` in units of Nyquist's (..., >= 0); `cutoff` in the same, in (0, 1]."""
    if window not in WINDOWS:
        raise BadInput(f"window {window!r}: there are {', '.join(WINDOWS)}{nearest(window, list(WINDOWS))}")
    if not 0 < cutoff <= 1:
        raise BadInput(f"cutoff = {cutoff}: expected a part of the Nyquist frequency, above 0 and at most 1")
    f = frequency / cutoff
    values = WINDOWS[window](f)
    return values if window == "butterworth" else torch.where(f <= 1 + 1e-12, values, torch.zeros_like(values))


def ramp_filter(
    n_bins: int, spacing: float, *, window: str = "ramp", cutoff: float = 1.0, equiangular: bool = False, pad_to: int = 0
) -> Tensor:
    """The windowed ramp at the frequencies of a real FFT, (n // 2 + 1,) float64, 1 / spacing's unit; n is a power of 2 >= 2 `n_bins`.

    The transform of the band-limited kernel h[0] = 1 / 4 s^2, h[odd m] = -1 / (pi m s)^2 rather than |f| itself, whose zero at
    f = 0 would shift all values (Kak and Slaney 1988, section 3.3). `equiangular`: s is an angle and h is multiplied by (m s / sin(m s))^2
    (their section 3.4.1). `pad_to`: at least so many samples.
    """
    n = 1 << max(1, math.ceil(math.log2(max(2 * n_bins, pad_to))))
    lag = torch.arange(n, dtype=torch.float64)
    lag = torch.minimum(lag, n - lag)
    kernel = torch.where(lag % 2 == 1, -1 / (math.pi * lag.clamp(min=1) * spacing) ** 2, torch.zeros_like(lag))
    kernel[0] = 1 / (4 * spacing**2)
    if equiangular:
        # No pair of bins is farther apart than n_bins; beyond, the sine would come back to zero.
        angle = lag.clamp(max=n_bins) * spacing
        kernel = kernel / torch.sinc(angle / math.pi) ** 2
    response = torch.fft.rfft(kernel).real * spacing
    return response * window_values(window, torch.linspace(0, 1, n // 2 + 1, dtype=torch.float64), cutoff)


def filtered(rows: Tensor, response: Tensor, tail: int = 0) -> Tensor:
    """(..., bin) rows filtered by a `ramp_filter`, zeros beyond both ends, or `cosine_tails` of `tail` bins."""
    n_bins, n = rows.shape[-1], 2 * (response.shape[-1] - 1)
    if n < 2 * n_bins + 2 * tail:
        raise BadInput(f"a filter of {n} samples for rows of {n_bins} bins and tails of {tail}: make it with pad_to")
    continued = cosine_tails(rows, tail) if tail else rows
    spectrum = torch.fft.rfft(continued, n) * response.to(rows)
    return torch.fft.irfft(spectrum, n)[..., tail : tail + n_bins]


def cosine_tails(rows: Tensor, n: int) -> Tensor:
    """(..., bin + 2 n): rows that end in the object are continued to zero by half a cosine at both ends.

    Without it the step at the end of a truncated row becomes a bright rim (Ohnesorge et al. 2000, Med. Phys. 27, 39, in its simplest form).
    """
    fall = 0.5 + 0.5 * torch.cos(math.pi * torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
    fall = fall.to(rows)
    return F.pad(rows, (n, n)) + torch.cat([rows[..., :1] * fall.flip(0), torch.zeros_like(rows), rows[..., -1:] * fall], -1)
