"""From a CT scan to inverse problems: correct, take the logarithm, find axis and noise, weigh, scale; streamed by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from medrecon.compute import chunk_length, memory_budget
from medrecon.errors import BadInput, nearest
from medrecon.linop.operator import Scaled
from medrecon.physics.ct.direct import quick, taken_out
from medrecon.physics.ct.frame import pixels_of, resized
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.project import CTOperator
from medrecon.physics.ct.readings import Read, Readings, ray_noise
from medrecon.physics.ct.scan import CTScan
from medrecon.physics.ct.truncation import truncated
from medrecon.physics.scan import Problem, itself
from medrecon.solvers.likelihood import Gaussian, Likelihood, weighted
from medrecon.solvers.norm import norm
from medrecon.solvers.poisson import Poisson, Transmission
from medrecon.tensors import bright_level
from medrecon.volume import Grid

LAWS = ("gaussian", "poisson")

MODEL_ERROR = 1.5e-3
"""0.13 to 0.2 % rms on 256 x 256 slices of patients, Joseph's rays against footprints on a grid twice as fine, most of it at edges and
nearly the same for thick and thin rays."""

STORED_BYTES, MOST_STORED = 16, 1 << 29
"""Of an entry of the projector's matrix and its transpose; and of both together, at most."""

IMAGES = 14
"""Copies of an image that a solver or sampler holds at once."""

PROJECTIONS = 8
"""Copies of the projections: data, weights, residuals and the projector's own."""


@dataclass(frozen=True)
class Linear:
    """physical = gain x + offset; `physical` False: no scale of its own."""

    gain: float = 2000.0
    offset: float = -1000.0
    physical: bool = True


@dataclass(frozen=True)
class Preparation:
    """Settings of `CTScan.problems` and of `--set`.

    `noise_std`: of a line integral without object; None: from the photons, else estimated from neighbouring bins.
    `photons`: incident quanta per ray, where the file does not say; `electronic_std`: electronic noise, quanta. `weighted`: every ray by
    its own noise; None: where it is known that readings are counts. `law`: "gaussian", or "poisson" for readings that are quanta
    (few of them: the logarithm is biased below about 50). `model_error`: what pixels and rays leave out, a share of the
    line integrals' root mean square; it counts as noise of every ray. `background`: scattered or random quanta. `centre`: bin of the
    axis of rotation, from 0, or "find"; None: the file's, found where the file does not know. `rings`: remove gain errors of single bins.
    `repair`: interpolate dead bins. `hardening`: coefficients c_1, c_2, ... of the water correction c_1 p + c_2 p^2 + ... `matrix`,
    `pixel` (mm): size of the square image. `model`: of the projector. `nan`: "error" or "zero" (not measured).
    `units`: the prior's, `physical` = gain x + offset. `copies`: images per slice that the method holds, for the memory estimate.
    """

    noise_std: float | None = None
    photons: float | None = None
    electronic_std: float = 0.0
    weighted: bool | None = None
    law: str = "gaussian"
    model_error: float = MODEL_ERROR
    background: float = 0.0
    centre: float | str | None = None
    rings: bool = False
    repair: bool = True
    hardening: tuple[float, ...] = ()
    matrix: int | None = None
    pixel: float | None = None
    model: str = "joseph"
    nan: str = "error"
    units: Any = Linear()
    copies: int = 1
    look: Callable[[int, int], None] | None = None

    @classmethod
    def named(cls) -> list[str]:
        """Names that a user may set."""
        return [f.name for f in fields(cls) if f.name not in ("units", "copies", "look")]


@dataclass(frozen=True)
class _Found:
    """What holds for all slices."""

    scan: CTScan
    grid: Grid
    readings: Readings
    operator: CTOperator
    per_x: float
    scale: float
    shift: float
    noise_std: float
    model_std: float
    gain: float
    facts: dict[str, Any]


