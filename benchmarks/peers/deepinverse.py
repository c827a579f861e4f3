"""DeepInverse's samplers as it ships them, on what they assume: images in [0, 1], levels that the prior was trained for.

Every function here takes a case of `samplers.py` and gives complex images in its units; `GRIDS` are the settings to choose from.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from samplers import NOISE, Case
from torch import Tensor, nn

from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels


def deepinverse() -> ModuleType | None:
    """DeepInverse, or None where it is not installed.

    It imports torchvision, whose compiled operators exist only for the torch that they were built with; none of them is used
    here. Where they are missing, empty ones are registered, so that the import goes through.
    """
    if importlib.util.find_spec("deepinv") is None:
        return None
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms", "roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
            library.define(f"{name}(Tensor a) -> Tensor")
        deepinverse.kept = library  # type: ignore[attr-defined]  # operators live as long as their library
    import deepinv

    return deepinv  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Units:
    """How DeepInverse sees images: x = slope u + offset, u with a real and an imaginary channel (batch, 2, y, x)."""

    slope: float
    offset: complex = 0

    def channels(self, x: Tensor) -> Tensor:
        return torch.view_as_real((x - self.offset) / self.slope).movedim(-1, 1).contiguous()

    def complex(self, u: Tensor) -> Tensor:
        return torch.view_as_complex(u.float().movedim(1, -1).contiguous()) * self.slope + self.offset


def within_one(reach: float) -> Units:
    """[-reach, reach] becomes [0, 1]; 1 is the 99.5th percentile of the magnitude."""
    return Units(2 * reach, -reach * (1 + 1j))


class Denoiser(nn.Module):
    """The prior as DeepInverse calls it; counts its calls."""

    def __init__(self, prior: Prior, units: Units) -> None:
        super().__init__()
        self.prior, self.units, self.calls = prior, units, 0

    def forward(self, u: Tensor, sigma: Tensor | float, *args: object, **kwargs: object) -> Tensor:
        self.calls += 1
        level = torch.as_tensor(sigma, dtype=torch.float32).flatten()[0] * self.units.slope
        low, high = self.prior.sigma_range
        shrink = (high / level).clamp(max=1.0)  # as much noise as the prior knows; the image drowns in it either way
        noisy = self.units.complex(u) * shrink
        return self.units.channels(self.prior.denoise(noisy, (level * shrink).clamp(min=low)))


@dataclass(frozen=True)
class Result:
    """Images (batch, y, x) and how often the denoiser was called for them."""

    images: Tensor
    calls: int


def physics(di: ModuleType, case: Case, units: Units) -> tuple[Any, Tensor]:
    """DeepInverse's operator, which equals ours (`compare_operators`), and the data in its units."""
    mask = case.A.left.mask.float()  # type: ignore[attr-defined]
    operator = di.physics.MRI(mask=mask, noise_model=di.physics.GaussianNoise(NOISE / units.slope))
    shift = case.A(torch.full_like(case.y, units.offset))
    return operator, Units(units.slope).channels(case.y - shift)


def compare_operators(di: ModuleType, case: Case) -> None:
    """Raises unless DeepInverse's operator and its adjoint equal ours."""
    plain = Units(1.0)
    operator, _ = physics(di, case, plain)
    for theirs, same in ((operator.A, case.A), (operator.A_adjoint, case.A.adjoint)):
        torch.testing.assert_close(plain.complex(theirs(plain.channels(case.y))), same(case.y))


def their_ddrm(di: ModuleType, prior: Prior, case: Case, steps: int, seed: int, levels: str = "linear", eta: float = 0.85) -> Result:
    """DDRM. Its noise has half the variance that it tells the denoiser (randn / sqrt(2) in each channel); that is left as it is."""
    units = Units(1.0)
    sigmas = np.linspace(1, 0, steps) if levels == "linear" else edm_levels(steps, prior.sigma_range[1], prior.sigma_range[0])[:-1].numpy()
    operator, y = physics(di, case, units)
    denoiser = Denoiser(prior, units)
    torch.manual_seed(seed)
    return Result(units.complex(di.sampling.DDRM(denoiser, sigmas=sigmas, eta=eta)(y.clone(), operator)), denoiser.calls)


