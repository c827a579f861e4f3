"""Geometries of scanners that turn: parallel beams, fans, cones and helices; see `geometry` for the frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medrecon.errors import BadInput, nearest
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry, length, millimetres, whole

TURNS = 4
"""A circular scan of more turns is one whose angles are degrees."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Rotating(Geometry):
    """Views at `angles` (view,), rad. `offset`: shift of the detector along its columns' direction, mm."""

    angles: Array
    bin_spacing: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        angles = np.array(self.angles, np.float64)
        if angles.ndim != 1 or not angles.size or not np.isfinite(angles).all():
            raise BadInput(f"angles: expected a list of finite numbers, rad, got an array of shape {angles.shape}")
        if self._circular and np.ptp(angles) > TURNS * 2 * np.pi * 1.001:
            raise BadInput(
                f"angles span {np.ptp(angles):.4g} rad, {np.ptp(angles) / (2 * np.pi):.0f} turns: if they are degrees, convert them "
                "(numpy.deg2rad); if they are radians, wrap them (angles % (2 * pi))"
            )
        object.__setattr__(self, "angles", angles)
        whole("n_bins", self.n_bins)
        length("bin_spacing", self.bin_spacing, self.bin_spacing * self.n_bins)
        millimetres("offset", self.offset)

    @property
    def _circular(self) -> bool:
        return True

    @property
    def n_views(self) -> int:
        return len(self.angles)

    def subset(self, views: ArrayLike | slice) -> Geometry:
        index = views if isinstance(views, slice) else np.asarray(views)
        return replace(self, angles=self.angles[index])

    def _axes(self) -> tuple[Array, Array]:
        """Unit vectors (view, 2): from the axis to the source, and along the columns."""
        sin, cos = np.sin(self.angles), np.cos(self.angles)
        return np.stack([sin, -cos], 1), np.stack([cos, sin], 1)

    @property
    def arc(self) -> float:
        """rad from the first view to the last, one step more; of sorted angles."""
        ordered = np.sort(self.angles)
        gaps = np.diff(ordered)
        return float(np.ptp(ordered) + (np.median(gaps) if gaps.size else 0.0))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ParallelBeam2D(_Rotating):
    """Parallel rays in a plane; `bin_spacing` mm. `medrecon.physics.ct.even_angles(n)` are the usual `angles`."""

    @property
    def kind(self) -> str:
        return "parallel2d"

    @property
    def required_arc(self) -> float:
        """rad that every line needs to be seen once."""
        return float(np.pi)

    def vectors(self) -> Array:
        towards, along = self._axes()
        return np.concatenate([towards, self.offset * along, self.bin_spacing * along], 1)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Diverging(_Rotating):
    """`dso`: source to axis, `dsd`: source to detector, mm. `detector`: "flat" or "curved". `axis_shift`: of source and
    detector together, along the columns."""

    dso: float
    dsd: float
    detector: str = "flat"
    axis_shift: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector not in ("flat", "curved"):
            raise BadInput(f"detector = {self.detector!r}: expected flat or curved{nearest(self.detector, ['flat', 'curved'])}")
        length("dso", self.dso, self.dso)
        length("dsd", self.dsd, self.dsd)
        millimetres("axis_shift", self.axis_shift)
        if self.dsd <= self.dso:
            raise BadInput(f"dsd = {self.dsd} mm, dso = {self.dso} mm: dsd is of source and detector, so it is larger")

    @property
    def curved(self) -> bool:
        return self.detector == "curved"

    @property
    def half_fan(self) -> float:
        """rad: the largest angle between a ray and the one through the axis."""
        reach = self.n_bins * self.bin_spacing / 2 + abs(self.offset)
        return float(reach / self.dsd if self.curved else np.arctan(reach / self.dsd))

    @property
    def required_arc(self) -> float:
        """rad that every line needs to be seen once: half a turn and the fan."""
        return float(np.pi + 2 * self.half_fan)

    def _placed(self) -> tuple[Array, Array, Array]:
        """Source, detector centre, unit vector along the columns: (view, 2) each."""
        towards, along = self._axes()
        shift = self.axis_shift * along
        source = self.dso * towards + shift
        if not self.curved:
            return source, (self.dso - self.dsd) * towards + self.offset * along + shift, along
        turn = self.offset / self.dsd
        ray = -np.cos(turn) * towards + np.sin(turn) * along
        return source, source + self.dsd * ray, np.cos(turn) * along + np.sin(turn) * towards


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FanBeam2D(_Diverging):
    """A fan in a plane; `bin_spacing` at the detector, mm (arc length where it is curved)."""

    @property
    def kind(self) -> str:
        return "fan2d"

    def vectors(self) -> Array:
        source, centre, along = self._placed()
        return np.concatenate([source, centre, self.bin_spacing * along], 1)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ParallelBeam3D(_Rotating):
    """Parallel rays and a flat detector of `n_rows`. `row_offset`: of the detector along z, mm. `tilt`: see `ConeBeam`."""

    n_rows: int
    row_spacing: float
    row_offset: float = 0.0
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _rows(self)

    @property
    def kind(self) -> str:
        return "parallel3d"

    @property
    def rows(self) -> int | None:
        return self.n_rows

    @property
    def required_arc(self) -> float:
        """rad that every line needs to be seen once."""
        return float(np.pi)

    def vectors(self) -> Array:
        towards, along = (_flat3(a) for a in self._axes())
        centre = self.offset * along + self.row_offset * _UP
        u, v = _turned(along, -towards, self.tilt)
        return np.concatenate([towards, centre, self.bin_spacing * u, self.row_spacing * v], 1)

    def slices(self) -> ParallelBeam2D:
        """The geometry of one row, where rows are slices: no tilt."""
        return ParallelBeam2D(angles=self.angles, n_bins=self.n_bins, bin_spacing=self.bin_spacing, offset=self.offset)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ConeBeam(_Diverging):
    """A circular cone-beam scan. `row_offset`: of the detector along z; `z`: of source and detector, mm.

    `tilt` (roll, pitch, yaw), rad: of the detector about its normal (columns climb), then its columns' direction (rows lean away
    from the source), then its rows' (columns lean away).
    """

    n_rows: int
    row_spacing: float
    row_offset: float = 0.0
    z: float = 0.0
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _rows(self)
        millimetres("z", self.z)

    @property
    def kind(self) -> str:
        return "cone3d"

    @property
    def rows(self) -> int | None:
        return self.n_rows

    def heights(self) -> Array:
        """(view,): z of the source, mm."""
        return np.full(self.n_views, float(self.z))

    def vectors(self) -> Array:
        source, centre, along = (_flat3(a) for a in self._placed())
        lift = self.heights()[:, None] * _UP
        ray = centre - source
        normal = ray - (ray * along).sum(1, keepdims=True) * along
        u, v = _turned(along, normal / np.linalg.norm(normal, axis=1, keepdims=True), self.tilt)
        return np.concatenate([source + lift, centre + lift + self.row_offset * _UP, self.bin_spacing * u, self.row_spacing * v], 1)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HelicalCone(ConeBeam):
    """A helical scan: `feed` of the table a turn, mm; `z` is that of angle `start` (default: the first view's)."""

    feed: float
    start: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        millimetres("feed", self.feed)
        if self.start is None:
            object.__setattr__(self, "start", float(self.angles[0]))

    @property
    def _circular(self) -> bool:
        return False

    def heights(self) -> Array:
        assert self.start is not None
        return self.z + self.feed * (self.angles - self.start) / (2 * np.pi)

    @property
    def pitch(self) -> float:
        """Feed over the height of the detector seen at the axis."""
        return self.feed / (self.n_rows * self.row_spacing * self.dso / self.dsd)


