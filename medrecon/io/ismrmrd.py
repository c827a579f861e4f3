"""MRD (ISMRMRD) HDF5: Cartesian 2-D multi-slice and 3-D acquisitions, with noise scan, calibration and geometry.

Not handled: EPI and non-Cartesian trajectories (`NotSupported`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medrecon.errors import BadInput, MissingExtra, NotSupported
from medrecon.files import check_readable
from medrecon.io import hdf5
from medrecon.io.mrd_header import Encoding, MRDHeader, parse
from medrecon.io.mrd_lines import Lines, LineSlices, placed_lines
from medrecon.io.mrd_place import Placement, placement
from medrecon.physics.mri.scan import MRIScan, NoiseScan

COUNTERS = ("contrast", "repetition", "set", "phase")
"""Counters of which a scan can hold one value only; the reader's options choose it."""

SIEMENS_NOISE_BANDWIDTH = 0.79


def recognises(path: str | os.PathLike[str]) -> bool:
    """HDF5 with a group that holds the datasets `xml` and `data`; fastMRI files have none."""
    return hdf5.has_signature(path) and bool(_groups(path))


def read(
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    encoding: int | None = None,
    contrast: int | None = None,
    repetition: int | None = None,
    set: int | None = None,  # the schema's own name
    phase: int | None = None,
    slab: int | None = None,
) -> MRIScan:
    """The scan in an MRD file, image samples still unread. Options choose where the file holds several of a kind.

    2-D scans are (slice, coil, y, x) with slices sorted by position; 3-D ones (1, coil, z, y, x). Repeated lines are
    averaged. Lines of a parallel calibration that are not also image lines become `calib`. Siemens data are mirrored
    along the encoded axes, since their Fourier sign is the other one (no conjugation: phase keeps its sign).
    Raises `MissingExtra` without the package `ismrmrd`, `NotSupported` for other trajectories, `BadInput` for damage and
    for choices that are open.
    """
    target = check_readable(path)
    flags = _flags()
    group = _chosen_group(target, dataset)
    where = f"{target}/{group}"
    with hdf5.opened(target) as file:
        header = parse(hdf5.text(file[group], "xml", where), where)
        heads = _heads(file[group], where)
    wanted = {"contrast": contrast, "repetition": repetition, "set": set, "phase": phase}
    image, calibration, noise = _sorted_out(heads, flags)
    image, index = _of_one_encoding(heads, image, encoding, header, where)
    image = _of_one_kind(heads, image, wanted, where)
    used = header.encodings[index]
    if used.trajectory != "cartesian":
        raise NotSupported(f"{where}: the trajectory is {used.trajectory!r}, this version reads 'cartesian' only")
    is_3d = used.encoded.matrix[2] > 1
    if is_3d:
        image = _of_one_kind(heads, image, {"slice": slab}, where, names={"slice": "slab"})
    place = placement(heads, image, used, is_3d, where)
    flip = "siemens" in header.vendor
    lines = placed_lines(heads, image, used, place.slices, flags, flip, where)
    kspace = LineSlices.of(target, group, lines)
    calibration = _calibration_of(heads, calibration, index, wanted, slab)
    return MRIScan(
        grid=place.grid,
        source=target,
        header=_describe(header, used, lines, place, index, len(heads), flip),
        study=header.facts,
        kspace=kspace,
        mask=lines.mask(),
        image_axes=3 if is_3d else 2,
        crop=place.crop,
        noise=_noise(target, group, heads, noise, image, header, lines),
        calib=_calib(target, group, heads, calibration, used, place, flags, flip, lines.n_coils, where),
    )


def _flags() -> Mapping[str, int]:
    """Bit masks of the acquisition flags by their names without ACQ_."""
    try:
        import ismrmrd
    except ImportError as error:
        raise MissingExtra("MRD (ISMRMRD) files need the package ismrmrd: pip install 'medrecon[ismrmrd]'") from error
    return {name[4:]: 1 << (value - 1) for name, value in vars(ismrmrd).items() if name.startswith("ACQ_") and isinstance(value, int)}


