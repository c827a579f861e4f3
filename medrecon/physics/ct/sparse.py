"""The projector of few views as a stored matrix, with its transpose: as quick as memory, and shared by a whole batch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import NotSupported
from medrecon.physics.ct.footprint_cpu import Footprint2D
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.joseph_cpu import Joseph2D

LARGEST = 1 << 31
"""Bytes of the matrix and its transpose."""


class Stored2D:
    """`model` "joseph" or "sf"; the same weights as `Joseph2D` and `Footprint2D`. Tensors of any device that multiplies sparse matrices.

    Raises `NotSupported` where the matrix would be larger than `LARGEST`.
    """

    def __init__(self, geometry: Geometry, pixels: Pixels, model: str) -> None:
        self.geometry, self.pixels = geometry, pixels
        self.rows = Joseph2D(geometry, pixels) if model == "joseph" else Footprint2D(geometry, pixels)
        self._stored: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, image: Tensor) -> Tensor:
        return self._product(image, 0, self.geometry.shape)

    def adjoint(self, projections: Tensor) -> Tensor:
        return self._product(projections, 1, self.pixels.shape)

    def _product(self, x: Tensor, which: int, tail: tuple[int, ...]) -> Tensor:
        matrix = self._matrices(x)[which]
        return (matrix @ x.reshape(len(x), -1).T.contiguous()).T.reshape(-1, *tail)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        key = like.dtype, like.device
        if key not in self._stored:
            from scipy.sparse import csr_matrix

            kind = np.dtype(np.float64 if like.dtype == torch.float64 else np.float32)
            place = np.zeros(self.geometry.shape, np.int64)
            self.rows.list_entries(place, np.empty(0, np.int32), np.empty(0, kind), False)
            first = np.concatenate([[0], np.cumsum(place)])
            size = first[-1] * 2 * (kind.itemsize + 4)
            if size > LARGEST:
                raise NotSupported(f"the matrix of {self.geometry!r} would take {size / 2**30:.1f} GiB: take impl numba, or fewer views")
            columns, values = np.empty(first[-1], np.int32), np.empty(first[-1], kind)
            self.rows.list_entries(first[:-1].reshape(self.geometry.shape).copy(), columns, values, True)
            shape = math.prod(self.geometry.shape), math.prod(self.pixels.shape)
            turned = csr_matrix((values, columns, first), shape=shape).tocsc()
            made = _csr(first, columns, values, shape), _csr(turned.indptr, turned.indices, turned.data, shape[::-1])
            self._stored[key] = made[0].to(like.device), made[1].to(like.device)
        return self._stored[key]


def _csr(first: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")
        starts, indices = (torch.from_numpy(a.astype(np.int32)) for a in (first, columns))
        return torch.sparse_csr_tensor(starts, indices, torch.from_numpy(values), shape, check_invariants=False)
