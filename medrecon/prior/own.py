"""Where a user's own priors lie, so that they are called by name like the shipped ones."""

from __future__ import annotations

import os
from pathlib import Path


def own_folder() -> Path:
    """$MEDRECON_HOME/priors; without that variable medrecon/priors under $XDG_DATA_HOME, which is ~/.local/share by default."""
    home = os.environ.get("MEDRECON_HOME")
    if home:
        return Path(home) / "priors"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "medrecon" / "priors"


def own_weights() -> list[Path]:
    """The files of the user's own priors, by name."""
    return sorted(own_folder().glob("*.safetensors"))


def own_folders() -> list[Path]:
    """Priors of the user that are folders (diffusers), by name."""
    return sorted(path for path in own_folder().glob("*") if path.is_dir() and not path.name.startswith("."))