def _groups(path: str | os.PathLike[str]) -> list[str]:
    import h5py

    try:
        with hdf5.opened(path) as file:
            hard = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
            return [name for name in hard if isinstance(file[name], h5py.Group) and {"xml", "data"} <= set(file[name])]
    except BadInput:
        return []


def _chosen_group(path: Path, name: str | None) -> str:
    with hdf5.opened(path) as file:
        there = ", ".join(sorted(file)) or "nothing"
    groups = _groups(path)
    if not groups:
        raise BadInput(f"{path}: no group with the datasets xml and data, so no MRD file; it holds: {there}")
    if name is None and len(groups) > 1:
        raise BadInput(f"{path}: holds the measurements {', '.join(groups)}: choose one with dataset=NAME")
    if name is not None and name not in groups:
        raise BadInput(f"{path}: no measurement {name!r}; the file holds: {', '.join(groups)}")
    return name or groups[0]


def _heads(group: Any, where: str) -> NDArray[Any]:
    """All acquisition headers as one structured array; sample data stay in the file."""
    from ismrmrd.hdf5 import acquisition_header_dtype

    data = hdf5.dataset(group, "data", where)
    names = data.dtype.names or ()
    if data.ndim != 1 or not {"head", "data"} <= {*names}:
        raise BadInput(f"{where}: dataset data is {data.dtype} {data.shape}, expected a list of acquisitions")
    if not {*(acquisition_header_dtype.names or ())} <= {*(data.dtype["head"].names or ())}:
        raise BadInput(f"{where}: the acquisition headers are not those of MRD version 1")
    if data.size == 0:
        raise BadInput(f"{where}: holds no acquisition")
    heads: NDArray[Any] = data.fields("head")[()]
    return heads