def item_bytes(domain: tuple[int, ...], projections: tuple[int, ...], copies: int) -> int:
    """Memory that one image takes with its projections, float32."""
    return 4 * ((IMAGES * copies + 2) * math.prod(domain) + PROJECTIONS * (copies + 1) * math.prod(projections))


def prepared(scan: CTScan, budget: int | None, device: torch.device, **settings: Any) -> Iterator[Problem]:
    """The problems of a scan, one batch of slices after the other; all share scale and noise."""
    known = [f.name for f in fields(Preparation)]
    for name in settings:
        if name not in known:
            raise BadInput(f"CT preparation has no setting {name!r}{nearest(name, known)}")
    plan = _checked(Preparation(**settings))
    found = _survey(scan, plan)
    scan, pixels = found.scan, pixels_of(found.grid, found.scan)
    # On the CPU that of the survey, whose matrix is made already.
    operator = found.operator if device.type == "cpu" else _operator(scan, pixels, plan.model, device)
    limit = memory_budget(device) if budget is None else budget
    length = chunk_length(item_bytes(pixels.shape, scan.geometry.shape, plan.copies), limit, scan.n_items)
    for start in range(0, scan.n_items, length):
        stop = min(start + length, scan.n_items)
        likelihood, warnings = _likelihood(found, plan, operator, start, stop, device)
        if plan.look is not None:
            plan.look(stop, scan.n_items)
        slices = range(found.grid.shape[0]) if scan.image_axes == 3 else range(start, stop)
        yield Problem(
            likelihood=likelihood,
            grid=found.grid.crop((slices.start, 0, 0), (len(slices), *found.grid.shape[1:])),
            scale=found.scale,
            noise_std=found.noise_std,
            slices=slices,
            facts={**found.facts, "warnings": [*found.facts["warnings"], *warnings]},
            display=_Shift(found.shift / found.scale),
            arrange=_one_volume if scan.image_axes == 3 else itself,
            study=scan.study,
            gain=found.gain,
            begin=None if scan.stored == "emission" else _Begin(likelihood),
            whole=found.grid,
            units=found.facts["image_units"],
            modality="CT" if found.facts["image_units"] == "HU" else "PT" if scan.stored == "emission" else "OT",
        )


def _operator(scan: CTScan, pixels: Pixels, model: str, device: torch.device) -> CTOperator:
    """The projector; of few views as a stored matrix, since solvers and samplers apply it hundreds of times to a batch."""
    entries = 2 * math.prod(scan.geometry.shape) * max(pixels.shape)
    stored = len(pixels.shape) == 2 and device.type == "cpu" and entries * STORED_BYTES <= MOST_STORED
    impl = "csr" if stored else "auto"
    return CTOperator(scan.geometry, pixels.shape, pixels.spacing, centre=pixels.centre, model=model, impl=impl)


@dataclass(frozen=True)
class _Shift:
    """x + amount: with the scale, prior units to HU."""

    amount: float

    def __call__(self, image: Tensor) -> Tensor:
        return image + self.amount if self.amount else image


@dataclass(frozen=True)
class _Begin:
    """The image that the analytic method of the geometry makes, in prior units, nothing below air."""

    likelihood: Likelihood

    def __call__(self) -> Tensor:
        operator, factor, line_integrals = taken_out(self.likelihood)
        return (quick(operator, line_integrals) / factor).clamp(min=0)


def _one_volume(image: Tensor) -> Tensor:
    return image.squeeze(-4)


