"""fastMRI files: goldens of the fastMRI package, round trips, places, damage."""

from __future__ import annotations

import json
import os
import pickle
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import GOLDEN, shared
from torch import Tensor

from medrecon import io
from medrecon.errors import BadInput, NotSupported, OutputExists
from medrecon.io import fastmri
from medrecon.io.mrd_header import parse
from medrecon.linop.fourier import ifft
from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.simulate import simulate, undersample
from medrecon.tensors import fastmri_crop
from medrecon.volume import Grid, Volume

FILES = sorted((GOLDEN / "mri" / "fastmri_files").glob("*.h5"))
EXPECTED = json.loads((GOLDEN / "mri" / "fastmri_files_expected.json").read_text())
IMAGES = np.load(GOLDEN / "mri" / "fastmri_files_expected.npz")
AFFINE = np.array([[-0.9, 0.05, 0.1, 80.0], [0.04, 1.1, -0.2, -60.0], [0.02, 0.1, 3.0, 20.0], [0, 0, 0, 1.0]])


def scan_of(path: Path, **options: object) -> MRIScan:
    scan = fastmri.read(path, **options)
    assert isinstance(scan, MRIScan)
    return scan


def rss(scan: MRIScan) -> Tensor:
    images = fastmri_crop(ifft(scan.kspace[0 : scan.n_slices], (-2, -1)), scan.crop or scan.matrix)
    return images.abs().square().sum(1).sqrt()


def simulated(shape: tuple[int, int, int] = (3, 24, 20), known: bool = True, **settings: object) -> MRIScan:
    image = torch.rand(*shape, generator=torch.Generator().manual_seed(1))
    image[:, 2:5, 1:3] += 3  # nothing about it is symmetric
    grid = Grid(shape, AFFINE) if known else Grid.unplaced(shape, (4, 1.5, 1))
    volume = Volume(image, grid, facts={"PatientID": "phantom & co", "RepetitionTime": 500.0, "StudyDate": "20240131"})
    return simulate(volume, coils=3, **settings)


