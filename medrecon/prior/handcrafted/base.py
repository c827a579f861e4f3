"""What denoisers by formula have in common: both fields, no units, a measured error curve."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.prior.curve import ErrorCurve
from medrecon.prior.denoiser import Prior
from medrecon.tensors import real_dtype

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""For each field, pairs (sigma, r^2) in units of the images' standard deviation and its square."""


class Handcrafted(Prior):
    """D(k x, k sigma) = k D(x, sigma) for every k > 0: no scale of intensity is built in, no anatomy either.

    Real and complex images are denoised alike, whatever `field` says; it tells solvers which kind of image is sought.
    `data_std`: the standard deviation of the images, which only `error` and the range of noise levels depend on.

    `error` was measured (benchmarks/handcrafted.py) on synthetic images, half of them flat regions, half random fields with the
    spectra of natural images; smoother images come out better, fine texture worse. On slices of MR, CT and ultrasound the error
    was 0.4 to 0.9 of it where sigma is at least a third of the images' standard deviation, and up to 1.7 of it at a hundredth.
    There is no exact curve: these denoisers are no posterior means, and where the noise is weaker than the texture that they
    remove r^2 exceeds sigma^2. Data steps that see the error of their own image are safer (`dds`).
    """

    summary: ClassVar[str]
    """One sentence for lists."""
    curves: ClassVar[Curves]

    def __init__(self, *, field: str = "complex", data_std: float = 0.3) -> None:
        super().__init__()
        if field not in ("real", "complex"):
            raise BadInput(f"field {field!r}: expected real or complex")
        if not data_std > 0:
            raise BadInput(f"data_std = {data_std}: expected a positive number")
        self.field, self.data_std = field, data_std
        self.sigma_range = (1e-3 * data_std, 10 * data_std)
        self._curve = ErrorCurve([(s * data_std, e * data_std**2) for s, e in self.curves[field]])

    @abstractmethod
    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """An estimate of x given noisy = x + sigma n."""

    def error(self, sigma: Tensor) -> Tensor:
        """The measured curve."""
        return self._curve(sigma)


def level_like(noisy: Tensor, sigma: Tensor) -> Tensor:
    """sigma on the device and in the real dtype of the images."""
    return torch.as_tensor(sigma).to(noisy.device, real_dtype(noisy.dtype))