def _checked(plan: Preparation) -> Preparation:
    for name in ("model_error", "background", "electronic_std"):
        if isinstance(getattr(plan, name), (bool, str)) or not 0 <= getattr(plan, name) < math.inf:
            raise BadInput(f"{name} = {getattr(plan, name)!r}: expected 0 or a positive number")
    for name in ("noise_std", "photons", "pixel"):
        value = getattr(plan, name)
        if value is not None and (isinstance(value, (bool, str)) or not 0 <= value < math.inf or (name != "noise_std" and value == 0)):
            raise BadInput(f"{name} = {value!r}: expected a positive number")
    if plan.matrix is not None and (isinstance(plan.matrix, bool) or not isinstance(plan.matrix, int) or not 1 <= plan.matrix <= 8192):
        raise BadInput(f"matrix = {plan.matrix!r}: expected a whole number of pixels")
    if plan.law not in LAWS:
        raise BadInput(f"law = {plan.law!r}: expected gaussian or poisson{nearest(plan.law, list(LAWS))}")
    if plan.nan not in ("error", "zero"):
        raise BadInput(f"nan = {plan.nan!r}: expected error or zero")
    if isinstance(plan.centre, str) and plan.centre != "find":
        raise BadInput(f"centre = {plan.centre!r}: expected a bin number or find")
    hardening = (plan.hardening,) if isinstance(plan.hardening, (int, float)) else tuple(plan.hardening)
    return replace(plan, hardening=hardening)


def _survey(scan: CTScan, plan: Preparation) -> _Found:
    """Axis, noise and brightness from the middle slice, the same whichever slices are solved."""
    middle = scan.n_items // 2
    readings = Readings(scan, plan.photons, plan.electronic_std, plan.repair, plan.rings, plan.nan, plan.hardening)
    looked = readings(middle, middle + 1)
    warnings = [*scan.header.get("warnings", ()), *looked.warnings]
    cut = float(truncated(looked.line_integrals).double().mean()) if scan.stored != "emission" else 0.0
    if cut > 0:
        warnings.append(
            f"the object leaves the field of view in {cut:.0%} of the views: the image is too bright near the cut, HU are not right"
        )
    scan, axis = _centred(scan, plan, looked.line_integrals[0])
    readings = replace(readings, scan=scan)
    grid = resized(scan.grid, plan.matrix, plan.pixel)
    pixels = pixels_of(grid, scan)
    if scan.stored != "emission" and pixels.radius < 0.5 * scan.geometry.fov_radius():
        warnings.append("the image is much smaller than the field of view: what lies outside of it disturbs the image")
    operator = _operator(scan, pixels, plan.model, torch.device("cpu"))
    per_x, units, more = _units(scan, plan, operator, looked.line_integrals)
    scale, shift = (1000 * per_x / scan.water, -1000.0) if units == "HU" else (per_x, 0.0)
    noise_std, source = _noise(scan, plan, looked)
    facts: dict[str, Any] = {
        "noise_std": noise_std,
        "noise_source": source,
        "scale": scale,
        "projections": list(scan.geometry.shape),
        "geometry": repr(scan.geometry),
        "axis_bin": axis[0],
        "axis_source": axis[1],
        "image_units": units,
        "shown": list(grid.shape),
        "simulated": scan.simulated,
        "warnings": [*warnings, *more],
        **looked.facts,
    }
    model_std = plan.model_error * float(looked.line_integrals.square().mean().sqrt())
    variance = noise_std**2 / _weights(looked, scan, plan) + model_std**2
    gain = norm(Scaled(operator, per_x), 10) * (float(variance.reciprocal().mean().sqrt()) if noise_std else 1.0)
    return _Found(scan, grid, readings, operator, per_x, scale, shift, noise_std, model_std, gain, facts)


