"""ESPIRiT against BART's converged eigenvectors and against laws that any such maps obey."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, program
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft
from medrecon.physics.mri.eigenmaps import dominant, leading
from medrecon.physics.mri.espirit import LagField, espirit, lag_kernel, soft_weights
from medrecon.tensors import centre_crop


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "mri" / "bart_cartesian.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if file[name].ndim}
    arrays["undersampled"] = arrays["kspace"] * arrays["mask"][:, None]
    return arrays


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """|<a, b>| of unit-norm maps (coil, y, x) over their common support."""
    here = (a.norm(dim=0) > 0) & (b.norm(dim=0) > 0)
    return ((a.conj() * b).sum(0).abs() / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-30))[here]


def overlap_of_support(a: Tensor, b: Tensor) -> float:
    in_a, in_b = a.norm(dim=0) > 0, b.norm(dim=0) > 0
    return float((in_a & in_b).sum() / (in_a | in_b).sum())


def smooth_coils(n: int, shape: tuple[int, int], cycles: int = 1) -> Tensor:
    """(coil, y, x) complex128 sums of a few Fourier harmonics, so that ESPIRiT's kernel can hold them exactly."""
    generator = torch.Generator().manual_seed(11)
    waves = torch.zeros(n, *shape, dtype=torch.complex128)
    for y in range(-cycles, cycles + 1):
        for x in range(-cycles, cycles + 1):
            c = torch.view_as_complex(torch.randn(n, 2, generator=generator, dtype=torch.float64)) * (3.0 if y == x == 0 else 0.5)
            waves[:, shape[0] // 2 + y, shape[1] // 2 + x] = c
    return fft(waves, (-2, -1))


def disc_scan(n: int = 4, shape: tuple[int, int] = (48, 40)) -> tuple[Tensor, Tensor, Tensor]:
    """k-space (coil, y, x), unit-norm coils and the support of a disc within the field of view, noise-free."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, m) for m in shape], indexing="ij")
    inside = (y**2 + x**2) < 0.6
    coils = smooth_coils(n, shape)
    image = inside * torch.polar(1 + 0.3 * torch.cos(9 * x) * torch.sin(7 * y), y)
    return fft(coils * image, (-2, -1)), coils / coils.norm(dim=0), inside


def test_maps_agree_with_converged_eigenvectors(golden: dict[str, Tensor]) -> None:
    ours, exact = espirit(golden["undersampled"], 20), golden["ecalib_exact_eig_m1_r20"]
    values = golden["ecalib_exact_eig_m1_r20_ev"]
    assert ours.calib_shape == (20, 20)
    assert cosines(ours.maps, exact).mean() >= 0.9999
    assert overlap_of_support(ours.maps, exact) >= 0.999
    torch.testing.assert_close(ours.eigenvalues[values >= 0.8], values[values >= 0.8], atol=1e-4, rtol=0)
    both = espirit(golden["undersampled"], 20, sets=2)
    apart = (both.eigenvalues[1] < 0.9 * both.eigenvalues[0]) & (ours.maps.norm(dim=0) > 0) & (exact.norm(dim=0) > 0)
    assert (ours.maps.conj() * exact).sum(0).abs()[apart].min() >= 0.99


def test_phase_is_smooth_and_agrees_up_to_one_global_phase(golden: dict[str, Tensor]) -> None:
    ours, exact = espirit(golden["undersampled"], 20).maps, golden["ecalib_exact_eig_m1_r20"]
    turn = (ours.conj() * exact).sum().sgn()
    assert (ours * turn - exact).norm() / exact.norm() < 5e-3


@pytest.mark.parametrize(
    ("key", "kspace", "settings"),
    [
        ("ecalib_m1_r20", "undersampled", {"calib": 20}),
        ("ecalib_m1_r18_k5_c09_t001", "undersampled", {"calib": 18, "kernel": 5, "crop": 0.9, "threshold": 0.01}),
        ("ecalib_odd_m1_r21", "kspace_odd", {"calib": 21}),
    ],
)
def test_maps_are_near_those_of_default_bart(golden: dict[str, Tensor], key: str, kspace: str, settings: dict[str, float]) -> None:
    ours = espirit(golden[kspace], **settings).maps  # type: ignore[arg-type]
    assert cosines(ours, golden[key]).mean() >= 0.997  # BART's default has not converged
    assert overlap_of_support(ours, golden[key]) >= 0.99


@pytest.mark.parametrize(
    ("kspace", "calib", "kernel", "crop", "threshold"),
    [
        ("undersampled", 20, 6, 0.8, 1e-3),
        ("undersampled", 18, 5, 0.9, 0.01),
        ("kspace_odd", 21, 6, 0.8, 1e-3),
        ("kspace_odd", 21, 6, 0.0, 1e-3),
    ],
)
def test_fast_path_gives_the_eigenvectors_of_eigh(
    golden: dict[str, Tensor], kspace: str, calib: int, kernel: int, crop: float, threshold: float
) -> None:
    settings = {"kernel": kernel, "crop": crop, "threshold": threshold}
    fast = espirit(golden[kspace], calib, **settings)  # type: ignore[arg-type]
    both = espirit(golden[kspace], calib, sets=2, **settings)  # type: ignore[arg-type]
    first, second = both.eigenvalues
    here = (first >= max(crop, 0.5)) & (second < 0.95 * first)
    cosine = (fast.maps.conj() * both.maps[0]).sum(0).abs()[here]
    assert cosine.mean() >= 0.9999
    assert cosine.min() >= 0.999
    torch.testing.assert_close(fast.eigenvalues[here], first[here], atol=1e-4, rtol=0)


def test_two_maps_span_what_barts_two_maps_span(golden: dict[str, Tensor]) -> None:
    ours, bart = espirit(golden["undersampled"], 20, sets=2), golden["ecalib_m2_r20"]
    assert ours.maps.shape == bart.shape
    here = (bart[1].norm(dim=0) > 0) & (ours.maps[1].norm(dim=0) > 0)
    overlaps = torch.einsum("acyx,bcyx->abyx", ours.maps.conj(), bart).abs().square().sum((0, 1)) / 2
    assert overlaps[here].mean() >= 0.9999
    values = golden["ecalib_m2_r20_ev"]
    assert (ours.eigenvalues - values).abs()[:, values[0] >= 0.8].max() <= 0.05


def test_soft_weights_are_barts(golden: dict[str, Tensor]) -> None:
    weights = soft_weights(golden["ecalib_m1_r20_ev"], 0.8)
    torch.testing.assert_close(weights, golden["ecalib_m1_r20_soft"].norm(dim=0), atol=1e-6, rtol=0)
    soft = espirit(golden["undersampled"], 20, soft=True)
    torch.testing.assert_close(soft.maps.norm(dim=0), soft_weights(soft.eigenvalues, 0.8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(48, 40), (41, 53)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_noise_free_smooth_maps_are_recovered(shape: tuple[int, int], dtype: torch.dtype) -> None:
    kspace, coils, inside = disc_scan(shape=shape)
    found = espirit(kspace.to(dtype), 24)
    assert found.maps.dtype == dtype
    assert found.eigenvalues.dtype == found.maps.real.dtype
    cosine = (found.maps.conj() * coils).sum(0).abs()[inside]
    assert cosine.min() > 0.999
    assert not found.warnings


def test_rotated_coils_give_rotated_maps() -> None:
    kspace, _, inside = disc_scan()
    unitary = torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex128))[0]
    plain = espirit(kspace).maps
    rotated = espirit(torch.einsum("pc,cyx->pyx", unitary, kspace)).maps
    expected = torch.einsum("pc,cyx->pyx", unitary, plain)
    assert cosines(rotated, expected).min() > 0.9999
    # the phase reference rotates too, up to one global phase
    turn = (rotated.conj() * expected)[:, inside].sum().sgn()
    assert (rotated * turn - expected)[:, inside].norm() / expected[:, inside].norm() < 1e-3


def test_chunk_size_changes_nothing(golden: dict[str, Tensor]) -> None:
    whole = espirit(golden["undersampled"], 20, budget=1 << 30)
    rows = espirit(golden["undersampled"], 20, budget=200_000)
    torch.testing.assert_close(rows.maps, whole.maps, atol=1e-4, rtol=0)
    assert torch.equal(rows.maps != 0, whole.maps != 0)
    again = espirit(golden["undersampled"], 20, budget=200_000)
    assert torch.equal(again.maps, rows.maps)


def test_a_batch_is_a_loop(golden: dict[str, Tensor]) -> None:
    part = golden["undersampled"][:, :, 20:60]
    batch = torch.stack([part, part.flip(0), torch.zeros_like(part), 1e-7 * part]).reshape(2, 2, *part.shape)
    together = espirit(batch, 20)
    assert together.maps.shape == batch.shape
    assert together.eigenvalues.shape == (2, 2, *part.shape[1:])
    assert "without signal" in together.warnings[0]
    assert not together.maps[1, 0].any()
    for index in ((0, 0), (0, 1), (1, 1)):
        assert torch.equal(together.maps[index], espirit(batch[index], 20).maps)
    torch.testing.assert_close(together.maps[1, 1], together.maps[0, 0], atol=1e-4, rtol=0)


def test_separate_reference_scan_of_another_matrix() -> None:
    kspace, _, _ = disc_scan()
    calib = centre_crop(kspace, (26, 24))
    holes = kspace.clone()
    holes[:, ::2] = 0
    torch.testing.assert_close(espirit(holes, calib_kspace=calib).maps, espirit(kspace).maps)
    assert espirit(holes[None], calib_kspace=calib[None]).maps.shape == (1, *kspace.shape)
    with pytest.raises(BadInput, match="coils"):
        espirit(holes, calib_kspace=calib[:2])


def volume_scan() -> tuple[Tensor, Tensor, Tensor]:
    """`disc_scan` of a volume (coil, z, y, x) complex64 whose object changes along z, the coils do not; some noise."""
    kspace, coils, inside = disc_scan(n=3)
    profile = 1 + 0.5 * torch.cos(torch.linspace(0, 6, 10, dtype=torch.float64))
    volume = fft(kspace[:, None] * profile[:, None, None], (-3,))
    return (volume + 1e-3 * torch.randn_like(volume)).to(torch.complex64), coils, inside


def test_volume_gives_the_maps_of_its_planes() -> None:
    volume, coils, inside = volume_scan()
    found = espirit(volume, (10, 20, 20), kernel=4, image_axes=3)
    assert found.maps.shape == volume.shape
    assert found.eigenvalues.shape == volume.shape[1:]
    cosine = (found.maps.conj() * coils[:, None]).sum(0).abs()[:, inside]
    assert cosine.mean() > 0.999
    assert cosine.min() > 0.99


@pytest.mark.peer
def test_maps_of_a_volume_agree_with_bart(tmp_path: Path) -> None:
    volume = volume_scan()[0]
    (tmp_path / "k.hdr").write_text("# Dimensions\n" + " ".join(map(str, volume.shape[::-1])) + "\n")
    volume.numpy().tofile(tmp_path / "k.cfl")
    command = [program("bart"), "ecalib", "-O", "-m1", "-k", "4", "-r", "20:20:10", "k", "m"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    bart = torch.from_numpy(np.fromfile(tmp_path / "m.cfl", dtype=np.complex64).reshape(volume.shape))
    ours = espirit(volume, (10, 20, 20), kernel=4, image_axes=3).maps
    assert cosines(ours, bart).mean() >= 0.9999
    assert cosines(ours, bart).min() >= 0.99
    assert overlap_of_support(ours, bart) >= 0.999


def test_an_axis_of_length_one_is_no_obstacle() -> None:
    kspace, coils, inside = disc_scan()
    volume = espirit(kspace[:, None], image_axes=3).maps
    assert ((volume[:, 0].conj() * coils).sum(0).abs()[inside]).min() > 0.999
    one_line = espirit(kspace[:, 24:25, :], 24).maps
    assert one_line.shape == (4, 1, 40)
    assert torch.isfinite(torch.view_as_real(one_line)).all()


def test_single_coil_map_is_one() -> None:
    kspace, _, inside = disc_scan(n=1)
    maps = espirit(kspace).maps
    torch.testing.assert_close(maps[0][inside], torch.ones_like(maps[0][inside]))


def test_leading_and_dominant_agree_where_two_eigenvalues_cross() -> None:
    kspace, _, _ = disc_scan(n=3)
    kernel, _ = lag_kernel(centre_crop(kspace, (24, 24)), (6, 6), 1e-3)
    # two blocks that do not mix: the dominant one changes where their eigenvalues cross, as at a folded edge
    crossing = torch.zeros(6, 6, *kernel.shape[2:], dtype=kernel.dtype)
    crossing[:3, :3] = kernel
    crossing[3:, 3:] = kernel * torch.exp(0.6j * torch.arange(-5, 6))[:, None]
    reference = torch.ones(6, dtype=kernel.dtype) / 6**0.5
    field = LagField(crossing, (48, 40), reference)
    fast, exact = dominant(field, floor=0.5), leading(field, 2)
    clear = (exact.values[0] > 0.5) & (exact.values[1] < 0.99 * exact.values[0])
    assert clear.sum() > 500
    torch.testing.assert_close(fast.values[0][clear], exact.values[0][clear], atol=1e-4, rtol=0)
    assert (fast.vectors[0].conj() * exact.vectors[0]).sum(-1).abs()[clear].min() > 0.99


def test_object_larger_than_the_field_of_view_asks_for_two_sets(golden: dict[str, Tensor]) -> None:
    coils = smooth_coils(4, (96, 40), cycles=1)
    y = torch.linspace(-1, 1, 96)[:, None]
    image = (y.abs() < 0.8) * torch.ones(96, 40) * (1 + 0.5 * torch.sin(31 * y))
    folded = fft(coils * image, (-2, -1))[:, ::2]  # half the field of view
    one = espirit(folded)
    assert one.second > 0.01
    assert "sets=2" in one.warnings[0]
    assert not espirit(folded, sets=2).warnings


def test_calibration_of_noise_is_reported() -> None:
    noise = torch.randn(4, 40, 40, dtype=torch.complex64)
    assert "mostly noise" in espirit(noise).warnings[0]


def test_too_small_a_centre_names_its_size(golden: dict[str, Tensor]) -> None:
    kspace = golden["kspace"].clone()
    kspace[:, : 48 - 3] = 0
    kspace[:, 48 + 3 :] = 0
    with pytest.raises(BadInput, match=r"measures 6 x 24 .*at least 8 x 8"):
        espirit(kspace)


def test_no_signal_and_wrong_arguments_are_errors() -> None:
    kspace = torch.randn(3, 32, 32, dtype=torch.complex64)
    with pytest.raises(BadInput, match="no signal"):
        espirit(torch.zeros_like(kspace))
    with pytest.raises(BadInput, match="complex"):
        espirit(kspace.real)
    with pytest.raises(BadInput, match="sets"):
        espirit(kspace, sets=4)
    with pytest.raises(BadInput, match="threshold"):
        espirit(kspace, threshold=0.0)
