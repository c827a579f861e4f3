"""Scanner geometries of CT: where source, rays and detector bins are, in mm and rad.

Frame: x to the right, y up, z along the axis of rotation. The source of view angle b (counter-clockwise) stands at
dso (sin b, -cos b); parallel rays run along (sin b, -cos b); columns of the detector count along (cos b, sin b), so that bin 0
of a parallel view at angle 0 is at -x. Every geometry lowers to one row of vectors a view, with the numbers and the order
of ASTRA's vector geometries:

    parallel2d             rx ry  dx dy  ux uy
    fan2d                  sx sy  dx dy  ux uy
    parallel3d             rx ry rz  dx dy dz  ux uy uz  vx vy vz
    cone3d                 sx sy sz  dx dy dz  ux uy uz  vx vy vz

r: direction of the rays, s: source, d: centre of the detector, u, v: steps to the next column and row. Bin k of K has its
centre at d + (k - (K - 1) / 2) u. On a curved detector, a circle (cylinder) about the source, u is tangent at the centre and
|u| the arc of a bin.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medrecon.errors import BadInput, nearest

Array = NDArray[np.float64]

LARGEST = 2e4
"""mm; a detector or a distance beyond it is given in another unit."""

COLUMNS = {"parallel2d": 6, "fan2d": 6, "parallel3d": 12, "cone3d": 12}
"""Numbers in a row of vectors."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Geometry(ABC):
    """`n_bins`: columns of the detector."""

    n_bins: int

    @property
    @abstractmethod
    def kind(self) -> str:
        """ "parallel2d", "fan2d", "parallel3d" or "cone3d"."""

    @property
    @abstractmethod
    def n_views(self) -> int: ...

    @abstractmethod
    def vectors(self) -> Array:
        """(view, 6 or 12), see the module."""

    @abstractmethod
    def subset(self, views: ArrayLike | slice) -> Geometry:
        """The geometry of some views: indices, a mask or a slice."""

    @property
    def rows(self) -> int | None:
        """Rows of the detector; None in two dimensions."""
        return None

    @property
    def curved(self) -> bool:
        """Whether the detector is a circle (cylinder) about the source."""
        return False

    @property
    def dimensions(self) -> int:
        """Of space: 2 or 3."""
        return 3 if self.kind.endswith("3d") else 2

    @property
    def parallel(self) -> bool:
        """Whether all rays of a view have one direction."""
        return self.kind.startswith("parallel")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the projections: (view, bin) or (view, row, bin)."""
        return (self.n_views, self.n_bins) if self.rows is None else (self.n_views, self.rows, self.n_bins)

    def focus(self) -> Array | None:
        """(view, 3): where the source really is, if not at the centre of the curved detector (flying focal spot)."""
        return None

    def fov_radius(self) -> float:
        """mm: the disc about the axis that every view sees whole."""
        vectors, size = self.vectors(), self.dimensions
        source, centre, u = (vectors[:, i * size : i * size + 2] for i in range(3))
        pitch = np.linalg.norm(vectors[:, 2 * size : 3 * size], axis=1)
        if self.parallel:
            ends = [np.abs(_cross(source, centre + side * self.n_bins / 2 * u)) / np.linalg.norm(source, axis=1) for side in (-1, 1)]
        elif self.curved:
            distance = np.linalg.norm(vectors[:, size : 2 * size] - vectors[:, :size], axis=1)
            out = centre - source
            middle = np.arctan2(_cross(source, out), -(source * out).sum(1))
            half = self.n_bins / 2 * pitch / distance
            ends = [np.linalg.norm(source, axis=1) * np.sin(np.clip(np.abs(middle + side * half), 0, np.pi / 2)) for side in (-1, 1)]
        else:
            rays = [centre + side * self.n_bins / 2 * u - source for side in (-1, 1)]
            ends = [np.abs(_cross(source, ray)) / np.linalg.norm(ray, axis=1) for ray in rays]
        return float(np.minimum(*ends).min())

    def to_dict(self) -> dict[str, Any]:
        """The geometry as JSON knows it; doubles survive."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"geometry": type(self).__name__, **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()}}

    @property
    def digest(self) -> str:
        """The same for geometries that are the same."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' x '.join(map(str, self.shape))})"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class VectorGeometry(Geometry):
    """Any trajectory: `kind_of` and `rows_of_vectors` (view, 6 or 12) as the module says. `foci`: see `focus`."""

    kind_of: str
    rows_of_vectors: Array
    n_rows: int | None = None
    curved_detector: bool = False
    foci: Array | None = None

    def __post_init__(self) -> None:
        if self.kind_of not in COLUMNS:
            raise BadInput(f"kind_of = {self.kind_of!r}: expected {', '.join(COLUMNS)}{nearest(self.kind_of, list(COLUMNS))}")
        vectors = np.array(self.rows_of_vectors, np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != COLUMNS[self.kind_of] or not len(vectors) or not np.isfinite(vectors).all():
            raise BadInput(f"vectors of {self.kind_of}: expected finite (view, {COLUMNS[self.kind_of]}), got {vectors.shape}")
        if np.abs(vectors).max() > LARGEST:
            raise BadInput(f"vectors reach {np.abs(vectors).max():.3g} mm: lengths are millimetres")
        object.__setattr__(self, "rows_of_vectors", vectors)
        whole("n_bins", self.n_bins)
        if (self.n_rows is None) == self.kind_of.endswith("3d"):
            raise BadInput(f"n_rows = {self.n_rows}: a number in three dimensions, None in two ({self.kind_of})")
        if self.curved_detector and self.kind_of.startswith("parallel"):
            raise BadInput("a curved detector needs a source: not with parallel rays")
        if self.foci is not None:
            foci = np.array(self.foci, np.float64)
            if foci.shape != (len(vectors), 3) or self.kind_of != "cone3d":
                raise BadInput(f"foci: expected (view, 3) for cone3d, got {foci.shape} for {self.kind_of}")
            object.__setattr__(self, "foci", foci)

    @property
    def kind(self) -> str:
        return self.kind_of

    @property
    def n_views(self) -> int:
        return len(self.rows_of_vectors)

    @property
    def rows(self) -> int | None:
        return self.n_rows

    @property
    def curved(self) -> bool:
        return self.curved_detector

    def vectors(self) -> Array:
        return self.rows_of_vectors

    def focus(self) -> Array | None:
        return self.foci

    def subset(self, views: ArrayLike | slice) -> Geometry:
        index = views if isinstance(views, slice) else np.asarray(views)
        return replace(self, rows_of_vectors=self.rows_of_vectors[index], foci=None if self.foci is None else self.foci[index])


def _cross(a: Array, b: Array) -> Array:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def whole(name: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise BadInput(f"{name} = {n!r}: expected a whole number of at least 1")
    return int(n)


def millimetres(name: str, value: float) -> None:
    if not np.isfinite(value) or abs(value) > LARGEST:
        raise BadInput(f"{name} = {value}: expected a finite number of millimetres")


def length(name: str, value: float, extent: float) -> None:
    if not np.isfinite(value) or value <= 0:
        raise BadInput(f"{name} = {value}: expected a positive number of millimetres")
    if extent > LARGEST:
        raise BadInput(f"{name} = {value:g} mm makes {extent / 1000:.4g} m: lengths are millimetres, is this another unit?")
