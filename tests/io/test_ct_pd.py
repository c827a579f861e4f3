"""DICOM-CT-PD: files written by hand with attributes as archives leave them; rays where the format's formulas put them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from medrecon import io
from medrecon.errors import BadInput, NotSupported
from medrecon.io import dicom_ct_pd, dicom_read
from medrecon.io.projections import image_grid
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, even_angles
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.rays import rays
from medrecon.physics.ct.scan import CTScan
from medrecon.volume import Volume

ROWS, COLUMNS = 3, 7
DSO, DSD, WIDTH, HEIGHT, CENTRE = 595.0, 1085.6, 1.2858, 1.0947, (3.625, 2.25)
FORMS = {"US": "H", "FL": "f", "CS": "s", "LO": "s", "DS": "s"}


def packed(representation: str, value: Any) -> bytes:
    """The bytes of an attribute in little endian order, of even length."""
    if FORMS[representation] == "s":
        text = str(value).encode()
        return text + b" " * (len(text) % 2)
    values = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    return struct.pack(f"<{len(values)}{FORMS[representation]}", *values)


def private(phi: float, z: float, rho: float = DSO, shift: tuple[float, float, float] = (0, 0, 0)) -> dict[int, tuple[str, Any]]:
    """{tag: (representation, value)}."""
    return {
        0x70291002: ("FL", WIDTH),
        0x70291006: ("FL", HEIGHT),
        0x7029100B: ("CS", "CYLINDRICAL"),
        0x70291010: ("US", ROWS),
        0x70291011: ("US", COLUMNS),
        0x70311001: ("FL", phi),
        0x70311002: ("FL", z),
        0x70311003: ("FL", rho),
        0x70311031: ("FL", DSD),
        0x70311033: ("FL", CENTRE),
        0x7033100B: ("FL", shift[0]),
        0x7033100C: ("FL", shift[1]),
        0x7033100D: ("FL", shift[2]),
        0x7033100E: ("CS", "FFSNONE" if shift == (0, 0, 0) else "FFSXYZ"),
        0x70331061: ("US", 1),
        0x70331065: ("FL", np.arange(COLUMNS) + 1e5),
        0x70391009: ("CS", "YES"),
        0x70411001: ("DS", "0.01923"),
    }


def view(
    path: Path,
    number: int,
    attributes: dict[int, tuple[str, Any]],
    picture: NDArray[Any],
    *,
    unknown: bool = True,
    by_column: bool = True,
    syntax: str = ExplicitVRLittleEndian,
    **changed: Any,
) -> None:
    """One file; `unknown`: private attributes as bytes of representation UN. `picture` (row, column) of stored numbers."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.InstanceNumber, dataset.Modality, dataset.PatientID, dataset.PatientPosition = number, "CT", "L067", "FFS"
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = (picture.shape[1], picture.shape[0]) if by_column else picture.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.00025", "-0.125"
    for group in sorted({tag >> 16 for tag in attributes}):
        dataset.add_new((group, 0x10), "LO", f"MODULE {group:04X}")
    for tag, (representation, value) in attributes.items():
        dataset.add_new(tag, "UN", packed(representation, value)) if unknown else dataset.add_new(
            tag, representation, list(value) if isinstance(value, (tuple, np.ndarray)) else value
        )
    dataset.PixelData = np.asfortranarray(picture).astype("<u2").tobytes(order="F" if by_column else "C")
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)


PHI = np.deg2rad(np.array([170.0, 215, 260, 305, 350, 35, 80, 125, 170]))
Z = 40 - 2.5 * np.arange(len(PHI))
PICTURES = np.random.default_rng(1).integers(0, 65536, (len(PHI), ROWS, COLUMNS), dtype=np.uint16)
NUMBERS = np.random.default_rng(2).permutation(len(PHI))


def folder(path: Path, *, shifts: NDArray[Any] | None = None, z: NDArray[Any] = Z, rho: NDArray[Any] | None = None, **options: Any) -> Path:
    """A scan whose files' names are in another order than its views."""
    path.mkdir()
    for index, phi in enumerate(PHI):
        wrapped = float((phi + np.pi) % (2 * np.pi) - np.pi)
        shift = (0, 0, 0) if shifts is None else tuple(map(float, shifts[index]))
        attributes = private(wrapped, float(z[index]), DSO if rho is None else float(rho[index]), shift)  # type: ignore[arg-type]
        view(path / f"{NUMBERS[index]}.dcm", index + 1, attributes, PICTURES[index], **options)
    return path


