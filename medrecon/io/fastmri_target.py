"""The image that a fastMRI file holds: the target beside raw data, or a prediction."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.files import check_readable
from medrecon.io import hdf5

NAMES = ("reconstruction_rss", "reconstruction_esc", "reconstruction")
"""Multi-coil target, single-coil target, prediction; the first that is there is taken."""


def read_target(path: str | os.PathLike[str]) -> Tensor:
    """The magnitude image (slice, y, x), float32. Raises `BadInput` when the file holds none."""
    source = check_readable(path)
    with hdf5.opened(source) as file:
        name = next((name for name in NAMES if name in file), None)
        if name is None:
            raise BadInput(f"{source}: no target in it (expected {', '.join(NAMES)}): scan files of fastMRI's test set have none")
        found = hdf5.dataset(file, name, str(source))
        if found.ndim != 3 or found.dtype.kind != "f":
            raise BadInput(f"{source}: {name} is {found.dtype} {found.shape}, expected float32 (slice, readout, phase)")
        return torch.from_numpy(np.ascontiguousarray(np.asarray(found[()], np.float32).transpose(0, 2, 1)))


def files_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The HDF5 files of a folder in the order of their names; an error when there are none."""
    place = check_readable(folder)
    found = sorted(path for path in place.glob("*.h5") if path.is_file()) if place.is_dir() else []
    if not found:
        raise BadInput(f"{place}: expected a folder of .h5 files" + ("" if place.is_dir() else ", this is a file"))
    return found
