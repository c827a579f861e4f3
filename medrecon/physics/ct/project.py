"""Projection of an image, and its transpose: the operator that chooses among the implementations."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medrecon.errors import BadInput, NotSupported, nearest
from medrecon.linop.operator import LinearOperator
from medrecon.physics.ct.geometry import Geometry
from medrecon.physics.ct.grid import Pixels, Projector
from medrecon.tensors import real_dtype

MODELS = ("joseph", "sf")
"""joseph: a ray a bin, linear interpolation. sf: separable footprints, the mean over the bin; in parallel beams the exact area."""

IMPLEMENTATIONS: dict[tuple[str, str, int], tuple[str, ...]] = {
    # (implementation, model, dimensions): module, class, what it takes after geometry and pixels
    ("numba", "joseph", 2): ("joseph_cpu", "Joseph2D"),
    ("numba", "sf", 2): ("footprint_cpu", "Footprint2D"),
    ("numba", "joseph", 3): ("joseph3d_cpu", "Joseph3D"),
    ("csr", "joseph", 2): ("sparse", "Stored2D", "joseph"),
    ("csr", "sf", 2): ("sparse", "Stored2D", "sf"),
    ("torch", "joseph", 2): ("reference", "TorchJoseph"),
    ("torch", "joseph", 3): ("reference", "TorchJoseph"),
    ("triton", "joseph", 2): ("kernels_gpu", "TritonJoseph2D"),
    ("triton", "joseph", 3): ("kernels_gpu", "TritonJoseph3D"),
    ("astra", "joseph", 2): ("astra_bridge", "AstraProjector", "joseph"),
    ("astra", "sf", 2): ("astra_bridge", "AstraProjector", "sf"),
    ("astra", "joseph", 3): ("astra_bridge", "AstraProjector", "joseph"),
}
NAMES = ("numba", "csr", "torch", "triton", "astra")


class CTOperator(LinearOperator):
    """Image (*batch, *shape), 1/mm, to line integrals (*batch, *geometry.shape); the adjoint is the plain transpose.

    `shape` (ny, nx) or (nz, ny, nx); `spacing` and `centre` mm in that order, see `Pixels`. `model`: "joseph" (also "auto") or "sf".
    `impl`: "auto" takes what is fastest for the tensor's device and never changes the model; or "numba", "csr" (a stored matrix, for
    few views), "torch" (any device), "triton", "astra". Complex images are projected as two real ones, half precision is computed in
    single. Raises `BadInput` where image and geometry do not fit, `NotSupported` where a model has no such implementation.
    """

    def __init__(
        self,
        geometry: Geometry,
        shape: tuple[int, ...],
        spacing: tuple[float, ...],
        *,
        centre: tuple[float, ...] = (),
        model: str = "auto",
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.geometry, self.pixels = geometry, Pixels(shape, spacing, centre)
        if len(self.pixels.shape) != geometry.dimensions:
            raise BadInput(
                f"image {self.pixels.shape} has {len(self.pixels.shape)} axes, {geometry!r} is a geometry of {geometry.dimensions}: "
                f"give {'(ny, nx)' if geometry.dimensions == 2 else '(nz, ny, nx)'}; slices are the batch of a geometry in the plane"
            )
        for what, name, known in (("model", model, MODELS), ("impl", impl, NAMES)):
            if name != "auto" and name not in known:
                raise BadInput(f"{what} = {name!r}: expected auto, {', '.join(known)}{nearest(name, known)}")
        self.model = "joseph" if model == "auto" else model
        self.impl = impl
        there = [i for i, m, d in IMPLEMENTATIONS if (m, d) == (self.model, geometry.dimensions)]
        if not there or impl not in ("auto", *there):
            raise NotSupported(
                f"model {self.model!r} in {geometry.dimensions} dimensions has no implementation {impl!r}: "
                f"{'take impl ' + ' or '.join(there) if there else 'take model joseph'}"
            )
        self.domain, self.range = self.pixels.shape, geometry.shape
        self._projectors: dict[str, Projector] = {}

    @property
    def matched(self) -> bool:
        """Whether the adjoint is the transpose of this very matrix; False for ASTRA's GPU kernels."""
        return self.impl != "astra" or bool(getattr(self._projector("astra"), "matched", True))

    def subset(self, views: ArrayLike | slice) -> CTOperator:
        """The operator of some views: indices, a mask or a slice."""
        pixels = self.pixels
        return CTOperator(self.geometry.subset(views), pixels.shape, pixels.spacing, centre=pixels.centre, model=self.model, impl=self.impl)

    def implementation(self, device: torch.device) -> str:
        """What computes for tensors on a device."""
        if self.impl != "auto":
            return self.impl
        there = {i for i, m, d in IMPLEMENTATIONS if (m, d) == (self.model, self.geometry.dimensions)}
        if device.type == "cpu":
            return "numba"
        if device.type == "cuda" and "triton" in there and find_spec("triton"):
            return "triton"
        if "torch" not in there:
            raise NotSupported(f"model {self.model!r} is for the CPU: move the tensor there, or take model joseph")
        return "torch"

    def _forward(self, x: Tensor) -> Tensor:
        return self._computed(x, False)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._computed(y, True)

    def _computed(self, x: Tensor, turned: bool) -> Tensor:
        source, target = (self.range, self.domain) if turned else (self.domain, self.range)
        if x.is_complex():
            parts = self._computed(torch.stack([x.real, x.imag]), turned)
            return torch.complex(parts[0], parts[1])
        if not x.is_floating_point():
            raise BadInput(f"projections are of real or complex numbers, not of {x.dtype}: convert it (x.float())")
        batch = x.shape[: x.ndim - len(source)]
        if 0 in batch:
            return x.new_zeros(*batch, *target)
        kind = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        flat = x.detach().to(kind).reshape(-1, *source)
        projector = self._projector(self.implementation(x.device))
        found = projector.adjoint(flat) if turned else projector.forward(flat)
        return found.reshape(*batch, *target).to(real_dtype(x.dtype))

    def _projector(self, impl: str) -> Projector:
        if impl not in self._projectors:
            module, name, *further = IMPLEMENTATIONS[impl, self.model, self.geometry.dimensions]
            make = getattr(import_module(f"medrecon.physics.ct.{module}"), name)
            self._projectors[impl] = make(self.geometry, self.pixels, *further)
        return self._projectors[impl]
