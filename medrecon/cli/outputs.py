"""Several outputs of one run: checked before the work, written aside, and there together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medrecon.errors import BadInput, OutputExists
from medrecon.files import check_target

SUFFIXES = (".nii.gz", ".nii", ".h5", ".hdf5", ".npy", ".npz", ".png")
"""What makes a name a file; any other is a folder of DICOM files."""


def is_file_name(target: Path) -> bool:
    """Whether the ending names a file format; if not, the target is a folder of DICOM files."""
    return target.name.lower().endswith(SUFFIXES)


def companion(target: Path, word: str) -> Path:
    """The name of a second result beside `target`: image.nii.gz -> image_std.nii.gz, series -> series_std."""
    suffix = next((s for s in SUFFIXES if target.name.lower().endswith(s)), "")
    stem = target.name[: len(target.name) - len(suffix)]
    return target.with_name(f"{stem}_{word}{target.name[len(stem) :]}")


def check_targets(targets: Sequence[Path], force: bool) -> None:
    """Raises before any work when a target exists (and not `force`), cannot be written, or is named twice."""
    for target in targets:
        check_target(target, force)
        writable(target)
        if target.is_dir():
            from medrecon.io.dicom_write import check_replaceable

            check_replaceable(target)


def writable(target: Path) -> None:
    """Makes and removes an empty file beside the target: permission bits alone say little (root, network disks)."""
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(prefix=".medrecon-", dir=folder).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{target}: cannot write in {folder} ({reason}): choose another folder") from error


@contextmanager
def staged(targets: Sequence[Path], force: bool) -> Iterator[dict[Path, Path]]:
    """{target: temporary path of the same name}; all that was written there, with companions, moves over when the block ends well."""
    with ExitStack() as stack:
        stages: dict[Path, Path] = {}
        for parent in {target.absolute().parent for target in targets}:
            stack.enter_context(_made(parent))
            stage = Path(tempfile.mkdtemp(prefix=".medrecon-", dir=parent))
            stack.callback(shutil.rmtree, stage, ignore_errors=True)
            stages[parent] = stage
        yield {target: stages[target.absolute().parent] / target.name for target in targets}
        _publish(stages, force)


def _publish(stages: dict[Path, Path], force: bool) -> None:
    moves = [(item, parent / item.name) for parent, stage in stages.items() for item in sorted(stage.iterdir())]
    for _, final in moves:
        if final.exists() and not force:
            raise OutputExists(f"{final} already exists: choose another name or give --force")
    for item, final in moves:
        if final.exists() and (final.is_dir() or item.is_dir()):
            os.replace(final, item.with_name(f".replaced-{item.name}"))
        os.replace(item, final)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, and taken away again when the block fails."""
    made = []
    missing = folder
    while not missing.exists():
        made.append(missing)
        missing = missing.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
