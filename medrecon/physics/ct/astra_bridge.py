"""Geometries and arrays of the ASTRA Toolbox, and its projectors of the plane as a backend.

Its vectors are ours. What differs: the third axis of data in space, (row, view, bin) instead of (view, row, bin); y of volumes, which
grows with the index there; and the circle of a curved detector, there a radius, here about a point (van Aarle et al., Opt. Express 24
(2016) 25129; from version 2.4 on for curved detectors). Lengths are mm on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput, MissingExtra, NotSupported, nearest
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, ParallelBeam2D, ParallelBeam3D
from medrecon.physics.ct.geometry import Array, Geometry, VectorGeometry
from medrecon.physics.ct.grid import Pixels

KINDS = {"parallel2d": "parallel_vec", "fan2d": "fanflat_vec", "parallel3d": "parallel3d_vec", "cone3d": "cone_vec"}
"""Our kinds and ASTRA's types."""

CYLINDER = "cyl_cone_vec"

MODELS = {"joseph": "linear", "linear": "linear", "sf": "strip", "strip": "strip", "line": "line"}
"""Names of a model, ours and ASTRA's, and ASTRA's projector for parallel rays."""


def to_astra(geometry: Geometry, pixels: Pixels) -> tuple[dict[str, Any], dict[str, Any]]:
    """ASTRA's projection and volume geometry, the dictionaries of its `create_proj_geom` and `create_vol_geom`.

    Raises `NotSupported` for a curved detector in the plane.
    """
    kind, vectors = KINDS[geometry.kind], geometry.vectors()
    if geometry.curved:
        if geometry.dimensions == 2:
            raise NotSupported("ASTRA has no curved detector in the plane: make it a ConeBeam of one row and a volume of one slice")
        focus = geometry.focus()
        radius = np.linalg.norm(vectors[:, 3:6] - vectors[:, :3], axis=1, keepdims=True)
        source = vectors[:, :3] if focus is None else focus
        kind, vectors = CYLINDER, np.concatenate([source, vectors[:, 3:], radius], 1)
    if geometry.rows is None:
        projection = {"type": kind, "DetectorCount": geometry.n_bins, "Vectors": vectors}
    else:
        projection = {"type": kind, "DetectorRowCount": geometry.rows, "DetectorColCount": geometry.n_bins, "Vectors": vectors}
    volume: dict[str, Any] = {f"Grid{name}Count": n for name, n in zip(("Col", "Row", "Slice"), pixels.shape[::-1], strict=False)}
    volume["option"] = {}
    for axis, n, spacing, centre in zip("XYZ", pixels.shape[::-1], pixels.spacing[::-1], pixels.centre[::-1], strict=False):
        volume["option"][f"WindowMin{axis}"] = centre - n * spacing / 2
        volume["option"][f"WindowMax{axis}"] = centre + n * spacing / 2
    return projection, volume


def from_astra(projection: Mapping[str, Any]) -> Geometry:
    """The geometry of one of ASTRA's projection geometries; raises `BadInput` for an unknown type or a missing entry."""
    kind = str(projection.get("type"))
    types: dict[str, Any] = {
        "parallel": _parallel,
        "fanflat": _fan,
        "parallel3d": _parallel3d,
        "cone": _cone,
        CYLINDER: _cylinder,
        **dict.fromkeys(KINDS.values(), _vectors),
    }
    if kind not in types:
        raise BadInput(f"ASTRA geometry of type {kind!r}: expected {', '.join(types)}{nearest(kind, list(types))}")
    try:
        found: Geometry = types[kind](projection)
    except KeyError as error:
        raise BadInput(f"ASTRA geometry {kind}: {error} is missing") from error
    return found


def pixels_from_astra(volume: Mapping[str, Any]) -> Pixels:
    """The pixels of one of ASTRA's volume geometries; without a window they are 1 mm and centred, as there."""
    names = [name for name in ("Slice", "Row", "Col") if f"Grid{name}Count" in volume]
    shape = tuple(int(volume[f"Grid{name}Count"]) for name in names)
    window = volume.get("option", {})
    ends = [
        (window.get(f"WindowMin{axis}", -n / 2), window.get(f"WindowMax{axis}", n / 2))
        for axis, n in zip("ZYX"[3 - len(shape) :], shape, strict=True)
    ]
    spacing = tuple((high - low) / n for (low, high), n in zip(ends, shape, strict=True))
    return Pixels(shape, spacing, tuple((low + high) / 2 for low, high in ends))


def rows_first(projections: Tensor) -> Tensor:
    """Projections in space (..., view, row, bin) in ASTRA's order (..., row, view, bin), and back."""
    return projections.transpose(-3, -2)


def rows_turned(volume: Tensor) -> Tensor:
    """A volume (..., z, y, x) with the y of ASTRA, and back. Images of the plane need none."""
    return volume.flip(-2)


