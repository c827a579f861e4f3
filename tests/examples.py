"""One list of operators on which every law is run (tests/test_laws.py). A new operator is one more line.

`make(dtype)` builds the operator for arguments of that dtype, with own tensors in its precision. `real`: it takes real
images as well as complex ones. Sizes are small, odd and not square on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.linop.basic import Diagonal, Identity, Mask
from medrecon.linop.difference import Cosine, Difference, Gradient
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import random
from medrecon.linop.lowrank import Series, Subspace
from medrecon.linop.operator import LinearOperator
from medrecon.linop.resample import Enlarge
from medrecon.linop.stack import BlockDiagonal, HStack, Total, VStack
from medrecon.linop.wavelet import Wavelet
from medrecon.physics.ct import CTOperator, FanBeam2D, ParallelBeam2D, even_angles
from medrecon.physics.mri.sense import sense
from medrecon.solvers.krylov import shifted

Make = Callable[[torch.dtype], LinearOperator]


@dataclass(frozen=True)
class Example:
    name: str
    make: Make
    real: bool = False


def mask(*shape: int) -> Tensor:
    """About half of the positions."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5


def positive(*shape: int) -> Tensor:
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def weights(dtype: torch.dtype, *shape: int) -> Tensor:
    return random(shape, dtype, "weights")


PARALLEL = ParallelBeam2D(angles=even_angles(7), n_bins=11, bin_spacing=1.3, offset=0.4)
FAN = FanBeam2D(angles=even_angles(6, 6.28), n_bins=12, bin_spacing=2.0, dso=40.0, dsd=70.0, detector="curved")


