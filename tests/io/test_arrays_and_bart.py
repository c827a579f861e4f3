"""NumPy and BART files: axis order, round trips, real scans, damage."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import program, shared

from medrecon.errors import BadInput, NotSupported
from medrecon.io import arrays, bart
from medrecon.linop.fourier import fft, ifft
from medrecon.physics.mri.scan import MRIScan
from medrecon.volume import Grid, Volume

AFFINE = np.array([[-0.9, 0.05, 0.1, 80.0], [0.04, 1.1, -0.2, -60.0], [0.02, 0.1, 3.0, 20.0], [0, 0, 0, 1.0]])


def scan_of(path: Path, **options: object) -> MRIScan:
    module = bart if path.suffix in (".cfl", ".hdr", "") else arrays
    scan = module.read(path, **options)
    assert isinstance(scan, MRIScan)
    return scan


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_complex_arrays_are_kspace_in_fastmri_order(tmp_path: Path, name: str) -> None:
    data = noise(2, 3, 10, 7).numpy()  # slice, coil, readout, phase
    if name.endswith("y"):
        np.save(tmp_path / name, data)
    else:
        np.savez(tmp_path / name, ksp=data, other=np.arange(3))
    scan = scan_of(tmp_path / name)
    assert tuple(scan.kspace.shape) == (2, 3, 7, 10)
    assert torch.equal(scan.kspace[1:2][0], torch.from_numpy(data[1]).transpose(-1, -2))
    assert scan.grid.orientation == "unknown"
    assert scan.mask is not None
    assert scan.mask.shape == (7, 1)


def test_one_slice_may_lack_its_axis_and_zeros_are_unsampled(tmp_path: Path) -> None:
    data = noise(3, 10, 7).numpy()
    data[..., [1, 4]] = 0
    np.save(tmp_path / "a.npy", data)
    scan = scan_of(tmp_path / "a.npy")
    assert scan.n_slices == 1
    assert torch.nonzero(scan.mask[:, 0])[:, 0].tolist() == [0, 2, 3, 5, 6]


@pytest.mark.parametrize(("dtype", "shape"), [(np.float64, (4, 5, 6)), (np.int16, (5, 6)), (np.complex64, (5, 6)), (np.uint8, (4, 5, 6))])
def test_other_arrays_are_images(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", image)
    volume = arrays.read(tmp_path / "a.npy", pixel_mm=2.0)
    assert isinstance(volume, Volume)
    assert np.array_equal(volume.numpy().reshape(shape), image)
    assert volume.spacing == (2.0, 2.0, 2.0)


def test_image_archives_bring_scale_and_pixel_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3), 512, np.uint16), scale=np.float32(1 / 1024), pixel_mm=np.float32(0.9))
    volume = arrays.read(tmp_path / "a.npz")
    assert isinstance(volume, Volume)
    assert volume.image.unique().tolist() == [0.5]
    assert volume.spacing == pytest.approx((0.9, 0.9, 0.9))


def test_written_volume_comes_back_with_its_place(tmp_path: Path) -> None:
    volume = Volume(noise(3, 4, 5), Grid((3, 4, 5), AFFINE), units="arbitrary", provenance={"method": "sense"})
    arrays.write(volume, tmp_path / "a.npz")
    back = arrays.read(tmp_path / "a.npz")
    assert isinstance(back, Volume)
    assert torch.equal(back.image, volume.image)
    assert np.array_equal(back.affine, AFFINE)
    arrays.write(volume.magnitude, tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), volume.image.abs().numpy())


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", kspace=np.array([print], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(BadInput, match="pickled"):
            arrays.read(tmp_path / name)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(2, 3, 10, 7).numpy())
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-100])
    with pytest.raises(BadInput, match="cut short"):
        arrays.read(tmp_path / "a.npy")
    np.savez_compressed(tmp_path / "b.npz", kspace=noise(2, 3, 10, 7).numpy())
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[:-300])
    with pytest.raises(BadInput):
        arrays.read(tmp_path / "b.npz")
    middle = len(whole) // 2
    (tmp_path / "b.npz").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(BadInput, match="damaged"):
        arrays.read(tmp_path / "b.npz")


def test_an_archive_that_announces_too_much_is_refused(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00"
    words = "{'descr': '<c8', 'fortran_order': False, 'shape': (100000, 64, 4096, 4096), }".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("kspace.npy", header + len(words).to_bytes(2, "little") + words.encode())
    with pytest.raises(BadInput, match="header announces"):
        arrays.read(tmp_path / "a.npz")


def test_an_archive_without_a_known_name_lists_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 4, 4)), two=np.zeros((3, 4, 4)))
    with pytest.raises(BadInput, match=r"one \(3, 4, 4\).*two"):
        arrays.read(tmp_path / "a.npz")
    assert isinstance(arrays.read(tmp_path / "a.npz", key="two"), Volume)


def test_real_undersampled_brain_is_read_with_its_two_axis_mask() -> None:
    scan = scan_of(shared("data", "mr_brain8ch_undersampled_ksp.npy"))
    assert tuple(scan.kspace.shape) == (1, 8, 180, 230)
    assert scan.mask is not None
    assert scan.mask.shape == (180, 230)
    assert float(scan.mask.float().mean()) == pytest.approx(0.124, abs=0.001)
    assert bool(scan.mask[180 // 2 - 12 : 180 // 2 + 12, 230 // 2 - 12 : 230 // 2 + 12].all())


@pytest.mark.parametrize(("name", "shape"), [("siemens_gre", (1, 2, 320, 160)), ("pulseq_gre3echo", (3, 1, 256, 256))])
def test_real_full_scans_are_read_as_fully_sampled(name: str, shape: tuple[int, ...]) -> None:
    scan = scan_of(shared("data", f"mr_{name}_ksp.npz"))
    assert tuple(scan.kspace.shape) == shape
    assert scan.mask is not None
    assert bool(scan.mask.all())
    assert torch.isfinite(torch.view_as_real(scan.kspace[0:1])).all()


def test_cfl_kspace_comes_back_exactly(tmp_path: Path) -> None:
    data = noise(2, 3, 7, 10)
    scan = MRIScan(grid=Grid.unplaced((2, 7, 10)), kspace=data)
    assert bart.write_scan(scan, tmp_path / "k.cfl") == [tmp_path / "k.cfl", tmp_path / "k.hdr"]
    for name in ("k.cfl", "k.hdr", "k"):
        assert bart.recognises(tmp_path / name)
        back = scan_of(tmp_path / name)
        assert torch.equal(back.kspace[0:2], data)
    assert (tmp_path / "k.hdr").read_text().splitlines()[1] == "10 7 1 3 1 1 1 1 1 1 1 1 1 2 1 1"


def test_three_dimensional_cfl_comes_back_exactly(tmp_path: Path) -> None:
    data = noise(1, 3, 4, 7, 10)
    bart.write_scan(MRIScan(grid=Grid.unplaced((4, 7, 10)), kspace=data, image_axes=3), tmp_path / "k.cfl")
    back = scan_of(tmp_path / "k.cfl")
    assert back.image_axes == 3
    assert torch.equal(back.kspace[0:1], data)


def test_cfl_image_comes_back_exactly(tmp_path: Path) -> None:
    volume = Volume(noise(3, 4, 5), Grid((3, 4, 5), AFFINE))
    bart.write(volume, tmp_path / "v.cfl")
    back = bart.read(tmp_path / "v.cfl", kind="image")
    assert isinstance(back, Volume)
    assert torch.equal(back.image, volume.image)


def test_cfl_whose_size_is_not_its_header_s_is_refused(tmp_path: Path) -> None:
    bart.write_scan(MRIScan(grid=Grid.unplaced((2, 7, 10)), kspace=noise(2, 3, 7, 10)), tmp_path / "k.cfl")
    with (tmp_path / "k.cfl").open("ab") as file:
        file.truncate(400)
    with pytest.raises(BadInput, match=r"400 bytes.*READ 10 x PHS1 7 x COIL 3 x SLICE 2 = 3360"):
        bart.read(tmp_path / "k.cfl")
    (tmp_path / "k.hdr").write_text("# Dimensions\n10 -7 1 3\n")
    with pytest.raises(BadInput, match="positive whole numbers"):
        bart.read(tmp_path / "k.cfl")
    (tmp_path / "k.hdr").unlink()
    with pytest.raises(BadInput, match="no such file"):
        bart.read(tmp_path / "k.cfl")


def test_further_cfl_dimensions_are_named(tmp_path: Path) -> None:
    (tmp_path / "k.hdr").write_text("# Dimensions\n4 4 1 2 1 3\n")
    (tmp_path / "k.cfl").write_bytes(bytes(8 * 4 * 4 * 2 * 3))
    with pytest.raises(NotSupported, match=r"TE \(dimension 5\) of length 3.*bart slice 5 0"):
        bart.read(tmp_path / "k.cfl")


@pytest.mark.peer
def test_bart_understands_our_pairs_and_we_its(tmp_path: Path) -> None:
    run = program("bart")
    data = noise(2, 3, 9, 10)
    bart.write_scan(MRIScan(grid=Grid.unplaced((2, 9, 10)), kspace=data), tmp_path / "k.cfl")
    subprocess.run([run, "fft", "-u", "-i", "3", "k", "image"], cwd=tmp_path, check=True)
    back = scan_of(tmp_path / "image.cfl")
    assert torch.allclose(back.kspace[0:2], ifft(data, (-2, -1)), atol=1e-5)
    subprocess.run([run, "phantom", "-k", "-s", "4", "-x", "32", "p"], cwd=tmp_path, check=True)
    phantom = scan_of(tmp_path / "p.cfl")
    assert tuple(phantom.kspace.shape) == (1, 4, 32, 32)
    subprocess.run([run, "phantom", "-x", "32", "q"], cwd=tmp_path, check=True)
    image = bart.read(tmp_path / "q.cfl", kind="image")
    assert isinstance(image, Volume)
    assert fft(image.image, (-2, -1)).abs().argmax() == 16 * 32 + 16
