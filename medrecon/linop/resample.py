"""Images on a finer grid by Fourier interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft, ifft
from medrecon.linop.operator import LinearOperator
from medrecon.tensors import centre_crop, centre_pad, trailing


class Enlarge(LinearOperator):
    """(*batch, *small) -> (*batch, *large): the same field of view on more pixels, values kept (a constant stays itself).

    The spectrum is padded with zeros; of a real image's result the real part is taken.
    """

    def __init__(self, small: Sequence[int], large: Sequence[int]) -> None:
        super().__init__()
        self.domain, self.range = tuple(small), tuple(large)
        if len(self.domain) != len(self.range) or any(a > b for a, b in zip(self.domain, self.range, strict=True)):
            raise BadInput(f"Enlarge: from {self.domain} to {self.range}: expected as many axes and no fewer pixels on each")
        self.gain = math.sqrt(math.prod(self.range) / math.prod(self.domain))

    def _forward(self, x: Tensor) -> Tensor:
        axes = trailing(len(self.domain))
        large = self.gain * ifft(centre_pad(fft(x, axes), self.range), axes)
        return large if x.is_complex() else large.real

    def _adjoint(self, y: Tensor) -> Tensor:
        axes = trailing(len(self.domain))
        small = self.gain * ifft(centre_crop(fft(y, axes), self.domain), axes)
        return small if y.is_complex() else small.real