def _centred(scan: CTScan, plan: Preparation, sinogram: Tensor) -> tuple[CTScan, tuple[float | None, str]]:
    """The scan with its axis of rotation in place; the bin and who says so."""
    geometry, middle = scan.geometry, (scan.geometry.n_bins - 1) / 2
    wanted = plan.centre if plan.centre is not None or scan.header.get("rotation_centre") != "unknown" else "find"
    if wanted is None:
        own = getattr(geometry, "offset", None)
        return scan, (None if own is None else round(middle - own / geometry.bin_spacing, 3), "file")  # type: ignore[attr-defined]
    if not hasattr(geometry, "offset"):
        raise BadInput(f"centre: {type(geometry).__name__} has its axis in its vectors")
    if wanted == "find":
        from medrecon.physics.ct.rotation import axis_of

        wanted, source = axis_of(sinogram, geometry).bin, "found"
    else:
        wanted, source = float(wanted), "given"
    if not -geometry.n_bins < wanted < 2 * geometry.n_bins:
        raise BadInput(f"centre = {wanted}: the detector has bins 0 to {geometry.n_bins - 1}")
    moved = replace(geometry, offset=(middle - wanted) * geometry.bin_spacing)  # type: ignore[attr-defined, call-arg]
    return replace(scan, geometry=moved), (round(wanted, 3), source)


def _units(scan: CTScan, plan: Preparation, operator: CTOperator, line_integrals: Tensor) -> tuple[float, str, list[str]]:
    """(attenuation of x = 1, unit of the image, warnings)."""
    sized, physical = scan.sized and scan.stored != "emission", plan.units.physical
    if sized and physical:
        if abs(plan.units.offset + 1000) > 1e-6:
            raise BadInput(f"a prior whose 0 is {plan.units.offset:g} HU: air must be 0 (offset -1000) for projections to be linear in it")
        return scan.water * plan.units.gain / 1000, "HU", []
    level = float(bright_level(quick(operator, line_integrals).clamp(min=0)))
    if not level > 0:
        raise BadInput("the projections hold no object: their image is zero")
    per_x = level / BRIGHT if physical else level
    if sized:
        return per_x, "HU", []
    told = (
        ["the size of a bin is not known, so there are no HU: the brightest is taken as 0.6"]
        if scan.stored != "emission" and physical
        else []
    )
    return per_x, "arbitrary", told


BRIGHT = 0.6
"""x of the brightest material of an object without HU: between water (0.5) and bone."""


def _is_weighted(scan: CTScan, plan: Preparation) -> bool:
    if plan.weighted is not None:
        return plan.weighted
    return plan.photons is not None or scan.photons is not None or scan.stored in ("counts", "transmission")


def _noise(scan: CTScan, plan: Preparation, looked: Read) -> tuple[float, str]:
    """Noise of a line integral of a ray of weight 1, and where it comes from."""
    if scan.stored == "emission" or plan.law == "poisson":
        return 1.0, "counts"
    if plan.noise_std is not None:
        return float(plan.noise_std), "given"
    if looked.photons is not None and _is_weighted(scan, plan):
        return float(looked.photons.double().mean().rsqrt()), "photons"
    weights = looked.weights if _is_weighted(scan, plan) else None
    return ray_noise(looked.line_integrals, weights), "estimated from neighbouring bins"


def _likelihood(
    found: _Found, plan: Preparation, operator: CTOperator, start: int, stop: int, device: torch.device
) -> tuple[Likelihood, list[str]]:
    scan, A = found.scan, Scaled(operator, found.per_x)
    read = found.readings(start, stop)
    if scan.stored == "emission":
        return Poisson(A, read.line_integrals.to(device), plan.background), read.warnings
    if plan.law == "poisson":
        if read.quanta is None or read.photons is None:
            raise BadInput("law = poisson needs readings that are quanta: give --set photons= for detector units")
        incident = read.photons.expand(read.quanta.shape).to(device)
        return Transmission(A, read.quanta.to(device), incident, plan.background), read.warnings
    y = read.line_integrals.to(device)
    if not found.noise_std:
        return Gaussian(A, y, noisy=False), read.warnings
    variance = found.noise_std**2 / _weights(read, scan, plan).to(device) + found.model_std**2
    return weighted(A, y, 1 / variance), read.warnings


def _weights(read: Read, scan: CTScan, plan: Preparation) -> Tensor:
    """How much more a ray tells than one without object, by its quanta."""
    return read.weights if read.weights is not None and _is_weighted(scan, plan) else torch.ones(())
