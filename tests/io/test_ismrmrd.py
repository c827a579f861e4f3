"""MRD files made with the ismrmrd package: data, places, flags, choices, damage."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mrd_files import ROTATION, Shot, changed, header, shots_2d, write
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, MissingExtra, NotSupported
from medrecon.io import fastmri, ismrmrd
from medrecon.linop.fourier import fft, ifft
from medrecon.physics.mri.scan import MRIScan
from medrecon.tensors import fastmri_crop

pytest.importorskip("ismrmrd")

NX, NY, COILS = 24, 17, 3
FOV = (48.0, 25.5, 4.0)
CENTRE = np.array([12.0, -30.0, 45.0])


def images(n_slices: int, ny: int = NY, nx: int = NX, seed: int = 0) -> Tensor:
    """Random complex coil images (slice, coil, y, x)."""
    return torch.randn(n_slices, COILS, ny, nx, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def stack(n_slices: int, gap: float = 5.0) -> list[NDArray[np.float64]]:
    """Centres of slices along the slice direction, LPS mm."""
    return [CENTRE + k * gap * ROTATION[:, 2] for k in range(n_slices)]


def lines(image: Tensor, positions: list[NDArray[np.float64]], numbers: list[int] | None = None) -> list[Shot]:
    return shots_2d(fft(image, (-2, -1)).numpy(), positions, numbers)


def shown(scan: MRIScan) -> Tensor:
    """Coil images of the whole scan, cropped."""
    images = ifft(scan.kspace[0 : scan.n_slices], (-2, -1))
    return fastmri_crop(images, scan.crop or scan.matrix)


def ras(scan: MRIScan, x: float, y: float, z: float) -> NDArray[np.float64]:
    return (scan.grid.affine @ [x, y, z, 1.0])[:3]


def lps_place(x: float, y: float, position: NDArray[np.float64], nx: int = NX, ny: int = NY) -> NDArray[np.float64]:
    """Where the standard puts pixel (x, y) of a slice: its centre pixel N//2 at `position`; LPS mm."""
    return position + ROTATION[:, 0] * (x - nx // 2) * FOV[0] / NX + ROTATION[:, 1] * (y - ny // 2) * FOV[1] / NY


def test_interleaved_slices_come_back_in_the_order_of_their_places(tmp_path: Path) -> None:
    image, positions = images(4), stack(4)
    numbers = [2, 0, 3, 1]  # counters as an interleaved scan gives them
    shots = lines(image, positions, numbers)
    shots = [shots[i] for i in np.random.default_rng(0).permutation(len(shots))]
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), shots))
    assert torch.allclose(shown(scan), image, atol=1e-5)
    assert scan.mask is not None
    assert scan.mask.shape == (NY, 1)
    assert scan.grid.orientation == "known"
    for k in range(4):
        expected = lps_place(3, 5, positions[k]) * [-1, -1, 1]
        assert np.allclose(ras(scan, 3, 5, k), expected, atol=1e-4)
    assert scan.grid.spacing == pytest.approx((5.0, FOV[1] / NY, FOV[0] / NX), rel=1e-5)


def test_axial_slice_gets_the_affine_worked_out_by_hand(tmp_path: Path) -> None:
    k = fft(images(1, 256, 256), (-2, -1)).numpy()
    axial = {"read_dir": (1, 0, 0), "phase_dir": (0, 1, 0), "slice_dir": (0, 0, 1)}
    shots = shots_2d(k, [np.array([3, -12.5, 40])], **axial)
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((256, 256, 1), (230.4, 230.4, 5)), shots))
    expected = [[-0.9, 0, 0, 112.2], [0, -0.9, 0, 127.7], [0, 0, 5, 40], [0, 0, 0, 1]]
    assert np.allclose(scan.grid.affine, expected, atol=1e-5)


