"""Priors by name, and in files: one safetensors file holds weights and, as text, everything needed to use them. No pickle."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrecon.errors import BadInput, nearest
from medrecon.files import atomic_file, check_readable
from medrecon.prior.denoiser import Prior
from medrecon.prior.diffusers_folder import from_diffusers, is_diffusers_folder
from medrecon.prior.handcrafted import BY_NAME
from medrecon.prior.network import UNet
from medrecon.prior.own import own_folder, own_folders, own_weights
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.units import Units

WEIGHTS = Path(__file__).parent / "weights"
"""Where the shipped priors and their model cards lie."""

CHANNEL_BYTES = 38
"""Memory of the network for each pixel and full-resolution channel while it runs, measured on 1 to 8 images."""


def available() -> dict[str, dict[str, Any]]:
    """The shipped priors, the user's own and the handcrafted ones: name -> metadata (field, domain, figures, ...), weights unread."""
    learnt = {path.stem: metadata(path) for path in (*own_weights(), *sorted(WEIGHTS.glob("*.safetensors")))}
    folders = {path.name: {"domain": path.name, "card": {"what": "a folder of diffusers"}} for path in own_folders()}
    return {**folders, **learnt, **{name: _handcrafted_facts(name) for name in BY_NAME}}


def card(name: str | os.PathLike[str]) -> str:
    """The model card (markdown) beside a prior's weights; what a handcrafted prior computes."""
    if os.fspath(name) in BY_NAME:
        kind = BY_NAME[os.fspath(name)]
        about = f"{kind.summary} No images were used; licence: that of the package, Apache-2.0."
        return f"# Prior `{name}`\n\n{about}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n"
    path = _path(name).with_suffix(".md")
    if not path.exists():
        raise BadInput(f"{path}: this prior has no model card beside it")
    return path.read_text(encoding="utf-8")


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The text part of a prior's file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            text = (file.metadata() or {}).get("medrecon")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error})") from error
    if text is None:
        raise BadInput(f"{path}: safetensors without medrecon's metadata; import foreign weights with an adapter")
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: metadata is not JSON ({error})") from error
    return found


def label(facts: Mapping[str, Any]) -> str:
    """ "demo" where the card says that a prior falls short of what a shipped one should do, and by how much; else empty."""
    return str(facts.get("card", {}).get("label", "")).partition(":")[0]


def load(name: str | os.PathLike[str], *, field: str | None = None) -> Prior:
    """A prior by name ("brain", "tv", or one of your own that was imported) or by path, ready to denoise on the CPU.

    The path is a file that `medrecon train` wrote, or a folder of diffusers, see `from_diffusers`. `field`: the kind of images
    that is wanted, "real" or "complex"; handcrafted priors know both and take complex ones where it is not said.
    """
    if os.fspath(name) in BY_NAME:
        return BY_NAME[os.fspath(name)](field=field or "complex")
    path = _path(name)
    found = from_diffusers(path) if is_diffusers_folder(path) else load_network(path)
    if field not in (None, found.field):
        raise BadInput(f"prior {os.fspath(name)!r} knows {found.field} images, {field} ones are wanted: choose a {field} prior")
    return found


def load_network(name: str | os.PathLike[str]) -> NetworkPrior:
    """The same for medrecon's own weights alone."""
    from safetensors.torch import load_file

    path = _path(name)
    facts = metadata(path)
    try:
        weights = {name: weight.float() for name, weight in load_file(os.fspath(path)).items()}
        # Built without memory: a file that announces a huge network cannot make us allocate it.
        if sum(facts["network"]["blocks"]) > len(weights):
            raise BadInput(f"{path}: announces more blocks than it has weights")
        with torch.device("meta"):
            network = UNet(**facts["network"])
        network.load_state_dict(weights, assign=True)
        return NetworkPrior(
            network.eval().requires_grad_(False),
            field=facts["field"],
            sigma_data=facts["sigma_data"],
            sigma_range=tuple(facts["sigma_range"]),
            error_curve=facts["error_curve"],
            kappas=facts.get("kappas", ()),
            domain_name=facts.get("domain", path.stem),
            units=Units.of(facts.get("units", {})),
            card=facts.get("card", {}),
            pixel_bytes=CHANNEL_BYTES * facts["network"]["widths"][0],
        )
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: weights do not fit their own metadata: {str(error).splitlines()[0]}") from error


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], facts: Mapping[str, Any], force: bool = True) -> Path:
    """Writes weights and metadata atomically; `facts` has network, field, sigma_data, sigma_range, error_curve, ..."""
    from safetensors.torch import save_file

    with atomic_file(path, force) as temporary:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, temporary, {"medrecon": json.dumps(facts)})
    return Path(path)


def _handcrafted_facts(name: str) -> dict[str, Any]:
    prior = BY_NAME[name]()
    card = {"licence": "none needed", "what": prior.summary}
    return {"field": "real or complex", "domain": prior.domain_name, "sigma_range": list(prior.sigma_range), "card": card}


def _path(name: str | os.PathLike[str]) -> Path:
    text = os.fspath(name)
    if text.endswith(".safetensors") or os.sep in text:
        return check_readable(text)
    for folder in (WEIGHTS, own_folder()):
        path = folder / f"{text}.safetensors"
        if path.exists():
            return path
    for path in (Path(text), own_folder() / text):
        if is_diffusers_folder(path):
            return path
    known = [*sorted(p.stem for p in (*WEIGHTS.glob("*.safetensors"), *own_weights(), *own_folders())), *BY_NAME]
    raise BadInput(f"no prior named {text!r}: there are {', '.join(known)}{nearest(text, known)}; or give a path")
