"""Opening DICOM files that may be broken or hostile: by content, inflated within a limit, every failure one error with the file's name."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrecon.errors import BadInput, MedreconError
from medrecon.files import check_readable

DEFLATED = ("1.2.840.10008.1.2.1.99",)
INFLATED_FLOOR = 16 << 20  # bytes that any deflated file may become
INFLATED_RATIO = 100  # real images deflate by less than ten


def is_dicom(path: Path) -> bool:
    """True for a file with DICM after the preamble, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(path: Path) -> Iterator[Path]:
    """The DICOM files of a folder in the order of their names, or the file itself; links that lead out of the folder are passed over."""
    if path.is_file():
        if is_dicom(path):
            yield path
        return
    root = path.resolve()
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".medrecon-") and file.is_file() and file.resolve().is_relative_to(root) and is_dicom(file):
                yield file


def opened(path: Path, pixels: bool = False) -> Any:
    """The data set of a file, without its pixels unless asked. Raises `BadInput` for whatever a file can do to a parser."""
    import pydicom

    check_readable(path)
    with damage(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) in DEFLATED:
            _check_inflation(path)
        return pydicom.dcmread(path, stop_before_pixels=not pixels)


def images(path: Path) -> Iterator[tuple[Path, Any]]:
    """(file, header) of every image in a folder or file; objects of classes without pixels (reports, directories) are passed over.

    A file that ends before its class or, for an image class, before its size raises: passed over, it would be a silent gap.
    """
    from pydicom.uid import UID

    for file in dicom_files(path):
        dataset = opened(file)
        kind = UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", dataset.get("SOPClassUID", ""))))
        if "Rows" in dataset:
            yield file, dataset
        elif not kind or "Image Storage" in kind.name:
            raise BadInput(f"{file}: its header ends before the image size: damaged or cut short; copy or export it again")


def first_image(path: Path) -> Any:
    """The header of the first image there is."""
    check_readable(path)
    for _, dataset in images(path):
        return dataset
    raise BadInput(f"{path}: no DICOM image there")


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """What pydicom raises for broken files, as one error that names the file."""
    try:
        yield
    except MedreconError:
        raise
    except RecursionError as error:
        raise BadInput(f"{path}: sequences nested too deeply for an image: damaged or hostile") from error
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        NotImplementedError,
        EOFError,
        OSError,
        OverflowError,
        MemoryError,
        struct.error,
        zlib.error,
        RuntimeError,
    ) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise BadInput(f"{path}: {error.strerror}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: not a whole DICOM file ({reason}): copy or export it again") from error


def _check_inflation(path: Path) -> None:
    """Inflates piece by piece and throws away: a small file must not become gigabytes, which pydicom would allow."""
    compressed = path.stat().st_size
    limit = max(INFLATED_FLOOR, INFLATED_RATIO * compressed)
    size, machine = 0, zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        file.seek(_end_of_meta(path))
        while (block := file.read(1 << 16)) and not machine.eof:
            while block:
                size += len(machine.decompress(block, 1 << 20))
                block = machine.unconsumed_tail
                if size > limit:
                    raise BadInput(f"{path}: {compressed} bytes inflate to more than {limit}: refused as hostile")


def _end_of_meta(path: Path) -> int:
    """Offset of the data set: preamble, DICM, then group 2, whose first element holds the length of the rest (12 bytes itself)."""
    with path.open("rb") as file:
        head = file.read(144)
    if head[132:138] != b"\x02\x00\x00\x00UL":
        raise BadInput(f"{path}: deflated, but its meta information has no length: damaged")
    return 144 + int.from_bytes(head[140:144], "little")