def test_readout_oversampling_is_cropped_and_the_place_stays(tmp_path: Path) -> None:
    image = images(2, NY, 2 * NX)
    xml = header((2 * NX, NY, 1), (2 * FOV[0], *FOV[1:]), (NX, NY, 1), FOV)
    scan = ismrmrd.read(write(tmp_path / "a.h5", xml, lines(image, stack(2))))
    assert scan.crop == (NY, NX)
    assert torch.allclose(shown(scan), image[..., NX // 2 : NX // 2 + NX], atol=1e-5)
    assert np.allclose(ras(scan, NX // 2, NY // 2, 1), stack(2)[1] * [-1, -1, 1], atol=1e-4)


def test_siemens_data_are_mirrored_not_conjugated(tmp_path: Path) -> None:
    """A Siemens scanner's exponent has the other sign: the plain FFT of its data shows the mirror image."""
    image = images(2)
    signed = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))
    shots = shots_2d(signed.numpy(), stack(2))
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV, vendor="SIEMENS"), shots))
    assert torch.allclose(shown(scan), image, atol=1e-5)
    assert scan.header["mirrored_for_vendor"]
    assert np.allclose(ras(scan, NX // 2, NY // 2, 0), CENTRE * [-1, -1, 1], atol=1e-4)
    other = ismrmrd.read(write(tmp_path / "b.h5", header((NX, NY, 1), FOV, vendor="Other"), shots))
    assert not torch.allclose(shown(other), image, atol=1e-2)


@pytest.mark.parametrize("vendor", ["", "SIEMENS"])
def test_undersampled_mirrored_lines_keep_their_mask(tmp_path: Path, vendor: str) -> None:
    shots = [shot for shot in lines(images(1, 16, NX), stack(1)) if shot.counters["kspace_encode_step_1"] in (0, 1, 8, 13)]
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, 16, 1), FOV, vendor=vendor), shots))
    expected = (0, 1, 8, 13) if not vendor else (0, 15, 8, 3)
    assert scan.mask is not None
    assert sorted(torch.nonzero(scan.mask)[:, 0].tolist()) == sorted(expected)
    assert torch.equal((scan.kspace[0:1] != 0).any(1).any(-1)[0], scan.mask[:, 0])


def test_reversed_and_trimmed_lines_are_put_right(tmp_path: Path) -> None:
    image = images(1)

    def scramble(shot: Shot) -> Shot:
        if shot.counters["kspace_encode_step_1"] % 2 == 0:
            return shot
        junk = np.full((COILS, 5), 99, np.complex64)
        padded = np.concatenate([junk[:, :2], shot.data, junk[:, :3]], 1)  # in the order of rising kx
        fields = {**shot.fields, "center_sample": 2 + NX // 2, "discard_pre": 3, "discard_post": 2}
        return replace(shot, data=padded[:, ::-1], flags=("IS_REVERSE",), fields=fields)

    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), changed(lines(image, stack(1)), scramble)))
    assert torch.allclose(shown(scan), image, atol=1e-5)


