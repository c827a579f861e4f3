"""Projections of a volume in HU: by a model and a grid that no reconstruction uses, with the noise of its dose.

Data made from images look better than measured ones; results on them are labelled `simulated`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.errors import BadInput, nearest
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, ParallelBeam2D, even_angles
from medrecon.physics.ct.counts import low_dose_counts
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.scan import WATER, CTScan
from medrecon.tensors import generator_for
from medrecon.volume import Volume

BEAMS = ("parallel", "fan", "cone")

FINER = 2
"""The object is projected on a grid so many times finer, so that no reconstruction is given its own pixels back."""

DSO, DSD = 595.0, 1085.6
"""mm: source to axis and to detector of a clinical scanner; larger objects move both away."""

CLEARANCE = 1.6
"""The source stands at least so many radii of the object from the axis."""


def beam(volume: Volume, kind: str = "parallel", *, views: int = 360, arc: float | None = None, bins: int | None = None) -> Geometry:
    """A usual geometry that sees a whole volume: "parallel", "fan" (curved detector) or "cone" (flat detector).

    `views` evenly over `arc` rad (default: half a turn for parallel rays, a turn else). `bins`: columns, one for each pixel along
    the diagonal by default.
    """
    if kind not in BEAMS:
        raise BadInput(f"geometry {kind!r}: there are {', '.join(BEAMS)}{nearest(kind, list(BEAMS))}")
    nz, ny, nx = volume.grid.shape
    dz, dy, dx = volume.spacing
    width = math.hypot(ny * dy, nx * dx)
    n = bins if bins is not None else math.ceil(width / min(dy, dx))
    if arc is not None and not 0 < arc <= 2 * math.pi + 1e-9:
        raise BadInput(f"arc = {arc} rad: expected more than 0 and at most a turn")
    if kind == "parallel":
        return ParallelBeam2D(angles=even_angles(views, math.pi if arc is None else arc), n_bins=n, bin_spacing=1.02 * width / n)
    angles = even_angles(views, 2 * math.pi if arc is None else arc)
    dso = max(DSO, CLEARANCE * width / 2)
    dsd = DSD * dso / DSO
    fan = math.asin(width / 2 / dso)
    if kind == "fan":
        return FanBeam2D(angles=angles, n_bins=n, bin_spacing=2.04 * fan * dsd / n, dso=dso, dsd=dsd, detector="curved")
    spacing = 2.04 * math.tan(fan) * dsd / n
    height = nz * dz * dsd / (dso - width / 2)
    rows = math.ceil(height / spacing) + 1
    return ConeBeam(angles=angles, n_bins=n, bin_spacing=spacing, n_rows=rows, row_spacing=spacing, dso=dso, dsd=dsd)


@dataclass(frozen=True)
class SimulatedProjections:
    """(slice, view, bin) or (1, view, row, bin) float32, computed when asked for; the same for the same seed in any order.

    `attenuation` (z, y, x), 1/mm. `photons`: incident quanta; None: line integrals without noise.
    """

    attenuation: Tensor
    spacing: tuple[float, float, float]
    geometry: Geometry
    photons: float | None
    electronic_std: float
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        items = 1 if self.geometry.dimensions == 3 else self.attenuation.shape[0]
        return (items, *self.geometry.shape)

    @cached_property
    def _operator(self) -> CTOperator:
        axes = self.geometry.dimensions
        fine = [FINER * n for n in self.attenuation.shape[-2:]]
        shape, spacing = (*self.attenuation.shape[:-2], *fine), (self.spacing[0], *(s / FINER for s in self.spacing[1:]))
        pixels = Pixels(shape[-axes:], spacing[-axes:])
        return CTOperator(self.geometry, pixels.shape, pixels.spacing, model="sf" if axes == 2 else "joseph")

    def __getitem__(self, index: slice) -> Tensor:
        items = range(*index.indices(self.shape[0]))
        if not items:
            return torch.zeros((0, *self.shape[1:]))
        return torch.stack([self._item(i) for i in items])

    def _item(self, i: int) -> Tensor:
        planes = self.attenuation if self.geometry.dimensions == 3 else self.attenuation[i : i + 1]
        fine = F.interpolate(planes[:, None], scale_factor=FINER, mode="bilinear", align_corners=False)[:, 0]
        line_integrals = self._operator(fine if self.geometry.dimensions == 3 else fine[0])
        if self.photons is None:
            return line_integrals
        generator = generator_for(self.seed, "quanta", i)
        return low_dose_counts(line_integrals, self.photons, self.electronic_std, generator)


def simulate(
    volume: Volume,
    geometry: Geometry | None = None,
    *,
    photons: float | None = 1e5,
    electronic_std: float = 0.0,
    water: float = WATER,
    seed: int = 0,
    slices: slice | None = None,
) -> CTScan:
    """The scan of a CT volume (z, y, x) in HU, its axis of rotation through the middle of the image along z.

    `geometry`: see `beam` (default: parallel, 360 views). `photons`: incident quanta per ray, Poisson distributed, with
    `electronic_std` quanta of electronic noise: the scan then holds counts; None: line integrals without noise. `water`: its
    attenuation, 1/mm. Separable footprints on a grid twice as fine as the image's (rays in three dimensions).
    Raises `BadInput` for images that are not in HU.
    """
    if photons is not None and not 0 < photons < math.inf:
        raise BadInput(f"photons = {photons}: expected a positive number of quanta per ray, None for data without noise")
    if not 0 <= electronic_std < math.inf:
        raise BadInput(f"electronic_std = {electronic_std}: expected 0 or a positive number of quanta")
    geometry = beam(volume) if geometry is None else geometry
    projections = SimulatedProjections(_attenuation(volume, water), volume.spacing, geometry, photons, electronic_std, seed)
    radius = Pixels(volume.grid.shape[1:], volume.spacing[1:]).radius
    header: dict[str, Any] = {"format": "simulated", "photons": photons, "electronic_std": electronic_std, "seed": seed}
    if geometry.fov_radius() < 0.99 * radius / math.sqrt(2):
        header["warnings"] = [f"the field of view ({geometry.fov_radius():.4g} mm) is smaller than the image ({radius:.4g} mm): truncated"]
    scan = CTScan(
        grid=volume.grid,
        header=header,
        study=volume.facts,
        simulated=True,
        projections=projections,
        geometry=geometry,
        stored="line integrals" if photons is None else "counts",
        photons=None if photons is None else torch.tensor(float(photons)),
        water=water,
    )
    return scan if slices is None else scan.select(slices)


def _attenuation(volume: Volume, water: float) -> Tensor:
    """1/mm, float32 (z, y, x); checked to be HU."""
    image = volume.image.detach().cpu()
    if image.is_complex() or image.ndim != 3:
        raise BadInput(f"projections are simulated from one real volume (z, y, x) in HU, got {tuple(image.shape)} {image.dtype}")
    image = image.float()
    if not bool(torch.isfinite(image).all()):
        raise BadInput("the image holds NaN or infinite values: replace them before simulating")
    if volume.units != "HU" and not float(image.min()) < -500:
        raise BadInput(f"the image is in {volume.units!r} and nowhere below -500, so it is not HU: give a CT image")
    return water * (1 + image.clamp(min=-1000) / 1000)
