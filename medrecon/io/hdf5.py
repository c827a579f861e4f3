"""Safe reading of HDF5: looks before it believes, opens for each read, follows no link out of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrecon.errors import BadInput
from medrecon.files import check_readable, check_size

SIGNATURE = b"\x89HDF\r\n\x1a\n"
COMPRESSION = 1000.0
"""Deflate cannot do better than about 1000 : 1, so a header that announces more is damaged or hostile."""


def has_signature(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like HDF5 (it may still be cut short)."""
    target = Path(path)
    if not target.is_file():
        return False
    with target.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The open `h5py.File`, read-only and closed at the end.

    Raises `BadInput` for files that are missing, not HDF5 or cut short, and for damage met inside the block.
    """
    import h5py

    target = check_readable(path)
    if not has_signature(target):
        with target.open("rb") as file:
            start = file.read(8)
        raise BadInput(f"{target}: not an HDF5 file (it begins with {start!r}): check that the download or copy is complete")
    try:
        file = h5py.File(target, "r")
    except OSError as error:
        size = target.stat().st_size
        raise BadInput(
            f"{target}: cannot be opened as HDF5 ({size} bytes; {_reason(error)}): cut short or damaged, copy it again"
        ) from error
    with file:
        try:
            yield file
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise BadInput(f"{target}: reading failed ({_reason(error)}): cut short or damaged, copy it again") from error


def readable(path: str | os.PathLike[str]) -> bool:
    """Whether h5py opens the file; False for HDF5 that is cut short."""
    try:
        with opened(path):
            return True
    except BadInput:
        return False


def root_names(path: str | os.PathLike[str]) -> set[str]:
    """Names at the root of an HDF5 file; empty where it cannot be opened."""
    try:
        with opened(path) as file:
            return set(file)
    except BadInput:
        return set()


def dataset(group: Any, name: str, where: str) -> Any:
    """The dataset `name` of an open group.

    Raises `BadInput` when it is absent (with the names that are there), is no dataset, lives outside the file (external
    or soft links, external or virtual storage), or announces more bytes than the file can hold.
    """
    import h5py

    if name not in group and group.get(name, getlink=True) is None:
        there = ", ".join(sorted(group)) or "nothing"
        raise BadInput(f"{where}: no dataset {name!r}; the file holds: {there}")
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise BadInput(f"{where}: {name!r} is a link to elsewhere ({type(link).__name__}): refused, store the data in the file itself")
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise BadInput(f"{where}: {name!r} is a group, expected a dataset")
    if found.external or found.is_virtual:
        raise BadInput(f"{where}: {name!r} keeps its data in other files: refused, store the data in the file itself")
    if found.shape is None:
        raise BadInput(f"{where}: {name!r} is empty")
    if found.dtype.kind != "O":
        available = os.path.getsize(group.file.filename)
        check_size(f"{where}: {name!r}", found.shape, found.dtype.itemsize, available, COMPRESSION)
    return found


def text(group: Any, name: str, where: str, limit: int = 1 << 24) -> str:
    """A string dataset, scalar or of one element, as text; at most `limit` bytes."""
    found = dataset(group, name, where)
    if found.dtype.kind not in "OSU" or found.size != 1:
        raise BadInput(f"{where}: {name!r} is {found.dtype} of shape {found.shape}, expected one string")
    value = found[()]
    value = value if isinstance(value, (bytes, str)) else value.reshape(-1)[0]
    if not isinstance(value, (bytes, str)):
        raise BadInput(f"{where}: {name!r} holds {type(value).__name__}, expected a string")
    if len(value) > limit:
        raise BadInput(f"{where}: {name!r} is {len(value)} bytes long, expected at most {limit}")
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: {name!r} is not UTF-8 text") from error


def attributes(file: Any) -> dict[str, Any]:
    """The attributes of a file or dataset as plain Python numbers, strings and lists; others are left out."""
    import numpy as np

    found: dict[str, Any] = {}
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except (OSError, TypeError):  # a type that h5py cannot represent
            continue
        if isinstance(value, bytes):
            found[key] = value.decode("utf-8", "replace")
        elif isinstance(value, (np.generic, np.ndarray)):
            found[key] = value.tolist()
        elif isinstance(value, (str, int, float, bool)):
            found[key] = value
    return found


def _reason(error: BaseException) -> str:
    return str(error).replace("\n", " ")[:160]
