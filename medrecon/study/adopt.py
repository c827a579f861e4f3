"""Taking in a prior from elsewhere: checked, then copied to where it is found by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from medrecon.errors import BadInput
from medrecon.files import atomic_file, atomic_folder, check_readable
from medrecon.prior import store
from medrecon.prior.diffusers_folder import is_diffusers_folder
from medrecon.prior.handcrafted import BY_NAME
from medrecon.prior.own import own_folder

SUFFIX = ".safetensors"


def adopted_path(source: Path, name: str | None) -> Path:
    """Where an imported prior goes: into the user's folder under `name` (that of the source by default), or to `name` itself
    where it is a path, which is what `store.load` takes for one: with a folder or ending in .safetensors."""
    text = name if name is not None else source.absolute().name.removesuffix(SUFFIX)
    if text.endswith(SUFFIX) or os.sep in text:
        return Path(text)
    if not text or text.startswith("."):
        raise BadInput(f"{text!r} is no name for a prior: give letters, as in knee")
    if text in BY_NAME or (store.WEIGHTS / f"{text}{SUFFIX}").exists():
        raise BadInput(f"{text!r} is the name of a shipped prior: choose another (-o NAME)")
    return own_folder() / (text if source.is_dir() else f"{text}{SUFFIX}")


def adopt(source: Path, target: Path, *, force: bool = False) -> list[Path]:
    """What was written: weights with the model card where one lies beside them, or a folder of diffusers, after one loading."""
    if check_readable(source).is_dir():
        return [_folder(source, target, force)]
    if target.suffix != SUFFIX:
        raise BadInput(f"{target}: weights are kept as {SUFFIX}: give a name that ends so, or a plain name")
    store.load_network(source.absolute())
    pairs = [(source, target)]
    card = source.with_suffix(".md")
    if card.is_file():
        pairs.append((card, target.with_suffix(".md")))
    for original, copy in pairs:
        _another(original, copy)
    for original, copy in pairs:
        with atomic_file(copy, force) as temporary:
            shutil.copyfile(original, temporary)
    return [copy for _, copy in pairs]


def _folder(source: Path, target: Path, force: bool) -> Path:
    if not is_diffusers_folder(source):
        names = sorted(path.name for path in source.glob(f"*{SUFFIX}"))
        found = f"; it holds {', '.join(names[:5])}" if names else ""
        raise BadInput(f"{source}: not a folder of diffusers (config.json, here or in unet/): give a {SUFFIX} file{found}")
    if target.suffix == SUFFIX:
        raise BadInput(f"{target}: a folder of diffusers stays a folder: give a name without {SUFFIX}")
    if target.exists() and not is_diffusers_folder(target):
        raise BadInput(f"{target}: holds something else: choose another name")
    store.load(f"{source.absolute()}")
    _another(source, target)
    with atomic_folder(target, force) as temporary:
        # Its numbers and safe weights alone: neither pickles nor sample pictures.
        for file in (*source.rglob("*.json"), *source.rglob(f"*{SUFFIX}")):
            copy = temporary / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return target


def _another(original: Path, copy: Path) -> None:
    if copy.exists() and copy.samefile(original):
        raise BadInput(f"{copy}: is the source itself: choose another name")
