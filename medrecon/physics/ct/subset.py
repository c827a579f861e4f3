"""Some of the views of a scan, still unread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.ct.frame import pixels_of
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.scan import SliceArray


def subsampled(scan: CTScan, views: ArrayLike | slice) -> CTScan:
    """The scan with some of its views: indices, a mask or a slice; the image stays in its place."""
    index = np.arange(scan.geometry.n_views)[views if isinstance(views, slice) else np.asarray(views)]
    if not index.size:
        raise BadInput("no view is left: choose others")
    header = {**scan.header, "views": f"{index.size} of {scan.geometry.n_views}"}
    photons = scan.photons
    if photons is not None and photons.ndim == len(scan.geometry.shape) and photons.shape[0] > 1:
        photons = photons[index]
    height = pixels_of(scan.grid, scan).centre[0] if scan.image_axes == 3 else None
    return replace(
        scan,
        geometry=scan.geometry.subset(index),
        projections=SomeViews(scan.projections, index),
        photons=photons,
        header=header,
        height=height,
    )


@runtime_checkable
class ByView(Protocol):
    """Projections of one volume that lie in their file view by view."""

    def chosen(self, views: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class SomeViews:
    """Another array with a part of its views; of files that hold view by view no others are read."""

    whole: SliceArray
    views: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0], len(self.views), *self.whole.shape[2:])

    def __getitem__(self, index: slice) -> Tensor:
        if isinstance(self.whole, ByView):
            return self.whole.chosen(self.views.tolist())[index]
        return self.whole[index][:, self.views]
