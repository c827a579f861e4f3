"""Coil compression against BART, Walsh maps against known coils."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft, ifft
from medrecon.physics.mri.coils import (
    LocalCovariance,
    compress_along_readout,
    geometric_compression,
    low_resolution_images,
    rss,
    svd_compression,
    walsh,
)
from medrecon.physics.mri.eigenmaps import leading
from medrecon.physics.noise import mix_coils


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "mri" / "bart_cartesian.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if file[name].ndim}
    arrays["undersampled"] = arrays["kspace"] * arrays["mask"][:, None]
    return arrays


def projector(rows: Tensor) -> Tensor:
    return rows.mH @ rows


def test_svd_compression_spans_what_barts_does(golden: dict[str, Tensor]) -> None:
    matrix, _ = svd_compression(golden["undersampled"], 4)
    bart = golden["cc_svd_matrix"][:4].conj()
    torch.testing.assert_close(projector(matrix), projector(bart), atol=1e-4, rtol=0)
    ours = mix_coils(matrix, golden["undersampled"])
    turn = (ours.conj() * golden["cc_svd_p4"]).sum((-2, -1), keepdim=True).sgn()  # a row's phase is free
    assert (ours * turn - golden["cc_svd_p4"]).norm() < 1e-4 * ours.norm()


def test_energy_chooses_the_number_of_virtual_coils(golden: dict[str, Tensor]) -> None:
    kspace = golden["kspace"]
    for energy in (0.9, 0.995, 0.9999, 1.0):
        matrix, kept = svd_compression(kspace, energy=energy)
        assert kept >= energy - 1e-9
        assert matrix.shape[0] >= 4
        power = mix_coils(matrix, kspace).abs().square().sum() / kspace.abs().square().sum()
        assert float(power) == pytest.approx(kept, rel=1e-4)
        if matrix.shape[0] > 4:
            assert svd_compression(kspace, matrix.shape[0] - 1)[1] < energy
    assert svd_compression(kspace, 8)[1] == pytest.approx(1)


def test_compression_is_orthonormal_and_repeatable(golden: dict[str, Tensor]) -> None:
    matrix, _ = svd_compression(golden["kspace"], 5)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(5, dtype=matrix.dtype), atol=1e-5, rtol=0)
    peak = matrix.gather(1, matrix.abs().argmax(1, keepdim=True))
    torch.testing.assert_close(peak, peak.abs().to(peak.dtype))
    again, _ = svd_compression(golden["kspace"] * torch.tensor(1j), 5)
    torch.testing.assert_close(again, matrix, atol=1e-4, rtol=0)


def test_tiny_data_are_compressed_like_large_ones(golden: dict[str, Tensor]) -> None:
    kspace = golden["kspace"] / golden["kspace"].abs().max()
    torch.testing.assert_close(
        projector(svd_compression(1e-30 * kspace, 4)[0]), projector(svd_compression(kspace, 4)[0]), atol=1e-4, rtol=0
    )


def test_geometric_compression_spans_what_barts_does_at_each_position(golden: dict[str, Tensor]) -> None:
    matrices, _ = geometric_compression(golden["kspace"], 4, window=1)
    bart = golden["cc_gcc_matrix"][:4].permute(2, 0, 1).conj()
    difference = (projector(matrices) - projector(bart)).flatten(1).norm(dim=1)
    lines = ifft(golden["kspace"], (-1,)).to(torch.complex128).permute(2, 0, 1)
    power = torch.linalg.svdvals(lines).square()
    gap = (power[:, 3] - power[:, 4]) / power[:, 0]
    # where the fourth and fifth coil are equally strong, single precision decides (BART's too)
    assert difference[gap > 2e-4].max() < 1e-3
    assert (difference * gap).max() < 3e-7


def test_geometric_compression_varies_smoothly_and_keeps_more(golden: dict[str, Tensor]) -> None:
    kspace = golden["kspace"]
    matrices, kept = geometric_compression(kspace, 4)
    assert kept > svd_compression(kspace, 4)[1]
    identity = torch.eye(4, dtype=matrices.dtype).expand(len(matrices), 4, 4)
    torch.testing.assert_close(matrices @ matrices.mH, identity, atol=1e-5, rtol=0)
    assert matrices.diff(dim=0).flatten(1).norm(dim=1).max() < 1  # unaligned neighbours differ by 2.8
    virtual = compress_along_readout(matrices, kspace)
    assert virtual.shape == (4, *kspace.shape[1:])
    # complete matrices are unitary: nothing is lost
    whole, _ = geometric_compression(kspace, 8)
    image = rss(ifft(compress_along_readout(whole, kspace), (-2, -1)))
    torch.testing.assert_close(image, rss(ifft(kspace, (-2, -1))), rtol=1e-4, atol=1e-3)


def test_wrong_compressions_are_errors(golden: dict[str, Tensor]) -> None:
    with pytest.raises(BadInput, match="9 of 8 coils"):
        svd_compression(golden["kspace"], 9)
    with pytest.raises(BadInput, match="all zero"):
        svd_compression(torch.zeros(3, 10, dtype=torch.complex64))
    with pytest.raises(BadInput, match="odd window"):
        geometric_compression(golden["kspace"], window=4)
    with pytest.raises(BadInput, match="on k-space"):
        compress_along_readout(torch.zeros(10, 4, 8), golden["kspace"])


def test_rss_is_barts(golden: dict[str, Tensor]) -> None:
    for kspace, expected in (("kspace", "rss_full"), ("undersampled", "rss_zero_filled")):
        image = rss(ifft(golden[kspace], (-2, -1)))
        assert (image - golden[expected]).norm() < 1e-5 * golden[expected].norm()


def blob_scan(shape: tuple[int, int] = (72, 65)) -> tuple[Tensor, Tensor, Tensor]:
    """k-space (coil, y, x), unit-norm coils, support of a smooth object."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    angle = torch.pi * torch.arange(5)[:, None, None] / 2.5
    coils = torch.polar(torch.exp(-((x - 1.3 * angle.cos()) ** 2 + (y - 1.3 * angle.sin()) ** 2) / 3), angle + 0.5 * x * angle.sin())
    coils = coils / coils.norm(dim=0)
    image = torch.polar(torch.exp(-4 * (x**2 + 0.7 * y**2)), 0.8 * y)
    return fft(coils * image, (-2, -1)), coils, image.abs() > 0.3


