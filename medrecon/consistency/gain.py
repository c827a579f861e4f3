"""How strongly data see an image: the norm of the operator, which sets step lengths."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norms


class Gain:
    """|A| of a likelihood, (*batch, 1, ..., 1): once where A is linear, else of its linearisation at the image given.

    Data are in units of their noise, so 1 / gain is the smallest noise of the data seen in the image.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    def __call__(self, image: Tensor) -> Tensor:
        if isinstance(self.likelihood, Gaussian):
            return self._fixed
        return norms(self.likelihood.linearised(image).A, steps=10, margin=1.02, like=image)

    @cached_property
    def _fixed(self) -> Tensor:
        assert isinstance(self.likelihood, Gaussian)
        return norms(self.likelihood.A, margin=1.02, like=self.likelihood.back)