def expected_rays(z: NDArray[Any] = Z, shifts: NDArray[Any] | None = None, rho: Any = DSO) -> tuple[NDArray[Any], NDArray[Any]]:
    """(source, element) of every ray (view, row, column, 3) by the format's formulas, turned about its vertical axis."""
    shifts = np.zeros((len(PHI), 3)) if shifts is None else shifts
    focal = np.stack([-rho * np.sin(PHI), rho * np.cos(PHI), z], 1)
    azimuth, radius = PHI + shifts[:, 0], rho + shifts[:, 2]
    source = np.stack([-radius * np.sin(azimuth), radius * np.cos(azimuth), z + shifts[:, 1]], 1)
    fan = (np.arange(1, COLUMNS + 1) - CENTRE[0]) * WIDTH / DSD
    towards = PHI[:, None] + fan
    element = np.empty((len(PHI), ROWS, COLUMNS, 3))
    element[..., 0] = (focal[:, 0, None] + DSD * np.sin(towards))[:, None]
    element[..., 1] = (focal[:, 1, None] - DSD * np.cos(towards))[:, None]
    element[..., 2] = focal[:, 2, None, None] - (np.arange(1, ROWS + 1) - CENTRE[1])[:, None] * HEIGHT
    half_turn = np.array([-1.0, 1.0, -1.0])
    return half_turn * source[:, None, None], half_turn * element


