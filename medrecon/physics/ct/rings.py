"""Rings: gain errors of single bins, constant over the views, taken out of line integrals.

What stands still in a sinogram is a ring in the image. So is the edge of a disc within a bin of the axis of rotation: it is
blurred a little, which no method can tell apart. Line integrals are (*batch, view, bin), or (*batch, view, row, bin) with
`view_axis` = -3; dtype and device follow.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput, NotSupported
from medrecon.linop.wavelet import Wavelet

LEAST_VIEWS = 90
"""With fewer, the object itself stands still for too many of them."""

WIDTH = 20.0
"""Bins: slower changes of the gain look like the object."""


def without_rings(line_integrals: Tensor, *, width: float = WIDTH, view_axis: int = -2) -> Tensor:
    """Line integrals less an offset for each bin.

    The offset's second difference along the bins is the median over the views of that of the data, where edges of the object
    pass by and leave no trace; its waves longer than `width` bins, at half their height there, are left out:
    argmin_g |D g - median(D p)|^2 + (2 pi / width)^4 |g|^2. Raises `NotSupported` for fewer than 90 views.
    """
    x = _sinograms(line_integrals, view_axis)
    n = x.shape[-1]
    if n < 3:
        return line_integrals
    curvature = _median(x.to(torch.float64).diff(n=2, dim=-1))
    D = torch.eye(n, dtype=torch.float64, device=x.device).diff(n=2, dim=0)
    normal = D.mT @ D + (2 * math.pi / width) ** 4 * torch.eye(n, dtype=torch.float64, device=x.device)
    offset = torch.linalg.solve(normal, D.mT @ curvature.unsqueeze(-1)).squeeze(-1)
    return line_integrals - offset.unsqueeze(-2).movedim(-2, view_axis).to(line_integrals.dtype)


def without_rings_by_wavelets(
    line_integrals: Tensor, *, levels: int = 3, damping: float = 1.0, wavelet: str = "db4", view_axis: int = -2
) -> Tensor:
    """Line integrals whose details across the bins have lost the frequencies |k| < about `damping` over the views, at every level.

    Takes out rings whose strength changes slowly with the view too, and more of the object than `without_rings`
    (Muench et al., Opt. Express 17:8567 (2009), eq. 8). Raises `NotSupported` for fewer than 90 views.
    """
    x = _sinograms(line_integrals, view_axis)
    (n_views, n_bins), block = x.shape[-2:], 2**levels
    around = 2 * block  # bins; the transform is periodic
    sides = (around, around + -n_bins % block, 0, -n_views % block)
    padded = F.pad(x.reshape(-1, 1, n_views, n_bins), sides, mode="replicate").squeeze(1)
    transform = Wavelet(padded.shape[-2:], wavelet, levels)
    parts = transform(padded)
    blocks = transform.blocks()
    for (_, wide), (high, narrow) in itertools.pairwise(blocks):
        standing = parts[..., :high, narrow:wide]  # smooth along the views, details across the bins
        frequency = torch.fft.rfftfreq(high, 1 / high, dtype=x.dtype, device=x.device)
        kept = -torch.expm1(-frequency.square() / (2 * damping**2))
        standing.copy_(torch.fft.irfft(torch.fft.rfft(standing, dim=-2) * kept[:, None], high, dim=-2))
    cleaned = transform.adjoint(parts)[..., :n_views, around : around + n_bins]
    return cleaned.reshape(x.shape).movedim(-2, view_axis)


def _sinograms(line_integrals: Tensor, view_axis: int) -> Tensor:
    """(*batch, view, bin), checked."""
    n_views = line_integrals.shape[view_axis]
    if n_views < LEAST_VIEWS:
        raise NotSupported(f"rings in {n_views} views look like the object: expected at least {LEAST_VIEWS}; leave them (rings=false)")
    if not bool(torch.isfinite(line_integrals).all()):
        raise BadInput("rings: NaN or infinite line integrals; repair them first (bad_bins)")
    return line_integrals.movedim(view_axis, -2)


def _median(x: Tensor) -> Tensor:
    """Over the views, the mean of both middle values for even numbers."""
    return (x.median(-2).values - (-x).median(-2).values) / 2
