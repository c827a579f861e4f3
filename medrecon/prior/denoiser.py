"""Prior: a denoiser of images, and the estimate that samplers work with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from medrecon.prior.units import RELATIVE, Units
from medrecon.tensors import Draw


@dataclass(frozen=True)
class Estimate:
    """What a sampler needs of one noisy image: `clean` and `noise`, (*batch, *image) each.

    The next state is clean + lower (sqrt(1 - eta^2) noise + eta draw(clean)), from these two alone.
    """

    clean: Tensor
    noise: Tensor


class Prior(nn.Module, ABC):
    """Knows plausible images through denoising. Images (*batch, *image) are native complex where `field` says so.

    `sigma` is 0-dim or (*batch, 1, ..., 1), per real component, in the prior's units.
    """

    field: str = "real"
    """"real" or "complex"."""
    sigma_range: tuple[float, float] = (0.0, float("inf"))
    """Noise levels that it was trained for."""
    data_std: float = 1.0
    """Root mean square of its images, per real component."""
    image_axes: int = 2
    """How many trailing axes make one image."""
    domain_name: str = "any"
    """What it has seen: "brain", "ct", ... ("any": closed-form or handcrafted)."""
    units: Units = RELATIVE
    """How its images map to physical values."""
    remembers: bool = False
    """Whether `estimate` depends on earlier calls (duals, caches): then a sampler may call it only once along its path."""
    item_levels: bool = True
    """Whether `estimate` takes another noise level for every image, as `denoise` does."""

    @abstractmethod
    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x + sigma n = noisy]."""

    def error(self, sigma: Tensor) -> Tensor:
        """r^2: mean squared error of `denoise` per real component.

        By default that of a white Gaussian of `data_std`, which no better denoiser of such images exceeds.
        """
        c = self.data_std**2
        return c * sigma**2 / (c + sigma**2)

    def estimate(self, noisy: Tensor, sigma: Tensor, lower: Tensor, draw: Draw) -> Estimate:
        """The clean image and the noise in `noisy`; consistency steps override this."""
        clean = self.denoise(noisy, sigma)
        return Estimate(clean, (noisy - clean) / sigma)

    def stiffness(self, sigma: Tensor) -> Tensor | float:
        """How many times steeper than 1 / sigma^2 the score -noise / sigma of `estimate` may be, 0-dim or (*batch, 1, ..., 1).

        Langevin steps are that much shorter. A data step that adds a likelihood's gradient to the score says more than 1.
        """
        return 1.0

    def scale(self, calib_lines: int | None) -> float:
        """kappa: how bright tissue is in a low-resolution image from `calib_lines` centre lines (`tensors.bright_level`), in units of
        the prior, over the training images. Data are divided by that brightness / kappa."""
        return 1.0

    def workspace(self, n_images: int, n_pixels: int) -> int:
        """Bytes that `denoise` takes for so many images at once, beside a few copies of them."""
        return 0