def test_asymmetric_echo_and_partial_fourier_leave_zeros_and_a_mask(tmp_path: Path) -> None:
    kspace = fft(images(1), (-2, -1))
    first_x, first_y = 7, 4

    def cut(shot: Shot) -> Shot:
        counters = {**shot.counters, "kspace_encode_step_1": shot.counters["kspace_encode_step_1"] - first_y}
        return replace(shot, data=shot.data[:, first_x:], counters=counters, fields={**shot.fields, "center_sample": NX // 2 - first_x})

    shots = changed(shots_2d(kspace.numpy(), stack(1))[first_y:], cut)
    xml = header((NX, NY, 1), FOV, center=(NY // 2 - first_y, 0))
    scan = ismrmrd.read(write(tmp_path / "a.h5", xml, shots))
    found = scan.kspace[0:1]
    assert torch.equal(found[..., first_y:, first_x:], kspace[..., first_y:, first_x:])
    assert not found[..., :first_y, :].any()
    assert not found[..., :first_x].any()
    assert scan.mask is not None
    assert scan.mask.shape == (NY, NX)
    assert int(scan.mask.sum()) == (NY - first_y) * (NX - first_x)


def test_three_dimensional_scan_keeps_its_place(tmp_path: Path) -> None:
    nz = 6
    image = torch.randn(COILS, nz, NY, NX, dtype=torch.complex64)
    kspace = fft(image, (-3, -2, -1)).numpy()
    fields = {"position": CENTRE}
    shots = [
        Shot(kspace[:, z, y], {"kspace_encode_step_1": y, "kspace_encode_step_2": z}, fields=fields)
        for z in range(nz)
        for y in range(NY)
        if (y + z) % 2 == 0 or abs(y - 8) < 3
    ]
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, nz), (*FOV[:2], 18.0)), shots))
    assert scan.image_axes == 3
    assert tuple(scan.kspace.shape) == (1, COILS, nz, NY, NX)
    assert scan.mask is not None
    assert scan.mask.shape == (nz, NY, 1)
    assert torch.equal(scan.kspace[0:1][0], torch.where(scan.mask, torch.from_numpy(kspace), 0))
    assert scan.grid.shape == (nz, NY, NX)
    assert np.allclose(ras(scan, NX // 2, NY // 2, nz // 2), CENTRE * [-1, -1, 1], atol=1e-4)
    assert scan.grid.spacing[0] == pytest.approx(3.0)


def test_repeated_lines_are_averaged_and_the_noise_knows_it(tmp_path: Path) -> None:
    kspace = fft(images(1), (-2, -1)).numpy()
    noise = np.random.default_rng(1).normal(size=(COILS, 512, 2)).astype(np.float32).view(np.complex64)[..., 0]
    shots = [Shot(noise, {}, ("IS_NOISE_MEASUREMENT",), {"sample_time_us": 10.0})]
    for average, factor in enumerate((0.5, 1.5)):
        repeat = shots_2d(factor * kspace, stack(1))
        shots += [replace(shot, counters={**shot.counters, "average": average}) for shot in repeat]
    extra = header((NX, NY, 1), FOV).replace(
        "</systemFieldStrength_T>",
        "</systemFieldStrength_T><relativeReceiverNoiseBandwidth>0.8</relativeReceiverNoiseBandwidth>",
    )
    scan = ismrmrd.read(write(tmp_path / "a.h5", extra, shots))
    assert torch.allclose(scan.kspace[0:1], torch.from_numpy(kspace), atol=1e-5)
    assert scan.noise is not None
    assert torch.equal(scan.noise.samples, torch.from_numpy(noise))
    assert scan.noise.bandwidth_ratio == pytest.approx((10 / 5) / 0.8 / 2)
    assert scan.header["averages"] == (2, 2)


def test_calibration_lines_become_a_reference_or_stay_in_the_image(tmp_path: Path) -> None:
    image = lines(images(2), stack(2))
    sampled = [shot for shot in image if shot.counters["kspace_encode_step_1"] % 2 == 0]
    separate = [replace(shot, flags=("IS_PARALLEL_CALIBRATION",)) for shot in image if 5 <= shot.counters["kspace_encode_step_1"] < 12]
    navigators = [replace(image[0], flags=("IS_NAVIGATION_DATA",), data=image[0].data * 100)]
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), navigators + separate + sampled))
    assert scan.mask is not None
    assert torch.nonzero(scan.mask[:, 0])[:, 0].tolist() == list(range(0, NY, 2))
    assert scan.calib is not None
    calibrated = (scan.calib[0:2] != 0).any(-1)[:, 0]
    assert torch.equal(calibrated, (torch.arange(NY) >= 5).logical_and(torch.arange(NY) < 12).expand(2, NY))
    both = [replace(shot, flags=("IS_PARALLEL_CALIBRATION", "IS_PARALLEL_CALIBRATION_AND_IMAGING")) for shot in sampled]
    inside = ismrmrd.read(write(tmp_path / "b.h5", header((NX, NY, 1), FOV), both))
    assert inside.calib is None
    assert torch.equal(inside.kspace[0:2], scan.kspace[0:2])


