"""DICOM images in: a file, or the one series that is chosen in a folder, becomes a Volume with exact geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medrecon.compute import free_memory
from medrecon.errors import BadInput, MissingExtra, OutOfMemory
from medrecon.files import check_readable
from medrecon.io.dicom_frames import Frame, frames_of
from medrecon.io.dicom_open import damage, dicom_files, images, opened
from medrecon.io.dicom_series import Stack, chosen, groups_of, stacked
from medrecon.io.dicom_values import facts_of
from medrecon.io.facts import ACQUISITION, PATIENT, SOURCE_IMAGES, STUDY, UNPLACED, input_record
from medrecon.volume import Volume


def recognises(path: Path) -> bool:
    """A DICOM file, or a folder with at least one anywhere in it; by content."""
    return path.exists() and next(dicom_files(path), None) is not None


def read(path: Path, *, series: str | int | None = None, allow_gaps: bool = False) -> Volume:
    """The volume of a series: float32 ([time,] z, y, x), rescaled slice by slice, in place to the last digit of the header.

    `series`: which, by its UID or its number in the list that the error shows when there are several. `allow_gaps`:
    missing slices are filled with the lowest value, and a warning is logged, instead of an error.
    """
    stack = _stack(path, series, allow_gaps)
    need = 3 * int(np.prod(stack.shape)) * 4
    if need > free_memory(torch.device("cpu")):
        raise OutOfMemory(f"{path}: an image of {stack.shape} needs {need >> 20} MiB to load, more than is free")
    files = {frame.file for time in stack.frames for frame in time if frame is not None}
    image = torch.from_numpy(_loaded(stack)).reshape(stack.shape)
    return _volume(stack, image, {"inputs": [input_record(path.name, files)]})


def header(path: Path, *, series: str | int | None = None, allow_gaps: bool = False) -> Volume:
    """The volume without its voxels (an image on the meta device)."""
    stack = _stack(path, series, allow_gaps)
    return _volume(stack, torch.empty(stack.shape, device="meta"), {})


def _stack(path: Path, series: str | int | None, allow_gaps: bool) -> Stack:
    check_readable(path)
    frames = [frame for file, dataset in images(path) for frame in frames_of(file, dataset)]
    if not frames:
        raise BadInput(f"{path}: no DICOM image there (files are recognised by content: DICM after 128 bytes)")
    return stacked(chosen(groups_of(frames), series, str(path)), allow_gaps)


def _volume(stack: Stack, image: torch.Tensor, provenance: dict[str, Any]) -> Volume:
    frame = stack.first
    facts = facts_of(frame.attributes, (*PATIENT, *STUDY, *ACQUISITION))
    effective = facts_of(frame.attributes, ("EffectiveEchoTime",))
    if effective:
        facts.setdefault("EchoTime", effective["EffectiveEchoTime"])
    if "SeriesDescription" in facts:
        facts["SeriesDescription"] = facts["SeriesDescription"].removeprefix(UNPLACED).strip()
    facts |= _sources(stack)
    modality = str(frame.attributes.get("Modality", "OT"))
    return Volume(image, stack.grid, units=frame.units, modality=modality, facts=facts, provenance=provenance)


def _sources(stack: Stack) -> dict[str, list[list[str]]]:
    """SOP class and instance of the image behind each plane, where each plane has a file of its own."""
    frames = [frame for time in stack.frames for frame in time]
    if any(frame is None for frame in frames) or len({frame.file for frame in frames if frame}) < len(frames):
        return {}
    return {SOURCE_IMAGES: [[str(f.attributes.get("SOPClassUID")), str(f.attributes.get("SOPInstanceUID"))] for f in frames if f]}


def _loaded(stack: Stack) -> NDArray[np.float32]:
    """(time, z, y, x) of values; every file is opened once."""
    by_file: dict[Path, list[tuple[int, int, Frame]]] = {}
    for time, row in enumerate(stack.frames):
        for z, frame in enumerate(row):
            if frame is not None:
                by_file.setdefault(frame.file, []).append((time, z, frame))
    image = np.full((len(stack.frames), *stack.grid.shape), np.nan, np.float32)
    for file, members in by_file.items():
        pixels = _pixels(file, members[0][2].size)
        for time, z, frame in members:
            image[time, z] = _values(pixels[frame.index], frame)
    if len(by_file) < image.shape[0] * image.shape[1]:
        missing = np.array([[frame is None for frame in row] for row in stack.frames])
        if missing.any():
            image[missing] = np.nanmin(image)
    return image


def _pixels(file: Path, size: tuple[int, int]) -> NDArray[Any]:
    """Stored numbers (frame, y, x) as pydicom decodes them."""
    dataset = opened(file, pixels=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        array = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        if syntax.is_encapsulated and not isinstance(error, RecursionError):
            raise MissingExtra(
                f"{file}: its pixels are compressed ({syntax.name}) and no decoder is installed: "
                "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress with dcmdjpeg or gdcmconv"
            ) from error
        with damage(file):
            raise
    except Exception:
        with damage(file):
            raise
    return np.asarray(array).reshape(-1, *size)


def _values(pixels: NDArray[Any], frame: Frame) -> NDArray[np.float32]:
    """Values of one plane: unused bits cut, padding replaced, inverted where white is low, then slope and intercept."""
    look = frame.attributes.get
    bits = int(look("BitsStored", look("BitsAllocated")))
    signed = bool(look("PixelRepresentation", 0))
    stored: NDArray[Any] = pixels
    if pixels.dtype.kind != "f":
        stored = _cut(pixels, int(look("BitsAllocated")), bits, int(look("HighBit", bits - 1)), signed)
        stored = _without_padding(stored, frame, bits, signed)
    if look("PhotometricInterpretation") == "MONOCHROME1":
        lowest = -(1 << (bits - 1)) if signed else 0
        stored = 2 * lowest + (1 << bits) - 1 - stored
    slope, intercept = frame.scale
    return (stored * slope + intercept).astype(np.float32)


def _cut(stored: NDArray[Any], allocated: int, bits: int, high: int, signed: bool) -> NDArray[np.int64]:
    """The `bits` that end at bit `high`, sign-extended: old files keep overlays in the others."""
    wide = stored.astype(np.int64)
    if bits >= allocated:
        return wide
    wide = (wide >> max(0, high + 1 - bits)) & ((1 << bits) - 1)
    return np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide) if signed else wide


def _without_padding(stored: NDArray[np.int64], frame: Frame, bits: int, signed: bool) -> NDArray[np.int64]:
    """Pixels outside the scanned circle take the lowest number inside, in stored numbers as the standard says."""
    padding = frame.attributes.get("PixelPaddingValue")
    if padding is None:
        return stored
    limit = frame.attributes.get("PixelPaddingRangeLimit", padding)
    ends = _cut(np.array([int(padding), int(limit)]), 64, bits, bits - 1, signed)
    outside = (stored >= ends.min()) & (stored <= ends.max())
    return np.where(outside, stored[~outside].min(), stored) if outside.any() and not outside.all() else stored
