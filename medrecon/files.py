"""Atomic writes, checksums, and the checks that come before believing a header."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrecon.errors import BadInput, OutputExists


def check_target(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The target as a path, or an error before any work is done: it exists, or its folder is missing or read-only."""
    target = Path(path)
    if target.exists() and not force:
        raise OutputExists(f"{target} already exists: choose another name or give --force")
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"{target}: cannot write in {parent}: choose a folder that you may write to")
    return target


@contextmanager
def atomic_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """A temporary path beside the target, renamed onto it when the block ends well and removed when it does not."""
    target = check_target(path, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The whole suffix stays, since writers choose compression by it (.nii.gz).
    temporary = Path(tempfile.mkdtemp(prefix=".medrecon-", dir=target.absolute().parent)) / target.name
    try:
        with _disk_errors(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary.parent, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """A temporary folder beside the target, renamed onto it at the end: a series is there whole or not at all."""
    target = check_target(path, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    outer = Path(tempfile.mkdtemp(prefix=".medrecon-", dir=target.absolute().parent))
    temporary = outer / target.name
    temporary.mkdir()
    try:
        with _disk_errors(target):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if target.exists():
                os.replace(target, outer / "replaced")
            os.replace(temporary, target)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    import errno

    try:
        yield
    except OSError as error:
        known = {
            errno.ENOSPC: "the disk is full: free some space or write elsewhere",
            errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
            errno.EACCES: "permission denied: choose a folder that you may write to",
            errno.EPERM: "permission denied: choose a folder that you may write to",
            errno.EROFS: "the file system is read-only: write elsewhere",
        }
        if error.errno in known:
            raise BadInput(f"{target}: {known[error.errno]} (nothing was written)") from error
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file, or of the sorted names and digests of the files in a folder."""
    target, digest = Path(path), hashlib.sha256()
    if target.is_dir():
        for part in sorted(p for p in target.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(target).as_posix()} {sha256(part)}\n".encode())
        return digest.hexdigest()
    with target.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_readable(path: str | os.PathLike[str]) -> Path:
    """The path, or an error that says why it cannot be read."""
    target = Path(path)
    if not target.exists():
        near = [p.name for p in sorted(target.absolute().parent.glob("*"))[:5]] if target.absolute().parent.is_dir() else []
        raise BadInput(f"{target}: no such file" + (f"; the folder holds {', '.join(near)}" if near else ""))
    if not os.access(target, os.R_OK):
        raise BadInput(f"{target}: permission denied")
    return target


def check_size(what: str, shape: tuple[int, ...], item_bytes: int, available: int, ratio: float = 1.0) -> int:
    """Bytes of an array that a header announces, refused when the file cannot hold it (`ratio`: best compression)."""
    if any(int(n) < 0 for n in shape):
        raise BadInput(f"{what}: header announces a negative size {shape}")
    need = item_bytes
    for n in shape:
        need *= int(n)
    if need > available * ratio:
        raise BadInput(f"{what}: header announces {shape} = {need} bytes, the file holds {available}: damaged or cut short")
    return need
