"""Projections in: DataExchange, NXtomo and arrays, written here by hand; what is missing or damaged is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import shared
from numpy.typing import NDArray

from medrecon import io
from medrecon.errors import BadInput, OutputExists
from medrecon.io import arrays, ct_arrays, dxchange, nxtomo
from medrecon.physics.ct.circular import ConeBeam, FanBeam2D, HelicalCone, ParallelBeam2D, ParallelBeam3D, even_angles
from medrecon.physics.ct.geometry import Geometry, VectorGeometry
from medrecon.physics.ct.scan import CTScan
from medrecon.volume import Grid, Volume

V, R, K = 7, 3, 5
RANDOM = np.random.default_rng(3)
PICTURES = RANDOM.uniform(100, 200, (V, R, K)).astype(np.float32)
FLATS = RANDOM.uniform(300, 400, (4, R, K)).astype(np.float32)
DARKS = RANDOM.uniform(1, 9, (2, R, K)).astype(np.float32)


def exchange(path: Path, *, theta: NDArray[Any] | None = None, unit: str | None = None, **changed: Any) -> Path:
    """A DataExchange file; `changed` data sets, None for absent ones."""
    with h5py.File(path, "w") as file:
        for name, value in {"data": PICTURES, "data_white": FLATS, "data_dark": DARKS, **changed}.items():
            if value is not None:
                file[f"exchange/{name}"] = value
        if theta is not None:
            file["exchange/theta"] = theta
            if unit is not None:
                file["exchange/theta"].attrs["units"] = unit
    return path


def test_rows_of_dataexchange_pictures_become_slices(tmp_path: Path) -> None:
    scan = io.read(exchange(tmp_path / "a.h5", theta=np.arange(V) * 25.0))
    assert isinstance(scan, CTScan)
    assert scan.flat is not None
    assert scan.dark is not None
    assert (scan.projections.shape, scan.flat.shape, scan.dark.shape) == ((R, V, K), (R, 4, K), (R, 2, K))
    for row in range(R):
        np.testing.assert_array_equal(scan.projections[row : row + 1][0], PICTURES[:, row])
        np.testing.assert_array_equal(scan.flat[row : row + 1][0], FLATS[:, row])
        np.testing.assert_array_equal(scan.dark[row : row + 1][0], DARKS[:, row])
    np.testing.assert_allclose(scan.geometry.angles, np.deg2rad(np.arange(V) * 25.0), atol=1e-15)  # type: ignore[attr-defined]
    assert (scan.stored, scan.sized, scan.geometry.vectors()[0, 4]) == ("counts", False, 1.0)
    assert scan.header["rotation_centre"] == "unknown"
    assert scan.grid.shape == (R, K, K)
    assert scan.grid.orientation == "unknown"


def test_pixel_size_is_the_users_where_dataexchange_has_none(tmp_path: Path) -> None:
    scan = io.read(exchange(tmp_path / "a.h5", theta=np.arange(V) * 25.0), pixel=0.02)
    assert isinstance(scan, CTScan)
    assert scan.sized
    assert scan.grid.spacing == pytest.approx((0.02, 0.02, 0.02))
    assert scan.geometry.vectors()[0, 4] == 0.02


@pytest.mark.parametrize(
    ("theta", "unit", "expected"),
    [
        (np.linspace(0, 180, V), None, np.linspace(0, np.pi, V)),
        (np.linspace(0, 180, V), "degrees", np.linspace(0, np.pi, V)),
        (np.linspace(0, 3, V), "deg", np.linspace(0, np.pi / 60, V)),
        (np.linspace(0, 3, V), "rad", np.linspace(0, 3, V)),
        (np.linspace(0, 3, V), None, np.linspace(0, 3, V)),
    ],
)
def test_angles_are_degrees_unless_the_file_or_their_span_says_radians(
    tmp_path: Path, theta: NDArray[Any], unit: str | None, expected: NDArray[Any]
) -> None:
    scan = dxchange.read(exchange(tmp_path / "a.h5", theta=theta, unit=unit))
    np.testing.assert_allclose(scan.geometry.angles, expected, atol=1e-14)  # type: ignore[attr-defined]
    assert any("taken as radians" in w for w in scan.header["warnings"]) == (unit is None and theta[-1] == 3)


@pytest.mark.parametrize(("last", "said"), [(180.0, True), (360.0, True), (170.0, False)])
def test_a_view_taken_twice_is_noted(tmp_path: Path, last: float, said: bool) -> None:
    scan = dxchange.read(exchange(tmp_path / "a.h5", theta=np.linspace(0, last, V)))
    assert any("the same rays twice" in w for w in scan.header["warnings"]) == said


def test_missing_angles_are_spread_over_the_arc_that_is_given(tmp_path: Path) -> None:
    path = exchange(tmp_path / "a.h5")
    with pytest.raises(BadInput, match="arc=180"):
        dxchange.read(path)
    np.testing.assert_allclose(dxchange.read(path, arc=180).geometry.angles, np.arange(V) * np.pi / V)  # type: ignore[attr-defined]
    closed = dxchange.read(path, arc=180, endpoint=True).geometry
    np.testing.assert_allclose(closed.angles, np.arange(V) * np.pi / (V - 1))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": None}, "no dataset 'data'"),
        ({"theta": np.arange(V + 2.0)}, f"{V + 2} angles for {V} views"),
        ({"theta": np.full(V, np.nan)}, "not finite"),
        ({"theta": np.arange(V) * 30.0, "unit": "gon"}, "unit 'gon' is not known"),
        ({"data_white": FLATS[..., :-1]}, "of one detector"),
        ({"data": PICTURES[0]}, "expected real numbers"),
        ({"data": PICTURES.astype(np.complex64)}, "expected real numbers"),
        ({"data": h5py.ExternalLink("other.h5", "/data")}, "a link to elsewhere"),
    ],
)
def test_dataexchange_that_does_not_fit_says_so(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = exchange(tmp_path / "a.h5", **{"theta": np.arange(V) * 25.0, **changed})
    with pytest.raises(BadInput, match=words):
        dxchange.read(path)


def test_truncated_and_virtual_dataexchange_is_refused(tmp_path: Path) -> None:
    whole = exchange(tmp_path / "a.h5", theta=np.arange(V) * 25.0).read_bytes()
    (tmp_path / "b.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cut short or damaged"):
        io.read(tmp_path / "b.h5")
    layout = h5py.VirtualLayout((V, R, K), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "a.h5"), "exchange/data", (V, R, K))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_virtual_dataset("exchange/data", layout)
    with pytest.raises(BadInput, match="other files"):
        io.read(tmp_path / "c.h5")


def test_real_synchrotron_data_are_read(tmp_path: Path) -> None:
    scan = io.read(shared("data", "ct_tooth_synchrotron.h5"))
    assert isinstance(scan, CTScan)
    assert scan.flat is not None
    assert (scan.projections.shape, scan.flat.shape, scan.geometry.shape) == ((2, 181, 640), (2, 10, 640), (181, 640))
    transmission = scan.projections[0:1].mean() / scan.flat[0:1].mean()
    assert 0.1 < float(transmission) < 1


KEYS = np.array([2, 1, 0, 0, 3, 0, 1, 0])
FRAMES = RANDOM.uniform(0, 9, (8, R, K)).astype(np.uint16)


def nexus(path: Path, change: Callable[[Any], None] | None = None) -> Path:
    """An NXtomo file: dark, flat, two views, a bad picture, a view, a flat, a view."""
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry0000")
        entry.attrs["NX_class"] = "NXentry"
        detector = entry.create_group("instrument/detector")
        detector["data"], detector["image_key"] = FRAMES, KEYS
        entry["sample/rotation_angle"] = np.array([0, 0, 0, 45, 50, 90, 90, 135.0])
        entry["sample/rotation_angle"].attrs["units"] = "degree"
        detector["x_pixel_size"], detector["y_pixel_size"] = 6.5e-6, 3.0
        detector["x_pixel_size"].attrs["units"], detector["y_pixel_size"].attrs["units"] = "m", "um"
        if change is not None:
            change(entry)
    return path


def test_nxtomo_pictures_are_told_apart_by_their_key(tmp_path: Path) -> None:
    scan = io.read(nexus(tmp_path / "a.nx"))
    assert isinstance(scan, CTScan)
    assert scan.flat is not None
    assert scan.dark is not None
    np.testing.assert_array_equal(scan.projections[1:2][0], FRAMES[[2, 3, 5, 7], 1])
    np.testing.assert_array_equal(scan.flat[2:3][0], FRAMES[[1, 6], 2])
    np.testing.assert_array_equal(scan.dark[0:1][0], FRAMES[[0], 0])
    np.testing.assert_allclose(scan.geometry.angles, np.deg2rad([0, 45, 90, 135]))  # type: ignore[attr-defined]
    assert scan.geometry.vectors()[0, 4] == pytest.approx(0.0065)
    assert scan.grid.spacing[0] == pytest.approx(0.003)
    assert scan.sized
    assert scan.header["rotation_centre"] == "unknown"


@pytest.mark.parametrize(("value", "bin_of_axis"), [(-0.75, 1.25), (2.6, 2.6), (0.0, 2.0)])
def test_axis_of_nxtomo_is_counted_from_the_middle_or_from_the_first_bin(tmp_path: Path, value: float, bin_of_axis: float) -> None:
    def change(entry: Any) -> None:
        entry["instrument/detector/estimated_cor_from_motor"] = value

    scan = nxtomo.read(nexus(tmp_path / "a.nx", change))
    assert scan.header["rotation_centre"] == pytest.approx(bin_of_axis)
    ((dx, dy),) = scan.geometry.vectors()[:1, 2:4]  # angle 0: columns along +x, the axis at x = 0
    assert dx == pytest.approx((2.0 - bin_of_axis) * 0.0065)
    assert abs(dy) < 1e-15


def test_optics_magnify_so_the_pixel_at_the_sample_comes_first(tmp_path: Path) -> None:
    def change(entry: Any) -> None:
        entry["sample/x_pixel_size"] = 0.65
        entry["sample/x_pixel_size"].attrs["units"] = "µm"

    assert nxtomo.read(nexus(tmp_path / "a.nx", change)).grid.spacing[2] == pytest.approx(0.65e-3)
    assert nxtomo.read(nexus(tmp_path / "a.nx", change), pixel=0.5).grid.spacing[2] == pytest.approx(0.5)


def _without(name: str) -> Callable[[Any], None]:
    def change(entry: Any) -> None:
        del entry[name]

    return change


def _with(name: str, value: Any, **attributes: str) -> Callable[[Any], None]:
    def change(entry: Any) -> None:
        if name in entry:
            del entry[name]
        entry[name] = value
        entry[name].attrs.update(attributes)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("instrument/detector/data"), "no dataset 'data'"),
        (_without("sample/rotation_angle"), "no dataset 'rotation_angle'"),
        (_without("sample"), "no group 'entry0000/sample'"),
        (_with("sample/rotation_angle", np.arange(3.0), units="deg"), "3 angles for 4 views"),
        (_with("instrument/detector/image_key", KEYS[:5]), "5 entries for 8 pictures"),
        (_with("instrument/detector/image_key", np.full(8, 3)), "no picture of the object"),
        (_with("instrument/detector/x_pixel_size", 1.0, units="furlong"), "unit 'furlong' is not known"),
        (_with("instrument/detector/x_pixel_size", -1.0, units="m"), "expected a positive length"),
    ],
)
def test_nxtomo_that_does_not_fit_says_so(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        nxtomo.read(nexus(tmp_path / "a.nx", change))


def test_one_of_several_nxtomo_entries_is_chosen(tmp_path: Path) -> None:
    with h5py.File(nexus(tmp_path / "a.nx"), "a") as file:
        file.copy("entry0000", "entry0001")
    with pytest.raises(BadInput, match="entry=NAME; there are entry0000, entry0001"):
        io.read(tmp_path / "a.nx")
    assert io.read(tmp_path / "a.nx", entry="entry0001").header["entry"] == "entry0001"


ANGLES = even_angles(V, np.pi)
GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelBeam2D(angles=ANGLES, n_bins=K, bin_spacing=0.7, offset=0.1),
    "fan": FanBeam2D(angles=2 * ANGLES, n_bins=K, bin_spacing=1.1, dso=50.0, dsd=90.0, detector="curved"),
    "parallel volume": ParallelBeam3D(angles=ANGLES, n_bins=K, bin_spacing=0.7, n_rows=R, row_spacing=0.9, tilt=(0.1, 0.0, 0.0)),
    "cone": ConeBeam(angles=2 * ANGLES, n_bins=K, bin_spacing=1.1, dso=50.0, dsd=90.0, n_rows=R, row_spacing=1.0),
    "helix": HelicalCone(angles=9 * ANGLES, n_bins=K, bin_spacing=1.1, dso=50.0, dsd=90.0, n_rows=R, row_spacing=1.0, feed=2 / 3),
}
GEOMETRIES["vectors"] = VectorGeometry(kind_of="cone3d", rows_of_vectors=GEOMETRIES["helix"].vectors(), n_bins=K, n_rows=R)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_written_scan_comes_back_exactly(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    geometry = GEOMETRIES[name]
    items = 2 if geometry.dimensions == 2 else 1
    affine = np.array([[-0.9, 0, 0, 7.1], [0, -0.8, 0.1, 2], [0, 0, 3 / 7, 1], [0, 0, 0, 1]])
    scan = CTScan(
        grid=Grid((items, 6, 4), affine),
        header={"format": "simulated", "seed": 3, "warnings": ["one"]},
        study={"PatientID": "7"},
        simulated=True,
        projections=torch.rand(items, *geometry.shape, dtype=dtype),
        geometry=geometry,
        stored="counts",
        flat=torch.rand(items, 3, *geometry.shape[1:]),
        dark=torch.rand(1, 2, *geometry.shape[1:]),
        photons=torch.rand(V, *(1,) * (len(geometry.shape) - 1)) + 10,
        water=0.1 / 5.3,
        sized=False,
    )
    assert ct_arrays.write_scan(scan, tmp_path / "scan.npz") == [tmp_path / "scan.npz"]
    back = io.read(tmp_path / "scan.npz")
    assert isinstance(back, CTScan)
    assert torch.equal(back.projections[0:items], scan.projections[0:items])
    assert back.projections[0:1].dtype == dtype
    for part in ("flat", "dark", "photons"):
        assert torch.equal(getattr(back, part)[:], getattr(scan, part)[:]), part
    assert back.geometry.to_dict() == geometry.to_dict()
    for part in ("header", "study", "simulated", "stored", "water", "sized"):
        assert getattr(back, part) == getattr(scan, part), part
    np.testing.assert_array_equal(back.grid.affine, affine)
    assert (back.grid.shape, back.grid.orientation) == ((items, 6, 4), "known")
    with pytest.raises(OutputExists):
        ct_arrays.write_scan(scan, tmp_path / "scan.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        shape = (2, V, K)

        def __getitem__(self, index: slice) -> torch.Tensor:
            if index.start:
                raise RuntimeError("lost")
            return torch.zeros(1, V, K)

    scan = CTScan(grid=Grid.unplaced((2, K, K)), projections=Broken(), geometry=GEOMETRIES["parallel"])
    with pytest.raises(RuntimeError, match="lost"):
        ct_arrays.write_scan(scan, tmp_path / "scan.npz")
    assert not list(tmp_path.iterdir())


def test_npy_takes_the_geometry_beside_it(tmp_path: Path) -> None:
    data = RANDOM.uniform(0, 3, (2, V, K)).astype(np.float32)
    np.save(tmp_path / "a.npy", data)
    (tmp_path / "geometry.json").write_text(json.dumps({"geometry": GEOMETRIES["fan"].to_dict(), "stored": "transmission", "water": 0.02}))
    scan = io.read(tmp_path / "a.npy")
    assert isinstance(scan, CTScan)
    assert (scan.stored, scan.water) == ("transmission", 0.02)
    np.testing.assert_array_equal(scan.projections[1:2], data[1:2])
    assert scan.grid.spacing == pytest.approx((1.1 * 50 / 90,) * 3)
    assert scan.grid.shape == (2, K, K)
    (tmp_path / "geometry.json").write_text(json.dumps(GEOMETRIES["fan"].to_dict()))
    assert io.read(tmp_path / "a.npy").geometry.to_dict() == GEOMETRIES["fan"].to_dict()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"geometry": "parallel", "arc": 180}, ParallelBeam2D(angles=ANGLES, n_bins=K, bin_spacing=1.0)),
        (
            {"geometry": "parallel", "arc": -360, "endpoint": True, "start": 10, "bin_spacing": 0.5, "offset": 0.2},
            ParallelBeam2D(angles=np.deg2rad(10 - np.arange(V) * 60.0), n_bins=K, bin_spacing=0.5, offset=0.2),
        ),
        (
            {"geometry": "fan", "angles": [0, 1, 2, 3, 4, 5, 7], "bin_spacing": 0.5, "dso": 9.0, "dsd": 20.0},
            FanBeam2D(angles=np.deg2rad([0, 1, 2, 3, 4, 5, 7]), n_bins=K, bin_spacing=0.5, dso=9.0, dsd=20.0),
        ),
    ],
)
def test_a_sinogram_without_geometry_takes_it_from_options(tmp_path: Path, options: dict[str, Any], expected: Geometry) -> None:
    data = RANDOM.uniform(0, 3, (V, K))
    np.savez(tmp_path / "a.npz", sinogram=data)
    np.savez(tmp_path / "t.npz", sinogram=data.T)
    for name, turned in (("a.npz", False), ("t.npz", True)):
        scan = io.read(tmp_path / name, transposed=turned, **options)
        assert isinstance(scan, CTScan)
        np.testing.assert_array_equal(scan.projections[0:1][0], data)
        np.testing.assert_allclose(scan.geometry.vectors(), expected.vectors(), atol=1e-12)
        assert scan.sized == ("bin_spacing" in options)


def test_cone_projections_are_view_row_bin(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", projections=PICTURES, i0=1e4)
    scan = io.read(tmp_path / "a.npz", geometry="cone", arc=360, bin_spacing=1.0, row_spacing=2.0, dso=50.0, dsd=100.0)
    assert isinstance(scan, CTScan)
    assert scan.projections.shape == (1, V, R, K)
    assert scan.stored == "counts"
    assert float(scan.photons) == 1e4
    assert scan.grid.spacing == pytest.approx((1.0, 0.5, 0.5))


def test_real_neutron_and_emission_scanner_data_are_read_with_options(tmp_path: Path) -> None:
    neutron = io.read(shared("data", "ct_neutron_sino360.npz"), geometry="parallel", arc=360, endpoint=True, stored="counts")
    assert isinstance(neutron, CTScan)
    assert neutron.geometry.shape == (459, 503)
    assert any("360 degrees apart" in w for w in neutron.header["warnings"])
    path = shared("data", "ct_pet_transmission_sino.npz")
    scan = io.read(path, geometry="parallel", arc=180, transposed=True)
    assert isinstance(scan, CTScan)
    assert scan.photons is not None
    assert (scan.geometry.shape, tuple(scan.photons.shape), scan.stored) == ((192, 160), (192, 160), "counts")
    # Half a turn on, the last view mirrors the first: only with this choice of the axes.
    p = (scan.photons / scan.projections[0:1][0].clamp(min=0.5)).log()
    smooth = torch.nn.functional.avg_pool1d(p[[0, -1]], 9, 1)
    assert float(torch.corrcoef(torch.stack([smooth[0], smooth[1].flip(0)]))[0, 1]) > 0.98


@pytest.mark.parametrize(
    ("held", "options", "words"),
    [
        ({"sinogram": np.ones((V, K))}, {}, "angles nobody says"),
        ({"sinogram": np.ones((V, K))}, {"arc": 180}, "give geometry=parallel"),
        ({"sinogram": np.ones((V, K))}, {"geometry": "paralel", "arc": 180}, "did you mean 'parallel'"),
        ({"sinogram": np.ones((V, K))}, {"geometry": "parallel", "arc": "half"}, "number of degrees"),
        ({"sinogram": np.ones((V, K))}, {"geometry": "parallel", "angles": [1, 2]}, f"2 angles for {V} views"),
        ({"sinogram": np.ones((V, K))}, {"geometry": "fan", "arc": 360, "bin_spacing": 1.0}, "give dso, dsd"),
        ({"sinogram": np.ones((V, K))}, {"geometry": "cone", "arc": 360}, "view, row, bin"),
        ({"sinogram": np.ones((V, K)), "angles": np.arange(3)}, {"geometry": "parallel"}, f"3 angles for {V} views"),
        ({"sinogram": np.full((V, K), 999.0)}, {"geometry": "parallel", "arc": 180}, "no line integrals"),
        ({"sinogram": np.ones((V, K)), "photons": np.ones(K + 1)}, {"geometry": "parallel", "arc": 180}, "numbers of quanta that fit"),
        ({"sinogram": np.ones((V, K)), "flat": np.ones((2, K - 1))}, {"geometry": "parallel", "arc": 180}, "end with the detector"),
        ({"sinogram": np.ones(K)}, {"geometry": "parallel", "arc": 180}, "expected real"),
        ({"sinogram": np.ones((V, K)) * 1j}, {"geometry": "parallel", "arc": 180}, "expected real"),
        ({"data": np.ones((V, K + 1)), "geometry": json.dumps(GEOMETRIES["parallel"].to_dict())}, {}, "do not fit the geometry"),
        ({"data": np.ones((V, K)), "geometry": "{broken"}, {}, "is no JSON"),
        ({"data": np.ones((V, K)), "geometry": "[1]"}, {}, "expected an object"),
        ({"data": np.ones((V, K)), "geometry": '{"geometry": "FanBeam"}'}, {}, "did you mean 'FanBeam2D'"),
        ({"data": np.ones((V, K)), "geometry": np.arange(3)}, {}, "expected one text"),
        ({"data": np.ones((V, K)), "geometry": json.dumps(GEOMETRIES["parallel"].to_dict()), "units": "cm"}, {}, "convert them to mm"),
        ({"data": np.ones((V, K)), "geometry": json.dumps(GEOMETRIES["parallel"].to_dict()), "stored": "air"}, {}, "stored = 'air'"),
        ({"data": np.ones((V, K)), "geometry": json.dumps(GEOMETRIES["parallel"].to_dict()), "water": 19.2}, {}, "about 0.0192"),
        ({"data": np.ones((V, K)), "geometry": json.dumps(GEOMETRIES["parallel"].to_dict())}, {"arc": 180}, "its own geometry"),
        ({"geometry": json.dumps(GEOMETRIES["parallel"].to_dict())}, {}, "expected projections named data"),
    ],
)
def test_arrays_that_do_not_fit_say_so(tmp_path: Path, held: dict[str, Any], options: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(BadInput, match=words):
        io.read(tmp_path / "a.npz", **options)


def test_pickles_and_cut_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.ones((V, K)), geometry=np.array([{"a": 1}], object))
    with pytest.raises(BadInput, match="never loaded"):
        io.read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", data=np.ones((V, K)), geometry=json.dumps(GEOMETRIES["parallel"].to_dict()))
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[:-40])
    with pytest.raises(BadInput, match="cut short, damaged"):
        io.read(tmp_path / "c.npz")


def test_other_arrays_still_go_to_their_reader(tmp_path: Path) -> None:
    kspace = RANDOM.normal(size=(2, 4, 8, 6)) + 1j
    np.savez(tmp_path / "k.npz", kspace=kspace, data=np.ones((3, 4)))
    np.savez(tmp_path / "i.npz", image=np.ones((3, 4)))
    np.savez(tmp_path / "d.npz", data=np.ones((3, 4)))
    np.save(tmp_path / "n.npy", np.ones((3, 4)))
    for name in ("k.npz", "i.npz", "d.npz", "n.npy"):
        assert not ct_arrays.recognises(tmp_path / name), name
        assert arrays.recognises(tmp_path / name), name
    assert io.read(tmp_path / "k.npz").modality == "mri"
    assert isinstance(io.read(tmp_path / "d.npz"), Volume)


def test_scans_describe_themselves(tmp_path: Path) -> None:
    facts = io.describe(exchange(tmp_path / "a.h5", theta=np.arange(V) * 25.0), pixel=0.5)
    assert (facts["kind"], facts["projections"]) == ("scan", {"slice": R, "view": V, "bin": K})
    json.dumps(facts)