def written(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_facts_are_those_of_the_fastmri_package(path: Path) -> None:
    scan, expected = scan_of(path), EXPECTED[path.name]["metadata"]
    for name in ("padding_left", "padding_right", "acquisition", "max", "norm", "patient_id"):
        assert scan.header[name] == expected[name]
    assert list(scan.header["encoding_size"]) == expected["encoding_size"]
    assert list(scan.header["recon_size"]) == expected["recon_size"]
    assert not scan.header["warnings"]
    assert scan.grid.orientation == "unknown"
    assert scan.grid.spacing[0] == pytest.approx(4.5)
    assert scan.study["BodyPartExamined"] in ("KNEE", "BRAIN")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_crop_and_rss_are_those_of_the_stored_target(path: Path) -> None:
    scan = scan_of(path)
    with h5py.File(path) as file:
        target = torch.from_numpy(file["reconstruction_rss"][()]).transpose(1, 2)
    assert scan.crop == tuple(target.shape[1:])
    assert scan.grid.shape == tuple(target.shape)
    assert (rss(scan) - target).abs().max() < 1e-5 * target.max()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_masked_zero_filled_image_is_the_golden_one(path: Path) -> None:
    scan = scan_of(path)
    mask = torch.from_numpy(IMAGES[f"{path.stem}__varnet_mask"])
    assert scan.mask is not None
    assert scan.mask.shape == (scan.matrix[0], 1)
    assert not (mask & ~scan.mask[:, 0]).any()  # padding is not sampled
    expected = torch.from_numpy(IMAGES[f"{path.stem}__zero_filled"]).transpose(1, 2)
    assert (rss(undersample(scan, mask)) - expected).abs().max() < 1e-5 * expected.max()


def test_columns_outside_the_header_limits_are_not_in_the_mask() -> None:
    scan = scan_of(FILES[0])
    assert scan.mask is not None
    assert torch.nonzero(scan.mask[:, 0])[:, 0].tolist() == list(range(4, 71))


@pytest.mark.parametrize("oversampling", [1.0, 2.0, 1.3])
def test_written_scan_comes_back_exactly_with_its_place(tmp_path: Path, oversampling: float) -> None:
    scan = simulated(oversampling=oversampling, seed=4)
    assert fastmri.write_scan(scan, tmp_path / "scan.h5") == [tmp_path / "scan.h5"]
    back = scan_of(tmp_path / "scan.h5")
    assert torch.equal(back.kspace[0:3], scan.kspace[0:3])
    assert np.array_equal(back.grid.affine, AFFINE)
    assert back.grid.orientation == "known"
    assert back.grid.shape == scan.grid.shape
    assert back.crop == scan.crop
    assert back.simulated
    assert back.noise is not None
    assert scan.noise is not None
    assert torch.equal(back.noise.samples, scan.noise.samples)
    assert back.study["PatientID"] == "phantom & co"
    assert back.study["RepetitionTime"] == 500
    assert back.study["StudyDate"] == "20240131"
    assert not back.header["warnings"]


def test_simulated_volume_comes_back_voxel_by_voxel(tmp_path: Path) -> None:
    image = torch.rand(2, 17, 22, generator=torch.Generator().manual_seed(3))
    volume = Volume(image, Grid((2, 17, 22), AFFINE))
    fastmri.write_scan(simulate(volume, coils=4, noise_std=0, oversampling=2), tmp_path / "a.h5")
    back = scan_of(tmp_path / "a.h5")
    assert torch.allclose(rss(back), image, atol=1e-5)
    assert np.array_equal(back.grid.affine, volume.affine)
    with h5py.File(tmp_path / "a.h5") as file:  # the file's own order is (slice, readout, phase)
        assert file["kspace"].shape == (2, 4, 44, 17)
        assert np.allclose(file["reconstruction_rss"][()], image.transpose(1, 2).numpy(), atol=1e-5)
        assert file.attrs["max"] == pytest.approx(float(image.max()), rel=1e-5)
        assert file.attrs["norm"] == pytest.approx(float(image.norm()), rel=1e-5)


def test_undersampled_scan_keeps_its_mask_and_has_no_target(tmp_path: Path) -> None:
    mask = torch.arange(24) % 3 == 0
    mask[10:14] = True
    scan = undersample(simulated(), mask)
    fastmri.write_scan(scan, tmp_path / "a.h5")
    back = scan_of(tmp_path / "a.h5")
    assert torch.equal(back.mask, scan.mask)
    assert torch.equal(back.kspace[0:3], scan.kspace[0:3])
    assert back.header["targets"] == []
    plane = torch.rand(24, 20) < 0.3
    plane[8:16, 6:14] = True
    fastmri.write_scan(undersample(simulated(), plane), tmp_path / "b.h5")
    assert torch.equal(scan_of(tmp_path / "b.h5").mask, plane)


def test_unknown_orientation_stays_unknown_but_spacing_is_kept(tmp_path: Path) -> None:
    fastmri.write_scan(simulated(known=False), tmp_path / "a.h5")
    back = scan_of(tmp_path / "a.h5")
    assert back.grid.orientation == "unknown"
    assert back.grid.spacing == pytest.approx((4, 1.5, 1))


def test_prediction_file_is_read_by_evaluators_and_by_us(tmp_path: Path) -> None:
    volume = Volume(torch.randn(2, 6, 5, dtype=torch.complex64), Grid((2, 6, 5), AFFINE))
    fastmri.write(volume, tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].dtype == np.float32
        assert np.allclose(file["reconstruction"][()], volume.image.abs().transpose(1, 2).numpy())
    back = fastmri.read(tmp_path / "p.h5")
    assert isinstance(back, Volume)
    assert torch.equal(back.image, volume.image.abs())
    assert np.array_equal(back.affine, AFFINE)


def test_output_that_exists_is_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(OutputExists):
        fastmri.write_scan(simulated(), tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
    fastmri.write_scan(simulated(), tmp_path / "a.h5", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Failing:
        shape = (3, 3, 24, 20)

        def __getitem__(self, index: slice) -> Tensor:
            raise RuntimeError("the source went away")

    scan = simulated()
    with pytest.raises(RuntimeError):
        fastmri.write_scan(MRIScan(grid=scan.grid, kspace=Failing()), tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_three_dimensional_scans_are_not_written_as_slices(tmp_path: Path) -> None:
    scan = MRIScan(grid=Grid.unplaced((4, 5, 6)), kspace=torch.ones(1, 2, 4, 5, 6, dtype=torch.complex64), image_axes=3)
    with pytest.raises(NotSupported, match="3-D"):
        fastmri.write_scan(scan, tmp_path / "a.h5")


def test_single_coil_files_get_a_coil_axis(tmp_path: Path) -> None:
    kspace = torch.randn(2, 8, 6, dtype=torch.complex64)
    scan = scan_of(written(tmp_path / "a.h5", kspace=kspace.numpy()))
    assert tuple(scan.kspace.shape) == (2, 1, 6, 8)
    assert torch.equal(scan.kspace[1:2][0, 0], kspace[1].T)
    assert scan.header["single_coil"]
    assert "no ismrmrd_header" in scan.header["warnings"][0]


def test_noise_covariance_becomes_samples_with_that_covariance(tmp_path: Path) -> None:
    a = torch.randn(4, 4, dtype=torch.complex128)
    covariance = a @ a.mH + torch.eye(4)
    path = written(tmp_path / "a.h5", kspace=np.ones((1, 4, 6, 6), np.complex64), noise_cov=covariance.numpy())
    noise = scan_of(path).noise
    assert noise is not None
    samples = noise.samples.to(torch.complex128)
    assert samples.mean(1).abs().max() < 1e-3
    assert torch.allclose(samples @ samples.mH / samples.shape[1], covariance, atol=1e-5)


def test_a_test_file_uses_its_mask_without_the_padded_columns(tmp_path: Path) -> None:
    kspace = np.ones((1, 2, 8, 12), np.complex64)
    mask = np.zeros(12, np.float32)
    mask[[0, 3, 5, 6, 7, 11]] = 1
    kspace[..., mask == 0] = 0
    kspace[..., [0, 11]] = 0  # padded
    scan = scan_of(written(tmp_path / "a.h5", kspace=kspace, mask=mask))
    assert torch.nonzero(scan.mask[:, 0])[:, 0].tolist() == [3, 5, 6, 7]


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"reconstruction_rss": np.zeros((1, 4, 4))}, "no dataset 'kspace'; the file holds: reconstruction_rss"),
        ({"kspace": np.zeros((4, 4), np.complex64)}, "2 axes"),
        ({"kspace": np.zeros((1, 1, 1, 4, 4), np.complex64)}, "5 axes"),
        ({"kspace": np.ones((1, 2, 4, 4), np.float32)}, "float32, expected complex64"),
        ({"kspace": np.zeros((1, 2, 4, 4), np.complex64)}, "zero in the first"),
        ({"kspace": np.ones((1, 2, 4, 4), np.complex64), "mask": np.ones(5)}, "mask is float64 .5,., k-space has 4"),
        ({"kspace": np.ones((1, 2, 4, 4), np.complex64), "mask": np.array([1, 1, 0, 1])}, "leaves out 1 columns that hold data"),
        ({"kspace": np.ones((1, 2, 4, 4), np.complex64), "ismrmrd_header": b"<a>"}, "not valid XML"),
        ({"kspace": np.ones((1, 2, 4, 4), np.complex64), "noise_cov": np.ones((3, 3), np.complex64)}, "with 2 coils"),
        ({"kspace": np.ones((1, 2, 4, 4), np.complex64), "noise_cov": -np.eye(2, dtype=np.complex64)}, "positive definite"),
    ],
)
def test_a_wrong_file_is_refused_with_what_was_found(tmp_path: Path, datasets: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        fastmri.read(written(tmp_path / "a.h5", **datasets))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7])
def test_a_file_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    whole = FILES[0].read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: int(len(whole) * part)])
    assert fastmri.recognises(path)
    with pytest.raises(BadInput, match="cut short"):
        fastmri.read(path)


