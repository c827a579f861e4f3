"""Makes MRD files with the ismrmrd package, line by line as a scanner's converter does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROTATION = np.linalg.qr(np.array([[0.9, -0.2, 0.1], [0.3, 0.8, -0.4], [0.05, 0.35, 0.95]]))[0]
"""An oblique frame: its columns are the read, phase and slice directions (LPS)."""


@dataclass
class Shot:
    """One line: counters, data (coil, sample) and header fields."""

    data: NDArray[np.complex64]
    counters: dict[str, int]
    flags: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)


def header(
    encoded: Sequence[int],
    fov: Sequence[float],
    recon: Sequence[int] | None = None,
    recon_fov: Sequence[float] | None = None,
    *,
    center: tuple[int, int] | None = None,
    vendor: str = "",
    trajectory: str = "cartesian",
    extra: str = "",
) -> str:
    """MRD XML; sizes are (x, y, z), `center` of steps 1 and 2."""
    recon, recon_fov = recon or encoded, recon_fov or fov
    c1, c2 = center or (encoded[1] // 2, encoded[2] // 2)

    def triple(values: Sequence[float]) -> str:
        return "".join(f"<{axis}>{value}</{axis}>" for axis, value in zip("xyz", values, strict=True))

    def space(name: str, matrix: Sequence[int], lengths: Sequence[float]) -> str:
        return f"<{name}><matrixSize>{triple(matrix)}</matrixSize><fieldOfView_mm>{triple(lengths)}</fieldOfView_mm></{name}>"

    def limit(name: str, maximum: int, middle: int) -> str:
        return f"<{name}><minimum>0</minimum><maximum>{maximum}</maximum><center>{middle}</center></{name}>"

    limits = limit("kspace_encoding_step_1", encoded[1] - 1, c1) + limit("kspace_encoding_step_2", encoded[2] - 1, c2)
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<measurementInformation><patientPosition>HFS</patientPosition><protocolName>test</protocolName></measurementInformation>"
        f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor>"
        "<systemFieldStrength_T>2.89</systemFieldStrength_T></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{space('encodedSpace', encoded, fov)}{space('reconSpace', recon, recon_fov)}"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>{trajectory}</trajectory></encoding>"
        f"<sequenceParameters><TR>500</TR><TE>5.5</TE><flipAngle_deg>30</flipAngle_deg></sequenceParameters>{extra}</ismrmrdHeader>"
    )


def write(path: Path, xml: str, shots: Sequence[Shot], group: str = "dataset") -> Path:
    """An MRD file of these lines, in their order."""
    import ismrmrd

    with ismrmrd.Dataset(str(path), group) as dataset:
        dataset.write_xml_header(xml)
        for shot in shots:
            acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(shot.data, np.complex64))
            acquisition.center_sample = shot.data.shape[1] // 2
            acquisition.sample_time_us = 5.0
            for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), ROTATION.T, strict=True):
                getattr(acquisition, name)[:] = direction
            for name, value in shot.fields.items():
                if isinstance(value, (tuple, list, np.ndarray)):
                    getattr(acquisition, name)[:] = value
                else:
                    setattr(acquisition, name, value)
            for name, value in shot.counters.items():
                setattr(acquisition.idx, name, value)
            for name in shot.flags:
                acquisition.set_flag(getattr(ismrmrd, f"ACQ_{name}"))
            dataset.append_acquisition(acquisition)
    return path


def shots_2d(
    kspace: NDArray[np.complex64], positions: Sequence[NDArray[Any]], numbers: Sequence[int] | None = None, **fields: Any
) -> list[Shot]:
    """Every line of (slice, coil, y, x); `positions` LPS mm and counters `numbers` of the slices."""
    shots = []
    for slot, (block, position) in enumerate(zip(kspace, positions, strict=True)):
        number = slot if numbers is None else numbers[slot]
        for y in range(block.shape[1]):
            shots.append(Shot(block[:, y], {"kspace_encode_step_1": y, "slice": number}, fields={"position": position, **fields}))
    return shots


def changed(shots: Sequence[Shot], change: Callable[[Shot], Shot]) -> list[Shot]:
    """Each shot after `change`."""
    return [change(shot) for shot in shots]