def test_several_contrasts_must_be_chosen(tmp_path: Path) -> None:
    first, second = images(1, seed=1), images(1, seed=2)
    shots = lines(first, stack(1)) + [replace(shot, counters={**shot.counters, "contrast": 1}) for shot in lines(second, stack(1))]
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), shots)
    with pytest.raises(BadInput, match=r"2 of contrast \(0, 1\): choose one with contrast=0"):
        ismrmrd.read(path)
    assert torch.allclose(shown(ismrmrd.read(path, contrast=1)), second, atol=1e-5)
    with pytest.raises(BadInput, match="contrast=7 is not there"):
        ismrmrd.read(path, contrast=7)


def test_study_facts_come_from_the_header(tmp_path: Path) -> None:
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV, vendor="GE"), lines(images(1), stack(1))))
    assert scan.study["RepetitionTime"] == 500
    assert scan.study["EchoTime"] == 5.5
    assert scan.study["MagneticFieldStrength"] == 2.89
    assert scan.study["Manufacturer"] == "GE"
    assert scan.study["PatientPosition"] == "HFS"


def test_without_directions_the_orientation_is_unknown(tmp_path: Path) -> None:
    nowhere = {"read_dir": (0, 0, 0), "phase_dir": (0, 0, 0), "slice_dir": (0, 0, 0)}
    shots = shots_2d(fft(images(2), (-2, -1)).numpy(), stack(2), **nowhere)
    scan = ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), shots))
    assert scan.grid.orientation == "unknown"
    assert "orientation unknown" in scan.header["warnings"][0]


def test_uneven_slices_are_refused_by_number(tmp_path: Path) -> None:
    positions = [CENTRE + k * ROTATION[:, 2] for k in (0.0, 5.0, 15.0)]
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(3), positions))
    with pytest.raises(BadInput, match=r"slices . and . are .* mm apart"):
        ismrmrd.read(path)


def test_slices_sampled_differently_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(2), stack(2))[:-3])
    with pytest.raises(NotSupported, match="slices 0 and 1 differ in 3 sampled lines"):
        ismrmrd.read(path)


def test_other_trajectories_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV, trajectory="spiral"), lines(images(1), stack(1)))
    with pytest.raises(NotSupported, match="spiral"):
        ismrmrd.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"center_sample": 2}, "does not fit a readout"),
        ({"discard_pre": 20, "discard_post": 20}, "does not fit a readout"),
    ],
)
def test_lines_outside_the_matrix_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    shots = shots_2d(fft(images(1), (-2, -1)).numpy(), stack(1), **change)
    with pytest.raises(BadInput, match=words):
        ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), shots))


def test_a_line_number_outside_the_matrix_is_refused(tmp_path: Path) -> None:
    shots = lines(images(1), stack(1))
    shots[3].counters["kspace_encode_step_1"] = 400
    with pytest.raises(BadInput, match="acquisition 3 has kspace_encoding_step_1 400"):
        ismrmrd.read(write(tmp_path / "a.h5", header((NX, NY, 1), FOV), shots))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(2), stack(2)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cut short"):
        ismrmrd.read(path)


def test_mrd_and_fastmri_files_are_told_apart_by_content(tmp_path: Path) -> None:
    mrd = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(1), stack(1)))
    assert ismrmrd.recognises(mrd)
    assert not fastmri.recognises(mrd)
    with h5py.File(tmp_path / "b.mrd", "w") as file:
        file["kspace"] = np.zeros((1, 2, 4, 4), np.complex64)
    assert fastmri.recognises(tmp_path / "b.mrd")
    assert not ismrmrd.recognises(tmp_path / "b.mrd")
    assert not ismrmrd.recognises(tmp_path / "missing.h5")


def test_several_measurements_must_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(1), stack(1)))
    write(path, header((NX, NY, 1), FOV), lines(images(1), stack(1)), group="second")
    with pytest.raises(BadInput, match="dataset, second: choose one"):
        ismrmrd.read(path)
    assert ismrmrd.read(path, dataset="second").n_coils == COILS


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5", header((NX, NY, 1), FOV), lines(images(1), stack(1)))
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    with pytest.raises(MissingExtra, match=r"medrecon\[ismrmrd\]"):
        ismrmrd.read(path)