def _sorted_out(heads: NDArray[Any], flags: Mapping[str, int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Indices of image lines, of lines for parallel calibration alone, and of noise acquisitions."""
    flag = heads["flags"]

    def has(*names: str) -> NDArray[Any]:
        bits = np.uint64(sum(flags[name] for name in names))
        return (flag & bits) != 0

    noise = has("IS_NOISE_MEASUREMENT")
    other = has(
        "IS_NAVIGATION_DATA",
        "IS_PHASECORR_DATA",
        "IS_HPFEEDBACK_DATA",
        "IS_DUMMYSCAN_DATA",
        "IS_RTFEEDBACK_DATA",
        "IS_SURFACECOILCORRECTIONSCAN_DATA",
        "IS_PHASE_STABILIZATION_REFERENCE",
        "IS_PHASE_STABILIZATION",
    )
    calibration = has("IS_PARALLEL_CALIBRATION") & ~has("IS_PARALLEL_CALIBRATION_AND_IMAGING")
    image = ~noise & ~other & ~calibration
    return np.flatnonzero(image), np.flatnonzero(calibration & ~noise & ~other), np.flatnonzero(noise)


def _of_one_encoding(
    heads: NDArray[Any], image: NDArray[Any], chosen: int | None, header: MRDHeader, where: str
) -> tuple[NDArray[Any], int]:
    if image.size == 0:
        raise BadInput(f"{where}: none of {len(heads)} acquisitions is image data (noise, calibration or navigators only)")
    found = sorted({int(n) for n in heads["encoding_space_ref"][image]})
    if chosen is None and len(found) > 1:
        raise BadInput(f"{where}: holds the encodings {found}: choose one with encoding=N")
    index = found[0] if chosen is None else chosen
    if index not in found or index >= len(header.encodings):
        raise BadInput(f"{where}: encoding {index} is not there: lines use {found}, the header describes {len(header.encodings)}")
    return image[heads["encoding_space_ref"][image] == index], index


def _of_one_kind(
    heads: NDArray[Any], image: NDArray[Any], wanted: Mapping[str, int | None], where: str, names: Mapping[str, str] | None = None
) -> NDArray[Any]:
    """The lines whose counters are the wanted ones; an open choice is an error that lists what there is."""
    for counter, value in wanted.items():
        option = (names or {}).get(counter, counter)
        found = sorted({int(n) for n in heads["idx"][counter][image]})
        if value is None and len(found) > 1:
            raise BadInput(f"{where}: holds {len(found)} of {option} ({_few(found)}): choose one with {option}={found[0]}")
        if value is not None and value not in found:
            raise BadInput(f"{where}: {option}={value} is not there, the file holds {_few(found)}")
        if value is not None:
            image = image[heads["idx"][counter][image] == value]
    return image


def _calibration_of(
    heads: NDArray[Any], lines: NDArray[Any], encoding: int, wanted: Mapping[str, int | None], slab: int | None
) -> NDArray[Any]:
    """Calibration lines that belong to the chosen image lines; those measured once for all repetitions are kept."""
    lines = lines[heads["encoding_space_ref"][lines] == encoding]
    for counter, value in (*wanted.items(), ("slice", slab)):
        there = heads["idx"][counter][lines]
        if value is not None and (there == value).any():
            lines = lines[there == value]
    for counter in ("repetition", "contrast", "set", "phase"):
        there = heads["idx"][counter][lines]
        lines = lines[there == there.min()] if lines.size else lines
    return lines


def _calib(
    path: Path,
    group: str,
    heads: NDArray[Any],
    lines: NDArray[Any],
    encoding: Encoding,
    place: Placement,
    flags: Mapping[str, int],
    flip: bool,
    n_coils: int,
    where: str,
) -> LineSlices | None:
    if lines.size == 0:
        return None
    numbers = {int(n) for n in heads["idx"]["slice"][lines]}
    if not numbers >= {*place.slices}:
        raise BadInput(
            f"{where}: the calibration lines cover the slices {_few(sorted(numbers))}, the image has {_few(sorted(place.slices))}"
        )
    placed = placed_lines(heads, lines, encoding, place.slices, flags, flip, f"{where} (calibration)")
    if placed.n_coils != n_coils:
        raise BadInput(f"{where}: the calibration lines have {placed.n_coils} coils, the image has {n_coils}")
    return LineSlices.of(path, group, placed)


def _noise(
    path: Path, group: str, heads: NDArray[Any], noise: NDArray[Any], image: NDArray[Any], header: MRDHeader, lines: Lines
) -> NoiseScan | None:
    """All noise samples; the bandwidth ratio also carries the gain of averaged lines (their fewest repeats)."""
    if noise.size == 0:
        return None
    coils = lines.n_coils
    blocks = []
    with hdf5.opened(path) as file:
        data = file[group]["data"]
        for index in noise:
            record = np.asarray(data.fields("data")[int(index)], np.float32)
            if int(heads["active_channels"][index]) != coils or record.size != 2 * coils * int(heads["number_of_samples"][index]):
                raise BadInput(f"{path}: noise acquisition {index} has other coils than the image or is cut short")
            blocks.append(record.view(np.complex64).reshape(coils, -1))
    dwell_noise, dwell_image = float(heads["sample_time_us"][noise[0]]), float(heads["sample_time_us"][image[0]])
    dwell = dwell_noise / dwell_image if dwell_noise > 0 and dwell_image > 0 else 1.0
    siemens = SIEMENS_NOISE_BANDWIDTH if "siemens" in header.vendor else 1.0
    ratio = dwell / (header.noise_bandwidth or siemens) / lines.fewest_repeats
    return NoiseScan(torch.from_numpy(np.concatenate(blocks, 1)), ratio)


def _describe(
    header: MRDHeader, encoding: Encoding, lines: Lines, place: Placement, index: int, n_acquisitions: int, flip: bool
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": "ISMRMRD (MRD) HDF5",
        "acquisitions": n_acquisitions,
        "encoding": index,
        "encoding_size": encoding.encoded.matrix,
        "recon_size": encoding.recon.matrix,
        "averages": (lines.fewest_repeats, lines.most_repeats),
        "mirrored_for_vendor": flip,
    }
    warnings = list(place.warnings)
    if lines.most_repeats > lines.fewest_repeats:
        warnings.append(f"lines were repeated {lines.fewest_repeats} to {lines.most_repeats} times: averaged, noise taken as of the fewest")
    if len(header.encodings) > 1:
        facts["encodings"] = len(header.encodings)
    return facts | {"warnings": warnings}


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f", ... {numbers[-1]}" if len(numbers) > 8 else "")
