"""Non-local means: pixels are averaged over patches that look alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.handcrafted.base import Curves, Handcrafted, level_like
from medrecon.prior.wrapped import refuse_gradient


class NonLocalMeans(Handcrafted):
    """Weighted means over pixels whose surroundings look alike, exp(-max(d^2 - 2 sigma^2, 0) / h^2), d^2 the mean squared
    difference of two patches: a biased point estimate (Buades, Coll and Morel 2005 and 2011; scikit-image's fast variant).

    Patches of `patch` pixels a side within `distance` pixels; h = `cutoff` sigma, 0.8 as scikit-image advises where sigma is
    known. Real and imaginary parts are two channels that share one distance. Borders are mirrored.

    It runs on the CPU in float64, image by image on as many threads as torch has: images on another device are copied there
    and back. It cannot be differentiated and says so.
    """

    summary: ClassVar[str] = "Non-local means: averages over patches that look alike (Buades et al. 2005), on the CPU, without gradient."
    curves: ClassVar[Curves] = {
        "real": ((0.01, 6.5e-05), (0.03, 0.000565), (0.1, 0.00555), (0.3, 0.0341), (1.0, 0.145), (3.0, 0.354), (10.0, 1.4), (20.0, 4.76)),
        "complex": (
            (0.01, 7.62e-05),
            (0.03, 0.000659),
            (0.1, 0.00624),
            (0.3, 0.0384),
            (1.0, 0.164),
            (3.0, 0.339),
            (10.0, 1.09),
            (20.0, 3.48),
        ),
    }

    def __init__(self, *, patch: int = 5, distance: int = 6, cutoff: float = 0.8, field: str = "complex", data_std: float = 0.3) -> None:
        super().__init__(field=field, data_std=data_std)
        if patch < 1 or patch % 2 == 0 or distance < 1 or not cutoff > 0:
            raise BadInput(f"patch = {patch}, distance = {distance}, cutoff = {cutoff}: expected an odd number and positive ones")
        self.patch, self.distance, self.cutoff = patch, distance, cutoff

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        refuse_gradient(noisy, "non-local means")
        lead = noisy.shape[:-2]
        levels = level_like(noisy, sigma)
        each = levels.reshape(levels.shape[: max(0, levels.ndim - 2)]).expand(lead).reshape(-1).tolist()
        planes = torch.view_as_real(noisy.detach().resolve_conj()) if noisy.is_complex() else noisy.detach().unsqueeze(-1)
        images = planes.reshape(-1, *planes.shape[-3:]).to("cpu", torch.float64).numpy()
        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(images)))) as pool:
            denoised = list(pool.map(self._image, images, each))
        result = torch.from_numpy(np.stack(denoised)).to(planes).reshape(planes.shape)
        return torch.view_as_complex(result) if noisy.is_complex() else result.squeeze(-1)

    def workspace(self, n_images: int, n_pixels: int) -> int:
        # In double precision: all images going in and coming out, and for each thread padded image, sums and weights.
        return 8 * n_pixels * (4 * n_images + 10 * min(n_images, torch.get_num_threads()))

    def _image(self, image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
        """(y, x, channel)."""
        from skimage.restoration import denoise_nl_means

        if sigma == 0:
            return image
        found: NDArray[np.float64] = denoise_nl_means(
            image,
            patch_size=self.patch,
            patch_distance=self.distance,
            h=self.cutoff * sigma,
            sigma=sigma,
            fast_mode=True,
            preserve_range=True,
            channel_axis=-1,
        )
        return found