class AstraProjector:
    """ASTRA's projector on the CPU, in the plane, flat detectors, float32: `model` "joseph" (its linear), "sf" (strip) or "line".

    Its adjoint is the exact transpose. Raises `NotSupported` where ASTRA has no such kernel, `MissingExtra` without it.
    """

    def __init__(self, geometry: Geometry, pixels: Pixels, model: str) -> None:
        try:
            import astra
        except ImportError as error:
            raise MissingExtra("the ASTRA backend needs ASTRA: pip install astra-toolbox") from error
        if model not in MODELS:
            raise BadInput(f"model {model!r}: ASTRA has {', '.join(MODELS)}{nearest(model, list(MODELS))}")
        if geometry.dimensions != 2:
            raise NotSupported("ASTRA projects volumes on a GPU alone, with an adjoint that is no transpose: use model joseph without it")
        projection, volume = to_astra(geometry, pixels)
        kernel = MODELS[model]
        if not geometry.parallel:
            if kernel == "linear":
                raise NotSupported("ASTRA has no linear kernel for fans: model line or sf")
            if kernel == "strip":
                projection = _centred_fan(geometry)
            kernel += "_fanflat"
        self.shapes = {"image": pixels.shape, "projections": geometry.shape}
        self._astra, self._id = astra, astra.create_projector(kernel, projection, volume)

    def forward(self, image: Tensor) -> Tensor:
        return self._each(image, self._astra.create_sino, self._astra.data2d, self.shapes["projections"])

    def adjoint(self, projections: Tensor) -> Tensor:
        return self._each(projections, self._astra.create_backprojection, self._astra.data2d, self.shapes["image"])

    def _each(self, batch: Tensor, create: Any, data: Any, shape: tuple[int, ...]) -> Tensor:
        found = torch.empty(len(batch), *shape, dtype=torch.float32)
        for one, into in zip(batch.detach().to("cpu", torch.float32), found, strict=True):
            number, result = create(one.contiguous().numpy(), self._id)
            into.copy_(torch.from_numpy(result))
            data.delete(number)
        return found.to(batch.device, batch.dtype)

    def __del__(self) -> None:
        if hasattr(self, "_id"):
            self._astra.projector.delete(self._id)


def _centred_fan(geometry: Geometry) -> dict[str, Any]:
    if not isinstance(geometry, FanBeam2D) or geometry.offset or geometry.axis_shift:
        raise NotSupported("ASTRA's strip kernel for fans takes a centred FanBeam2D alone: model line, or sf without ASTRA")
    return {
        "type": "fanflat",
        "DetectorWidth": geometry.bin_spacing,
        "DetectorCount": geometry.n_bins,
        "ProjectionAngles": geometry.angles,
        "DistanceOriginSource": geometry.dso,
        "DistanceOriginDetector": geometry.dsd - geometry.dso,
    }


def _parallel(found: Mapping[str, Any]) -> Geometry:
    return ParallelBeam2D(angles=found["ProjectionAngles"], n_bins=int(found["DetectorCount"]), bin_spacing=float(found["DetectorWidth"]))


def _fan(found: Mapping[str, Any]) -> Geometry:
    return FanBeam2D(
        angles=found["ProjectionAngles"],
        n_bins=int(found["DetectorCount"]),
        bin_spacing=float(found["DetectorWidth"]),
        **_distances(found),
    )


def _parallel3d(found: Mapping[str, Any]) -> Geometry:
    return ParallelBeam3D(angles=found["ProjectionAngles"], **_detector(found))


def _cone(found: Mapping[str, Any]) -> Geometry:
    return ConeBeam(angles=found["ProjectionAngles"], **_detector(found), **_distances(found))


def _detector(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n_bins": int(found["DetectorColCount"]),
        "bin_spacing": float(found["DetectorSpacingX"]),
        "n_rows": int(found["DetectorRowCount"]),
        "row_spacing": float(found["DetectorSpacingY"]),
    }


def _distances(found: Mapping[str, Any]) -> dict[str, Any]:
    """ASTRA counts the detector from the axis."""
    source = float(found["DistanceOriginSource"])
    return {"dso": source, "dsd": source + float(found["DistanceOriginDetector"])}


def _vectors(found: Mapping[str, Any]) -> Geometry:
    kind = next(ours for ours, theirs in KINDS.items() if theirs == found["type"])
    if kind.endswith("2d"):
        return VectorGeometry(kind_of=kind, rows_of_vectors=found["Vectors"], n_bins=int(found["DetectorCount"]))
    n_bins, n_rows = int(found["DetectorColCount"]), int(found["DetectorRowCount"])
    return VectorGeometry(kind_of=kind, rows_of_vectors=found["Vectors"], n_bins=n_bins, n_rows=n_rows)


def _cylinder(found: Mapping[str, Any]) -> Geometry:
    vectors = np.asarray(found["Vectors"], np.float64)
    source, centre, u, v, radius = vectors[:, :3], vectors[:, 3:6], vectors[:, 6:9], vectors[:, 9:12], vectors[:, 12:]
    outward = np.cross(u, v)
    outward *= np.sign((outward * (centre - source)).sum(1, keepdims=True)) / np.linalg.norm(outward, axis=1, keepdims=True)
    middle: Array = centre - radius * outward
    return VectorGeometry(
        kind_of="cone3d",
        rows_of_vectors=np.concatenate([middle, vectors[:, 3:12]], 1),
        n_bins=int(found["DetectorColCount"]),
        n_rows=int(found["DetectorRowCount"]),
        curved_detector=True,
        foci=None if np.allclose(middle, source, rtol=0, atol=1e-9) else source,
    )
