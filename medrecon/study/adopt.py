"""Taking in a prior from elsewhere: checked, then copied to where it is found by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from medrecon.errors import BadInput, NotSupported
from medrecon.files import atomic_file, check_readable
from medrecon.prior import store
from medrecon.prior.own import own_folder

SUFFIX = ".safetensors"


def adopted_path(source: Path, name: str | None) -> Path:
    """Where an imported prior goes: into the user's folder under `name` (that of the file by default), or to `name` itself
    where it is a path, which is what `store.load` takes for one: with a folder or ending in .safetensors."""
    text = name if name is not None else source.name.removesuffix(SUFFIX)
    if text.endswith(SUFFIX) or os.sep in text:
        return Path(text)
    if not text or text.startswith("."):
        raise BadInput(f"{text!r} is no name for a prior: give letters, as in knee")
    if (store.WEIGHTS / f"{text}{SUFFIX}").exists():
        raise BadInput(f"{text!r} is the name of a shipped prior: choose another (-o NAME)")
    return own_folder() / f"{text}{SUFFIX}"


def adopt(source: Path, target: Path, *, force: bool = False) -> list[Path]:
    """The files written: the weights, after they were loaded once, and the model card where one lies beside them."""
    if check_readable(source).is_dir():
        raise NotSupported(f"{source}: a folder; medrecon imports one file of its own weights (.safetensors)")
    if target.suffix != SUFFIX:
        raise BadInput(f"{target}: weights are kept as {SUFFIX}: give a name that ends so, or a plain name")
    store.load(source.absolute())
    pairs = [(source, target)]
    card = source.with_suffix(".md")
    if card.is_file():
        pairs.append((card, target.with_suffix(".md")))
    for original, copy in pairs:
        if copy.exists() and copy.samefile(original):
            raise BadInput(f"{copy}: is the file itself: choose another name")
    for original, copy in pairs:
        with atomic_file(copy, force) as temporary:
            shutil.copyfile(original, temporary)
    return [copy for _, copy in pairs]
