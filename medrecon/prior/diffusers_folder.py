"""A folder of Hugging Face diffusers (`UNet2DModel`) as a prior: JSON and safetensors, nothing is unpickled or downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medrecon.errors import BadInput, MissingExtra, NotSupported, nearest
from medrecon.files import check_readable
from medrecon.prior.adapters import TYPICAL_STD, FromModule
from medrecon.prior.parametrisation import DiscreteTime, Noising, RectifiedFlow, VarianceExploding, cosine_kept, whole

WEIGHTS = "diffusion_pytorch_model.safetensors"

PREDICTED = {"epsilon": "noise", "sample": "clean", "v_prediction": "v"}
"""diffusers' words for what a network predicts -> ours."""

KEPT: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": lambda steps, first, last: 1 - torch.linspace(first, last, steps, dtype=torch.float64),
    "scaled_linear": lambda steps, first, last: 1 - torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2,
    "squaredcos_cap_v2": lambda steps, first, last: cosine_kept(steps),
    "sigmoid": lambda steps, first, last: 1 - first - (last - first) * torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid(),
}
"""diffusers' beta schedules -> 1 - beta of each step."""


def is_diffusers_folder(path: str | os.PathLike[str]) -> bool:
    """Whether it is a folder as diffusers' `save_pretrained` writes it, of a model or of a pipeline with its `unet`."""
    return any((Path(path) / part / "config.json").is_file() for part in ("", "unet"))


def from_diffusers(
    folder: str | os.PathLike[str],
    *,
    field: str | None = None,
    gain: float | None = None,
    offset: float | None = None,
    data_std: float = TYPICAL_STD,
    error_curve: Sequence[Sequence[float]] = (),
    domain_name: str | None = None,
    images_at_once: int = 8,
) -> FromModule:
    """An unconditional `UNet2DModel` of 1 channel (real images, or `field="complex"` for each part alone) or 2 (complex).

    What it predicts and its noise levels come from scheduler_config.json beside it (in `scheduler/` of a pipeline): chains with
    betas (DDPM, DDIM, PNDM, Euler, DPM-Solver, ...), FlowMatchEulerDiscrete, ScoreSdeVe. Its range of values is written nowhere:
    by default [-1, 1], so that real images in [0, 1] get gain 2 and offset -1, and complex ones none; score networks (ScoreSdeVe)
    have [0, 1]. Clean images are not clipped, as diffusers' own samplers do: the posterior mean would be biased.
    """
    root = check_readable(folder).absolute()
    place = root / "unet" if (root / "unet").is_dir() else root
    scheduler = _scheduler_file(root)
    try:
        noising, predicts, told = _noising(_json(scheduler))
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise BadInput(f"{scheduler}: not the numbers of a scheduler: {str(error).splitlines()[0]}") from error
    network = _network(place)
    config = network.config
    if config.time_embedding_type == "learned":
        told = whole
    if config.in_channels not in (1, 2):
        raise NotSupported(f"{place}: a network of {config.in_channels} channels (colour?): expected 1 (real) or 2 (real, imaginary)")
    if field is None:
        field = "complex" if config.in_channels == 2 else "real"
    centred = field == "real" and not isinstance(noising, VarianceExploding)
    return FromModule(
        Unwrapped(network),
        predicts=predicts,
        noising=noising,
        told=told,
        field=field,
        channels=config.in_channels,
        gain=(2.0 if centred else 1.0) if gain is None else gain,
        offset=(-1.0 if centred else 0.0) if offset is None else offset,
        multiple=2 ** (len(config.block_out_channels) - 1),
        data_std=data_std,
        error_curve=error_curve,
        domain_name=root.name if domain_name is None else domain_name,
        images_at_once=images_at_once,
    )


class Unwrapped(nn.Module):
    """diffusers' network, returning its image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        found: Tensor = self.network(image, time, return_dict=False)[0]
        return found


def _network(place: Path) -> Any:
    """The UNet2DModel."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _json(place / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise NotSupported(f"{place}: holds {config.get('_class_name')}, only UNet2DModel is read: wrap yours in FromModule")
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise NotSupported(f"{place}: a network that wants class labels: wrap it with its label in FromModule")
    if not (place / WEIGHTS).exists() and (pickles := sorted(place.glob("*.bin"))):
        raise BadInput(
            f"{pickles[0]}: pickled weights can run code when loaded and are refused: get the safetensors version, or convert them where "
            f"you trust them by UNet2DModel.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)"
        )
    weights = check_readable(place / WEIGHTS)
    try:
        from diffusers import UNet2DModel
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(f"diffusers folders need the package diffusers: pip install 'medrecon[diffusers]' ({error})") from error
    try:
        # Built without memory: a file that announces a huge network cannot make us allocate it.
        with torch.device("meta"):
            network = UNet2DModel.from_config(config)
        network.load_state_dict(load_file(os.fspath(weights)), assign=True)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{weights}: weights do not fit config.json: {str(error).splitlines()[0]}") from error
    if any(buffer.is_meta for buffer in network.buffers()):
        raise NotSupported(f"{place}: has blocks whose constants are in no file: build the network yourself and use FromModule")
    return network.requires_grad_(False)


def _noising(scheduler: dict[str, Any]) -> tuple[Noising, str, Callable[[Tensor], Tensor]]:
    """Noise levels, what is predicted and what the network is told, by diffusers' scheduler."""
    name = scheduler.get("_class_name", "no class")
    steps = scheduler.get("num_train_timesteps", 1000)
    if name == "ScoreSdeVeScheduler":
        return VarianceExploding(scheduler.get("sigma_min", 0.01), scheduler.get("sigma_max", 1348.0)), "score", _as_is
    if name.startswith("FlowMatch"):
        return RectifiedFlow(), "flow", lambda time: steps * time
    if "beta_schedule" not in scheduler:
        raise NotSupported(f"scheduler {name}: expected one with betas (DDPM, DDIM, ...), FlowMatch... or ScoreSdeVe: use FromModule")
    predicted = scheduler.get("prediction_type", "epsilon")
    if predicted not in PREDICTED:
        raise NotSupported(f"prediction_type {predicted!r}: expected {', '.join(PREDICTED)}{nearest(predicted, list(PREDICTED))}")
    return _chain(scheduler, steps), PREDICTED[predicted], _as_is


def _chain(scheduler: dict[str, Any], steps: int) -> Noising:
    name = scheduler["beta_schedule"]
    if (given := scheduler.get("trained_betas")) is not None:
        kept = 1 - torch.tensor(given, dtype=torch.float64)
    elif name in KEPT:
        kept = KEPT[name](steps, scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02))
    else:
        raise NotSupported(f"beta_schedule {name!r}: expected {', '.join(KEPT)}, or trained_betas")
    amplitude = kept.cumprod(0).sqrt()
    if scheduler.get("rescale_betas_zero_snr"):
        # Shifted so that nothing of the image is left at the last step (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
        amplitude = (amplitude - amplitude[-1]) * amplitude[0] / (amplitude[0] - amplitude[-1])
    levels = (amplitude**-2 - 1).sqrt()
    return DiscreteTime(levels[levels.isfinite()])


def _as_is(time: Tensor) -> Tensor:
    return time


def _scheduler_file(root: Path) -> Path:
    found = [path for path in (root / "scheduler_config.json", root / "scheduler" / "scheduler_config.json") if path.is_file()]
    if not found:
        raise BadInput(f"{root}: no scheduler_config.json, which says the noise levels: put the scheduler of its training beside it")
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(check_readable(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return found