def assert_rays(geometry: Geometry, expected: tuple[NDArray[Any], NDArray[Any]], mm: float = 2e-3) -> None:
    source, direction = rays(geometry)
    there, element = expected
    assert np.abs(source - there).max() < mm
    unit = (element - there) / np.linalg.norm(element - there, axis=-1, keepdims=True)
    assert np.abs(direction - unit).max() < mm / DSD


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("by_column", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_helix_is_read_with_its_rays_and_line_integrals(tmp_path: Path, unknown: bool, by_column: bool, syntax: str) -> None:
    scan = io.read(folder(tmp_path / "pd", unknown=unknown, by_column=by_column, syntax=syntax))
    assert isinstance(scan, CTScan)
    assert isinstance(scan.geometry, HelicalCone)
    np.testing.assert_allclose(scan.projections[0:1][0], PICTURES * 0.00025 - 0.125, atol=1e-6)
    assert_rays(scan.geometry, expected_rays())
    # 45 degrees counter-clockwise and 2.5 mm down a view; turned over, clockwise and up.
    assert scan.geometry.feed == pytest.approx(-20.0, abs=1e-4)
    np.testing.assert_allclose(scan.photons, np.arange(COLUMNS) + 1e5)  # type: ignore[arg-type]
    assert (scan.stored, scan.water, scan.header["views_per_turn"]) == ("line integrals", 0.01923, 8.0)
    assert scan.study["PatientID"] == "L067"
    assert scan.grid.orientation == "unknown"
    assert scan.grid.spacing == pytest.approx((HEIGHT * DSO / DSD, WIDTH * DSO / DSD, WIDTH * DSO / DSD), rel=1e-6)


def test_flying_focal_spots_leave_the_detector_where_it_is(tmp_path: Path) -> None:
    shifts = np.random.default_rng(4).uniform(-1, 1, (len(PHI), 3)) * [2e-3, 0.7, 5.0]
    scan = dicom_ct_pd.read(folder(tmp_path / "pd", shifts=shifts))
    assert isinstance(scan.geometry, VectorGeometry)
    assert scan.geometry.curved
    assert scan.header["flying_focal_spot"]
    assert_rays(scan.geometry, expected_rays(shifts=shifts))
    assert_rays(replace(scan.geometry, foci=None), expected_rays())


def test_uneven_tables_and_radii_become_vectors(tmp_path: Path) -> None:
    z, rho = Z + (np.arange(len(PHI)) == 3), DSO + np.arange(len(PHI)) * 0.5
    scan = dicom_ct_pd.read(folder(tmp_path / "pd", z=z, rho=rho))
    assert isinstance(scan.geometry, VectorGeometry)
    assert scan.geometry.focus() is None
    assert_rays(scan.geometry, expected_rays(z, rho=rho))


def test_a_still_table_is_a_circle(tmp_path: Path) -> None:
    scan = dicom_ct_pd.read(folder(tmp_path / "pd", z=np.full(len(PHI), 12.5)))
    assert isinstance(scan.geometry, ConeBeam)
    assert not isinstance(scan.geometry, HelicalCone)
    assert_rays(scan.geometry, expected_rays(np.full(len(PHI), 12.5)))
    assert scan.grid.shape == (ROWS, COLUMNS, COLUMNS)


def test_a_single_row_is_a_fan(tmp_path: Path) -> None:
    (tmp_path / "pd").mkdir()
    for index, phi in enumerate(PHI):
        attributes = {**private(float(phi), 0.0), 0x70291010: ("US", 1), 0x70311033: ("FL", (3.625, 1.0))}
        view(tmp_path / "pd" / f"{index}.dcm", index, attributes, PICTURES[index, :1])
    scan = dicom_ct_pd.read(tmp_path / "pd")
    assert isinstance(scan.geometry, FanBeam2D)
    assert scan.projections.shape == (1, len(PHI), COLUMNS)
    source, direction = rays(scan.geometry)
    there, element = (part[:, 0, :, :2] for part in expected_rays(0 * Z))
    assert np.abs(source - there).max() < 2e-3
    unit = (element - there) / np.linalg.norm(element - there, axis=-1, keepdims=True)
    assert np.abs(direction - unit).max() < 2e-6


def test_views_are_read_only_when_asked_for(tmp_path: Path) -> None:
    scan = dicom_ct_pd.read(folder(tmp_path / "pd"))
    assert isinstance(scan.projections, dicom_ct_pd.Views)
    file = tmp_path / "pd" / f"{NUMBERS[4]}.dcm"
    file.unlink()
    some = scan.projections.chosen([7, 2])
    np.testing.assert_allclose(some[0], PICTURES[[7, 2]] * 0.00025 - 0.125, atol=1e-6)
    with pytest.raises(BadInput, match="no such file"):
        scan.projections[0:1]


ANGLES = even_angles(11, 2 * np.pi, 0.3)
WRITTEN: dict[str, Geometry] = {
    "helix": HelicalCone(
        angles=2.5 * ANGLES, n_bins=5, bin_spacing=1.3, offset=0.31, dso=500.0, dsd=900.0, detector="curved",
        n_rows=4, row_spacing=1.1, row_offset=-0.2, z=-33.0, feed=21.0,
    ),
    "cone": ConeBeam(angles=-ANGLES, n_bins=5, bin_spacing=1.3, offset=0.31, dso=500.0, dsd=900.0, n_rows=4, row_spacing=1.1, z=4.0),
    "fan": FanBeam2D(angles=ANGLES, n_bins=5, bin_spacing=1.3, dso=500.0, dsd=900.0, detector="curved", offset=-2.0),
}  # fmt: skip
WRITTEN["flying"] = VectorGeometry(
    kind_of="cone3d",
    rows_of_vectors=WRITTEN["helix"].vectors(),
    n_bins=5,
    n_rows=4,
    curved_detector=True,
    foci=WRITTEN["helix"].vectors()[:, :3] + np.random.default_rng(5).uniform(-1, 1, (11, 3)),
)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_scan_comes_back_with_its_geometry_and_numbers(tmp_path: Path, name: str) -> None:
    geometry = WRITTEN[name]
    values = torch.rand(1, *geometry.shape) * 6 - 0.3
    photons = torch.rand(11, *(1,) * (geometry.dimensions - 2), 5) * 1e5 + 1
    scan = CTScan(grid=image_grid(geometry, 1), projections=values, geometry=geometry, photons=photons, water=0.0197)
    files = dicom_ct_pd.write_ct_pd(scan, tmp_path / "pd")
    assert len(files) == 11
    back = io.read(tmp_path / "pd")
    assert isinstance(back, CTScan)
    assert type(back.geometry) is type(geometry)
    assert float((back.projections[0:1] - values).abs().max()) <= 0.51 * float(values.max() - values.min()) / 65535
    np.testing.assert_allclose(back.geometry.vectors(), geometry.vectors(), atol=1e-3)
    if geometry.focus() is not None:
        np.testing.assert_allclose(back.geometry.focus(), geometry.focus(), atol=1e-3)  # type: ignore[arg-type]
    torch.testing.assert_close(back.photons, photons)
    assert back.water == pytest.approx(0.0197)


@pytest.mark.parametrize(
    ("geometry", "stored", "words"),
    [
        (ParallelBeam2D(angles=ANGLES / 2, n_bins=5, bin_spacing=1.0), "line integrals", "has no source"),
        (WRITTEN["fan"], "counts", "holds line integrals"),
        (
            ConeBeam(angles=ANGLES, n_bins=5, bin_spacing=1.0, dso=500.0, dsd=900.0, n_rows=2, row_spacing=1.0, tilt=(0.1, 0, 0)),
            "line integrals",
            "tilted detector",
        ),
    ],
)
def test_what_the_format_cannot_say_is_not_written(tmp_path: Path, geometry: Geometry, stored: str, words: str) -> None:
    scan = CTScan(grid=image_grid(geometry, 1), projections=torch.rand(1, *geometry.shape), geometry=geometry, stored=stored)
    with pytest.raises(NotSupported, match=words):
        dicom_ct_pd.write_ct_pd(scan, tmp_path / "pd")
    assert not list(tmp_path.iterdir())


def test_projections_are_no_images(tmp_path: Path) -> None:
    path = folder(tmp_path / "pd")
    assert dicom_ct_pd.recognises(path)
    assert dicom_ct_pd.recognises(path / "0.dcm")
    with pytest.raises(NotSupported, match="a projection"):
        dicom_read.read(path)
    io.write(Volume(torch.zeros(1, 4, 4), image_grid(WRITTEN["fan"], 1).crop((0, 0, 0), (1, 4, 4)), "HU", "CT"), tmp_path / "images")
    assert not dicom_ct_pd.recognises(tmp_path / "images")
    (tmp_path / "images" / "00001.dcm").rename(path / "z.dcm")
    with pytest.raises(BadInput, match="no projection"):
        io.read(path)


def test_missing_views_are_counted(tmp_path: Path) -> None:
    path = folder(tmp_path / "pd")
    for index in (3, 4):
        (path / f"{NUMBERS[index]}.dcm").unlink()
    scan = dicom_ct_pd.read(path)
    assert scan.geometry.n_views == 7
    assert isinstance(scan.geometry, HelicalCone)
    assert any("2 of 9 views are missing" in w for w in scan.header["warnings"])


def test_files_without_photons_or_water_say_so(tmp_path: Path) -> None:
    (tmp_path / "pd").mkdir()
    attributes = private(0.1, 0.0)
    del attributes[0x70331065], attributes[0x70411001]
    view(tmp_path / "pd" / "1.dcm", 1, attributes, PICTURES[0])
    scan = dicom_ct_pd.read(tmp_path / "pd")
    assert (scan.photons, scan.water) == (None, 0.0192)
    assert [w.split()[1] for w in scan.header["warnings"]] == ["PhotonStatistics:", "WaterAttenuationCoefficient:"]


@pytest.mark.parametrize(
    ("attributes", "options", "error", "words"),
    [
        ({0x70311001: None}, {}, BadInput, r"\(7031,1001\) is missing"),
        ({0x70311003: ("FL", float("nan"))}, {}, BadInput, "finite"),
        ({0x70311033: ("FL", [1.0])}, {}, BadInput, "expected 2"),
        ({0x70291002: ("FL", -1.0)}, {}, BadInput, "a length in mm"),
        ({0x70291010: ("US", 4)}, {}, BadInput, "a detector of 4 x 7"),
        ({0x70291011: ("US", 0)}, {}, BadInput, "number of detector elements"),
        ({0x7029100B: ("CS", "SPHERICAL")}, {}, NotSupported, "SPHERICAL"),
        ({0x70331061: ("US", 2)}, {}, NotSupported, "several X-ray tubes"),
        ({0x70391009: ("CS", "NO")}, {}, NotSupported, "before the logarithm"),
        ({0x70311003: ("FL", 1200.0)}, {}, BadInput, "dsd"),
        ({}, {"BitsAllocated": 8}, NotSupported, "expected 16, 0, 1"),
        ({}, {"NumberOfFrames": 2}, NotSupported, "2 frames"),
        ({}, {"PixelData": b"\0" * 10}, BadInput, "10 bytes of pixels"),
    ],
)
def test_views_that_cannot_be_read_say_why(
    tmp_path: Path, attributes: dict[int, Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    (tmp_path / "pd").mkdir()
    whole = {tag: value for tag, value in {**private(0.1, 0.0), **attributes}.items() if value is not None}
    view(tmp_path / "pd" / "1.dcm", 1, whole, PICTURES[0], **options)
    with pytest.raises(error, match=words):
        dicom_ct_pd.read(tmp_path / "pd").projections[0:1]


def test_two_scans_in_a_folder_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "pd")
    view(path / "x.dcm", 4, private(0.0, 0.0), PICTURES[0])
    with pytest.raises(BadInput, match="both view 4"):
        dicom_ct_pd.read(path)
    view(path / "x.dcm", 99, {**private(0.0, 0.0), 0x70311031: ("FL", 946.7)}, PICTURES[0])
    with pytest.raises(BadInput, match="its detector"):
        dicom_ct_pd.read(path)


def test_truncated_and_packed_files_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "pd")
    file = path / "0.dcm"
    whole = file.read_bytes()
    for length in (len(whole) - 9, 600, 200):
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            io.read(path).projections[0:1]  # type: ignore[union-attr]
    dataset = pydicom.dcmread(path / "1.dcm")
    dataset.file_meta.TransferSyntaxUID = UID(JPEGBaseline8Bit)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    dataset.save_as(path / "1.dcm", enforce_file_format=True)
    file.write_bytes(whole)
    with pytest.raises(NotSupported, match="decompress"):
        io.read(path)