def their_diffpir(
    di: ModuleType, prior: Prior, case: Case, steps: int, seed: int, lambda_: float = 7.0, zeta: float = 0.1, reach: float = 1.0
) -> Result:
    """DiffPIR. Its last call of the denoiser does not reach the result."""
    units = within_one(reach)
    operator, y = physics(di, case, units)
    denoiser = Denoiser(prior, units)
    torch.manual_seed(seed)
    model = di.sampling.DiffPIR(
        denoiser, di.optim.data_fidelity.L2(), sigma=NOISE / units.slope, max_iter=steps, lambda_=lambda_, zeta=zeta
    )
    return Result(units.complex(model(y, operator)), denoiser.calls)


def their_dps(
    di: ModuleType,
    prior: Prior,
    case: Case,
    steps: int,
    seed: int,
    weight: float = 1.0,
    guidance: str = "norm",
    schedule: str = "vp",
    reach: float = 1.0,
) -> Result:
    """DPS."""
    units = within_one(reach)
    operator, y = physics(di, case, units)
    denoiser = Denoiser(prior, units)
    solver = di.sampling.DDPMSolver(times(SDES[schedule](di), prior, units.slope / 2, steps), rng=torch.Generator().manual_seed(seed))
    model = di.sampling.DPS(denoiser, schedule, solver, weight=weight, guidance=guidance)
    return Result(units.complex(model(y, operator, denoise_output=False)), denoiser.calls)


def their_pigdm(
    di: ModuleType,
    prior: Prior,
    case: Case,
    steps: int,
    seed: int,
    eta: float = 1.0,
    schedule: str = "vp",
    weight: float = 1.0,
    reach: float = 1.0,
) -> Result:
    """PiGDM from its parts: guidance, SDE and solver."""
    units = within_one(reach)
    operator, y = physics(di, case, units)
    denoiser = Denoiser(prior, units)
    sde = SDES[schedule](di)
    solver = di.sampling.DDIMSolver(times(sde, prior, units.slope / 2, steps), eta=eta, rng=torch.Generator().manual_seed(seed))
    model = di.sampling.PosteriorDiffusion(di.sampling.PiGDMDataFidelity(denoiser, weight=weight), denoiser, sde, solver)
    return Result(units.complex(model(y, operator, denoise_output=False)), denoiser.calls)


def times(sde: Any, prior: Prior, unit: float, steps: int) -> Tensor:
    """Evenly spaced times for `steps` calls of the denoiser, the first at the highest level that the prior knows.

    `unit`: ours of one unit of the SDE's state.
    """
    fine = torch.linspace(1, 0, 10001, dtype=torch.float64)
    start = fine[sde.sigma_t(fine) * unit <= prior.sigma_range[1]][0]
    return torch.linspace(float(start), 0, steps + 1, dtype=torch.float64)


SDES: dict[str, Callable[[ModuleType], Any]] = {
    "vp": lambda di: di.sampling.VariancePreservingDiffusion(alpha=1.0),
    "ve": lambda di: di.sampling.VarianceExplodingDiffusion(alpha=1.0),
}
"""DeepInverse's schedules of noise levels."""


THEIRS: dict[str, Callable[..., Result]] = {
    "dps": their_dps,
    "diffpir": their_diffpir,
    "ddrm": their_ddrm,
    "pigdm": their_pigdm,
    "ddnm": their_ddrm,
}
"""By our name. DeepInverse has no DDNM: DDRM, which DDNM+ equals for operators with a spectrum, stands beside it."""

GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "dps": (
        {},
        *({"weight": weight} for weight in (30.0, 100.0, 300.0)),
        *({"guidance": "annealed", "weight": weight} for weight in (1.0, 3.0)),
        *({"guidance": "annealed", "schedule": "ve", "weight": weight} for weight in (1.0, 2.0, 2.5, 3.0, 4.0, 5.0)),
    ),
    "diffpir": (
        {},
        *({"lambda_": weight, "zeta": zeta} for weight in (2.0, 7.0, 20.0) for zeta in (0.1, 0.5, 1.0)),
        *({"zeta": 1.0, "reach": reach} for reach in (0.75, 1.5)),
    ),
    "ddrm": (
        {},
        *({"levels": name, "eta": eta} for name in ("linear", "edm") for eta in (0.5, 0.85, 1.0)),
    ),
    "pigdm": (
        {},
        *({"schedule": name, "eta": eta, "weight": weight} for name in SDES for eta in (0.0, 1.0) for weight in (0.7, 1.0)),
        *({"schedule": "ve", "weight": weight, "reach": 1.5} for weight in (1.0, 1.5)),
    ),
}
GRIDS["ddnm"] = GRIDS["ddrm"]
"""Settings of DeepInverse's that are tried on the training slice; the first are its defaults."""