OPERATORS = [
    Example("identity", lambda dtype: Identity((5, 3)), real=True),
    Example("diagonal", lambda dtype: Diagonal(weights(dtype, 7, 6)), real=True),
    Example("diagonal, broadcast", lambda dtype: Diagonal(weights(dtype, 6), (7, 6)), real=True),
    Example("diagonal, own batch", lambda dtype: Diagonal(weights(dtype, 3, 7, 6), (7, 6)), real=True),
    Example("mask", lambda dtype: Mask(mask(7, 1), (4, 7, 6)), real=True),
    Example("mask, own batch", lambda dtype: Mask(mask(3, 1, 7, 1), (4, 7, 6)), real=True),
    Example("fourier, odd", lambda dtype: Fourier((7, 5))),
    Example("fourier, 31 x 24 of 2 coils", lambda dtype: Fourier((2, 31, 24), (-2, -1))),
    Example("fourier, one axis", lambda dtype: Fourier((4, 5, 6), (-2,))),
    Example("fourier, inverse", lambda dtype: Fourier((5, 6)).H),
    Example("single coil", lambda dtype: Mask(mask(9, 1), (9, 8)) @ Fourier((9, 8))),
    Example("product", lambda dtype: Diagonal(weights(dtype, 7, 6)) @ Fourier((7, 6)) @ Diagonal(weights(dtype, 6), (7, 6))),
    Example("multiple", lambda dtype: (0.3 - 2j) * Fourier((5, 6))),
    Example("multiple, own batch", lambda dtype: positive(3, 1, 1) * Diagonal(weights(dtype, 5, 6)), real=True),
    Example("negative", lambda dtype: -Gradient((5, 6)), real=True),
    Example("sum", lambda dtype: Diagonal(weights(dtype, 5, 6)) + Identity((5, 6)), real=True),
    Example("difference", lambda dtype: Fourier((5, 6)) - Identity((5, 6))),
    Example("total", lambda dtype: Total([Identity((4, 3)), Diagonal(weights(dtype, 4, 3)), Identity((4, 3))]), real=True),
    Example("shifted", lambda dtype: shifted(Gradient((5, 6)).normal, positive(2, 1, 1)), real=True),
    Example("stack", lambda dtype: VStack([Gradient((5, 6)), Diagonal(weights(dtype, 3, 5, 6), (5, 6))]), real=True),
    Example("side by side", lambda dtype: HStack([Gradient((5, 6)), Identity((2, 5, 6))]), real=True),
    Example("blocks", lambda dtype: BlockDiagonal([Gradient((5, 6)), Fourier((3, 2))])),
    Example("series, maps of each slice", lambda dtype: Series(sense(weights(dtype, 2, 3, 7, 6), mask(7)), 2)),
    Example("gradient", lambda dtype: Gradient((7, 6)), real=True),
    Example("gradient, 3-D, two axes, mm", lambda dtype: Gradient((3, 5, 4), (-3, -1), (2.0, 0.7)), real=True),
    Example("gradient, length 1 and 2", lambda dtype: Gradient((1, 2)), real=True),
    Example("laplacian", lambda dtype: Gradient((7, 6), spacing=(1.5, 1.0)).normal, real=True),
    Example("enlarge, odd from even", lambda dtype: Enlarge((4, 3), (7, 6)), real=True),
    Example("difference along z, mm", lambda dtype: Difference((5, 3, 4), -3, 2.5), real=True),
    Example("difference along x, two pixels", lambda dtype: Difference((3, 2), -1), real=True),
    Example("cosine", lambda dtype: Cosine((3, 5, 4), -2), real=True),
    Example("series", lambda dtype: Series(Gradient((5, 6)), 3), real=True),
    Example("series, mask of each frame", lambda dtype: Series(Mask(mask(4, 7, 1), (7, 6)) @ Fourier((7, 6)), 4)),
    Example("subspace", lambda dtype: Subspace(torch.linalg.qr(weights(dtype, 7, 3)).Q, (5, 6)), real=True),
    Example("subspace of each item", lambda dtype: Subspace(torch.linalg.qr(weights(dtype, 2, 7, 3)).Q, (5,)), real=True),
    Example("wavelet db1", lambda dtype: Wavelet((8, 12), "db1", 2), real=True),
    Example("wavelet db2, odd", lambda dtype: Wavelet((9, 14), "db2", 3), real=True),
    Example("wavelet db3, 3-D", lambda dtype: Wavelet((4, 6, 7), "db3", 2), real=True),
    Example("wavelet db4, shorter than the filter", lambda dtype: Wavelet((3, 5), "db4", 4), real=True),
    Example("wavelet db2, one axis", lambda dtype: Wavelet((5, 16), "db2", 2, axes=(-1,)), real=True),
    Example("sense, lines, odd", lambda dtype: sense(weights(dtype, 3, 7, 6), mask(7))),
    Example("sense, lines, 31 x 24", lambda dtype: sense(weights(dtype, 5, 31, 24), mask(31, 1))),
    Example("sense, one coil", lambda dtype: sense(weights(dtype, 1, 8, 9), mask(8))),
    Example("sense, one coil of ones", lambda dtype: sense(torch.ones(1, 8, 9, dtype=dtype), mask(8))),
    Example("sense, 2-D mask", lambda dtype: sense(weights(dtype, 3, 7, 6), mask(7, 6))),
    Example("sense, fully sampled", lambda dtype: sense(weights(dtype, 2, 5, 6), torch.ones(1, 1, dtype=torch.bool))),
    Example("sense, weights instead of a mask", lambda dtype: sense(weights(dtype, 3, 7, 6), positive(7, 1) * mask(7, 1))),
    Example("sense, 3-D", lambda dtype: sense(weights(dtype, 2, 3, 5, 4), mask(3, 5, 1))),
    Example("sense, 3-D, one varying axis", lambda dtype: sense(weights(dtype, 2, 3, 5, 4), mask(1, 5, 1))),
    Example("sense, 3-D, soft", lambda dtype: sense(weights(dtype, 2, 3, 2, 3, 4), mask(2, 3, 1), sets=True)),
    Example("sense, maps of several slices", lambda dtype: sense(weights(dtype, 2, 3, 7, 6), mask(7))),
    Example("sense, mask of each slice", lambda dtype: sense(weights(dtype, 2, 3, 7, 6), mask(2, 7, 1), image_axes=2)),
    Example("sense, one map, mask of each frame", lambda dtype: sense(weights(dtype, 3, 7, 6), mask(4, 7, 6), image_axes=2)),
    Example("sense, soft", lambda dtype: sense(weights(dtype, 2, 3, 7, 6), mask(7), sets=True)),
    Example("sense, soft, slices, 2-D mask", lambda dtype: sense(weights(dtype, 2, 2, 3, 7, 6), mask(7, 6), sets=True)),
    Example("sense, hybrid", lambda dtype: sense(weights(dtype, 3, 7, 6), mask(7), axes=(-2,))),
    Example("sense, exact columns", lambda dtype: sense(weights(dtype, 3, 7, 6), mask(7), exact=True)),
    Example("sense, exact columns of slices", lambda dtype: sense(weights(dtype, 2, 3, 6, 5), mask(2, 6, 1), image_axes=2, exact=True)),
    Example("sense, dark columns", lambda dtype: sense(weights(dtype, 3, 7, 6) * (positive(6) > 0.9), mask(7))),
    Example("ct, parallel", lambda dtype: CTOperator(PARALLEL, (7, 10), (1.5, 1.1)), real=True),
    Example("ct, parallel, footprints", lambda dtype: CTOperator(PARALLEL, (7, 10), (1.5, 1.1), model="sf"), real=True),
    Example("ct, curved fan, off centre", lambda dtype: CTOperator(FAN, (9, 8), (1.5, 1.5), centre=(2.0, -1.0)), real=True),
    Example("ct, curved fan, footprints", lambda dtype: CTOperator(FAN, (9, 8), (1.5, 1.5), model="sf"), real=True),
    Example("ct, curved fan, stored", lambda dtype: CTOperator(FAN, (9, 8), (1.5, 1.5), impl="csr"), real=True),
    Example("ct, curved fan, in torch", lambda dtype: CTOperator(FAN, (9, 8), (1.5, 1.5), impl="torch"), real=True),
]