def _rows(geometry: ParallelBeam3D | ConeBeam) -> None:
    whole("n_rows", geometry.n_rows)
    length("row_spacing", geometry.row_spacing, geometry.row_spacing * geometry.n_rows)
    millimetres("row_offset", geometry.row_offset)
    tilt = tuple(float(t) for t in geometry.tilt)
    if len(tilt) != 3 or not np.isfinite(tilt).all():
        raise BadInput(f"tilt = {geometry.tilt}: expected (roll, pitch, yaw), rad")
    object.__setattr__(geometry, "tilt", tilt)


_UP = np.array([0.0, 0.0, 1.0])


def _flat3(a: Array) -> Array:
    return np.concatenate([a, np.zeros((len(a), 1))], 1)


def _turned(along: Array, normal: Array, tilt: tuple[float, float, float]) -> tuple[Array, Array]:
    """Directions of columns and rows (view, 3) of a detector turned by (roll, pitch, yaw) about its normal, columns and rows."""
    roll, pitch, yaw = tilt
    up = np.broadcast_to(_UP, along.shape)
    c, s = np.cos(roll), np.sin(roll)
    u, v = c * along + s * up, c * up - s * along
    v, normal = np.cos(pitch) * v + np.sin(pitch) * normal, np.cos(pitch) * normal - np.sin(pitch) * v
    return np.cos(yaw) * u + np.sin(yaw) * normal, v


def even_angles(n: int, arc: float = np.pi, start: float = 0.0) -> Array:
    """(n,) rad, `arc` / n apart, the end left out: for parallel rays half a turn, for fans give 2 pi."""
    return start + np.arange(whole("n", n)) * arc / n


GEOMETRIES: dict[str, type[Geometry]] = {
    g.__name__: g for g in (ParallelBeam2D, FanBeam2D, ParallelBeam3D, ConeBeam, HelicalCone, VectorGeometry)
}


def from_dict(found: Mapping[str, Any]) -> Geometry:
    """The geometry of `Geometry.to_dict`; raises `BadInput` where a name or a number is missing or of another kind."""
    name = str(found.get("geometry"))
    if name not in GEOMETRIES:
        raise BadInput(f"geometry {name!r}: there are {', '.join(GEOMETRIES)}{nearest(name, list(GEOMETRIES))}")
    given, known = {k: v for k, v in found.items() if k != "geometry"}, [f.name for f in fields(GEOMETRIES[name])]
    for key in given:
        if key not in known:
            raise BadInput(f"{name} has no {key!r}: there are {', '.join(known)}{nearest(key, known)}")
    try:
        make: Callable[..., Geometry] = GEOMETRIES[name]
        return make(**{k: tuple(v) if k == "tilt" else v for k, v in given.items()})
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name}: {error}") from error