def test_a_name_in_h5_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.h5"
    path.write_text("<html>please log in</html>")
    assert fastmri.recognises(path)
    with pytest.raises(BadInput, match="not an HDF5 file"):
        fastmri.read(path)
    with pytest.raises(BadInput, match="no such file"):
        fastmri.read(tmp_path / "absent.h5")


def test_dimensions_that_the_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("kspace", (10**6, 64, 4096, 4096), np.complex64, chunks=(1, 1, 64, 64))
    with pytest.raises(BadInput, match="damaged or cut short"):
        fastmri.read(tmp_path / "huge.h5")


def test_links_out_of_the_file_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink(str(FILES[0]), "/kspace")
    with pytest.raises(BadInput, match="link to elsewhere"):
        fastmri.read(tmp_path / "link.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        external = [(str(tmp_path / "raw.bin"), 0, 1 * 2 * 4 * 4 * 8)]
        file.create_dataset("kspace", (1, 2, 4, 4), np.complex64, external=external)
    with pytest.raises(BadInput, match="other files"):
        fastmri.read(tmp_path / "raw.h5")


def test_entities_in_the_header_are_never_expanded() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ismrmrdHeader>&b;</ismrmrdHeader>'
    with pytest.raises(BadInput, match="entities"):
        parse(bomb, "bomb")


def test_a_bad_affine_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", kspace=np.ones((1, 2, 4, 4), np.complex64))
    with h5py.File(path, "a") as file:
        file.attrs["medrecon_affine"] = np.zeros((4, 4))
    with pytest.raises(BadInput, match="singular"):
        fastmri.read(path)


def test_the_lazy_array_survives_a_fork_and_a_pickle() -> None:
    scan = scan_of(FILES[0])
    first = scan.kspace[0:1]
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # as data-loading workers do: the parent's threads are not there after a fork
        os._exit(0 if torch.equal(scan.kspace[0:1], first) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(pickle.loads(pickle.dumps(scan.kspace))[0:1], first)


def test_reading_many_slices_keeps_memory_flat(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", kspace=np.ones((4, 2, 64, 64), np.complex64))
    scan = scan_of(path)

    def read(count: int) -> int:
        for i in range(count):
            assert scan.kspace[i % 4 : i % 4 + 1].shape[0] == 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = read(200)
    assert read(1800) - before < 20_000  # KiB; 2000 slices are 131 MB


def test_the_shared_simulated_brain_reads_with_its_noise() -> None:
    scan = scan_of(shared("data", "simulated_multicoil_brain.h5"))
    assert tuple(scan.kspace.shape) == (4, 8, 256, 256)
    assert scan.simulated
    assert scan.noise is not None
    assert scan.grid.spacing == pytest.approx((1.5, 0.9, 0.9))
    with h5py.File(scan.source) as file:
        target = torch.from_numpy(file["reconstruction_rss"][1]).T
    assert (rss(scan.select(slice(1, 2)))[0] - target).abs().max() < 1e-4 * target.max()


def test_a_description_names_the_patient_on_request_only(tmp_path: Path) -> None:
    golden = GOLDEN / "mri" / "fastmri_files" / "file9000001.h5"
    assert "phantom" not in str(io.describe(golden)["header"].get("patient_id", ""))
    assert io.describe(golden, identity=True)["header"]["patient_id"] == "phantom-file9000001.h5"