def test_walsh_maps_of_a_smooth_object_are_its_coils() -> None:
    kspace, coils, inside = blob_scan()
    images = low_resolution_images(kspace, 24)
    maps = walsh(images)
    cosine = (maps.conj() * coils).sum(0).abs()[inside]
    assert cosine.min() > 0.999
    norm = maps.norm(dim=0)
    torch.testing.assert_close(norm[norm > 0], torch.ones_like(norm[norm > 0]))
    assert not maps[:, 0, 0].any()


def test_walsh_gives_the_eigenvectors_of_eigh_in_batches_and_chunks() -> None:
    kspace, _, inside = blob_scan()
    images = low_resolution_images(kspace + 0.01 * torch.randn_like(kspace), 24)
    maps = walsh(images)
    exact = leading(LocalCovariance(images / images.abs().max(), 7), 1).vectors[0].movedim(-1, 0)
    assert (maps.conj() * exact).sum(0).abs()[inside].min() > 0.9999
    batch = walsh(torch.stack([images, torch.zeros_like(images), images.flip(0)]), budget=400_000)
    torch.testing.assert_close(batch[0], maps, atol=1e-4, rtol=0)
    assert not batch[1].any()


def test_local_covariance_is_the_sum_over_the_periodic_box() -> None:
    images = torch.randn(3, 9, 10, dtype=torch.complex128)
    field = LocalCovariance(images, 5)
    rows, columns = torch.tensor([0, 4, 8]), torch.tensor([1, 9])
    expected = torch.zeros(3, 2, 3, 3, dtype=torch.complex128)
    for i, y in enumerate(rows.tolist()):
        for j, x in enumerate(columns.tolist()):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    m = images[:, (y + dy) % 9, (x + dx) % 10]
                    expected[i, j] += m[:, None] * m.conj()
            torch.testing.assert_close(expected[i, j].trace().real, field.power[y, x])
            expected[i, j] /= expected[i, j].trace()
    torch.testing.assert_close(field.at(rows, columns), expected)


def test_low_resolution_images_measure_their_centre() -> None:
    kspace, _, _ = blob_scan()
    kspace[:, :36] = 0
    with pytest.raises(BadInput, match="measures 1 x"):
        low_resolution_images(kspace)
