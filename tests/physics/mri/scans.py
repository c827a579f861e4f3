"""Small scans whose truth is known."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.simulate import simulate, undersample
from medrecon.volume import Grid, Volume

AFFINE = torch.tensor([[-2.0, 0, 0, 30], [0, 0, 3.0, -20], [0, 2.5, 0, 10], [0, 0, 0, 1]], dtype=torch.float64).numpy()


def head(shape: tuple[int, int, int] = (3, 32, 24)) -> Tensor:
    """Ellipses without any symmetry, (z, y, x), about 1."""
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape], indexing="ij")
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1).float()
    image = image - 0.5 * (((x - 0.2) / 0.2) ** 2 + ((y - 0.3) / 0.3) ** 2 < 1).float()
    image = image - 0.3 * (((x + 0.3) / 0.2) ** 2 + ((y + 0.3) / 0.2) ** 2 < 1).float()
    return image * (1 + 0.2 * z)


def lines(n: int, *, every: int = 2, centre: int = 12) -> Tensor:
    """(n, 1): every so many-th line and the centre."""
    mask = torch.zeros(n, 1, dtype=torch.bool)
    mask[::every] = True
    mask[n // 2 - centre // 2 : n // 2 + (centre + 1) // 2] = True
    return mask


def scan(shape: tuple[int, int, int] = (3, 32, 24), *, coils: int = 4, mask: Tensor | None = None, **settings: object) -> MRIScan:
    """Simulated from `head`, undersampled by `mask` where one is given; placed obliquely in the patient."""
    volume = Volume(head(shape), Grid(shape, AFFINE))
    full = simulate(volume, coils=coils, **settings)  # type: ignore[arg-type]
    return full if mask is None else undersample(full, mask)
