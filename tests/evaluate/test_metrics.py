"""Metrics against fastMRI's evaluator, scikit-image and closed forms."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.evaluate import metrics
from medrecon.evaluate.fastmri import cropped, in_foreground, official, summarise

EXPECTED: dict[str, Any] = json.loads((GOLDEN / "mri" / "metrics_expected.json").read_text())


def golden(name: str) -> tuple[Tensor, Tensor]:
    with np.load(GOLDEN / "mri" / "metrics_volumes.npz") as file:
        return torch.from_numpy(file[f"{name}_target"]), torch.from_numpy(file[f"{name}_recon"])


@pytest.mark.parametrize("name", EXPECTED)
def test_official_numbers_are_those_of_the_evaluation_script(name: str) -> None:
    scores, expected = official(*golden(name)), EXPECTED[name]
    assert scores.nmse == pytest.approx(expected["evaluate"]["NMSE"], rel=1e-6)
    assert scores.psnr == pytest.approx(expected["evaluate"]["PSNR"], rel=1e-6)
    assert scores.ssim == pytest.approx(expected["evaluate"]["SSIM"], abs=2e-7)
    assert scores.mse == pytest.approx(expected["evaluate"]["MSE"], rel=1e-6)
    assert scores.data_range == expected["data_range_evaluate"]


@pytest.mark.parametrize("name", EXPECTED)
def test_range_of_the_file_gives_the_numbers_of_the_training_loop(name: str) -> None:
    expected = EXPECTED[name]
    scores = official(*golden(name), data_range=expected["attrs_max"])
    assert scores.ssim == pytest.approx(expected["ssim_attrs_max"], abs=2e-7)
    assert scores.psnr == pytest.approx(expected["psnr_attrs_max"], rel=1e-6)
    assert scores.nmse == pytest.approx(expected["module"]["nmse"], rel=1e-6)
    assert scores.psnr == pytest.approx(expected["module"]["psnr"], rel=1e-6)
    assert scores.ssim == pytest.approx(expected["module"]["ssim"], abs=2e-7)


@pytest.mark.parametrize("name", EXPECTED)
def test_ssim_of_each_slice_and_the_map_agree(name: str) -> None:
    target, prediction = cropped(*golden(name))
    span = float(target.max())
    slices = metrics.ssim_slices(target, prediction, span)
    torch.testing.assert_close(slices, torch.tensor(EXPECTED[name]["per_slice_ssim"], dtype=torch.float64), atol=2e-7, rtol=0)
    torch.testing.assert_close(metrics.ssim_map(target, prediction, span).mean((-2, -1)), slices, atol=1e-10, rtol=0)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    target = torch.rand(*shape, dtype=torch.float64) + 0.1
    return target, target + 0.1 * torch.randn(*shape, dtype=torch.float64)


def test_closed_forms() -> None:
    target, _ = pair(2, 20, 20)
    scaled = 1.1 * target
    assert metrics.nmse(target, scaled) == pytest.approx(0.01)
    assert metrics.nrmse(target, scaled) == pytest.approx(0.1)
    assert metrics.hfen(target, scaled) == pytest.approx(0.1)
    assert metrics.psnr(target, target + 0.1, 1.0) == pytest.approx(20)
    assert metrics.nrmse_range(target, target + 0.1) == pytest.approx(0.1 / float(target.max() - target.min()))
    assert metrics.nrmse_mean(target, target + 0.1) == pytest.approx(0.1 / float(target.mean()))
    assert metrics.psnr(target, target, 1.0) == math.inf
    assert metrics.ssim(target, target, 1.0) == pytest.approx(1)


def test_scale_does_not_matter() -> None:
    target, prediction = pair(2, 24, 24)
    big, small = official(target, prediction), official((1e-7 * target).float(), (1e-7 * prediction).float())
    for name in ("nmse", "psnr", "ssim"):
        assert getattr(small, name) == pytest.approx(getattr(big, name), rel=1e-5)


def test_hfen_kernel_is_a_laplacian_and_its_error_that_of_explicit_filtering() -> None:
    from scipy import ndimage

    kernel = metrics.laplacian_of_gaussian()
    assert kernel.shape == (15, 15)
    assert abs(float(kernel.sum())) < 1e-12
    axis = torch.arange(15, dtype=torch.float64) - 7
    assert float((kernel * axis**2).sum()) == pytest.approx(2, rel=0.02)  # the second moment of a Laplacian
    target, prediction = pair(2, 30, 25)
    expected = []
    for t, p in zip(target.numpy(), prediction.numpy(), strict=True):
        a, b = (ndimage.convolve(image, kernel.numpy(), mode="constant") for image in (t, p))
        expected.append(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert metrics.hfen(target, prediction) == pytest.approx(float(np.mean(expected)))


def test_ssim_of_a_region_reads_only_that_region() -> None:
    target, prediction = pair(2, 30, 30)
    roi = torch.zeros(2, 30, 30, dtype=torch.bool)
    roi[:, 5:20, 8:24] = True
    value = metrics.ssim_roi(target, prediction, roi, 1.0)
    spoilt = torch.where(roi, prediction, torch.zeros_like(prediction))
    assert metrics.ssim_roi(torch.where(roi, target, 0), spoilt, roi, 1.0) == pytest.approx(value, abs=1e-9)
    inner = metrics.ssim_map(target[:, 5:20, 8:24], prediction[:, 5:20, 8:24], 1.0).mean()
    assert value == pytest.approx(float(inner))
    with pytest.raises(BadInput, match="larger region"):
        metrics.ssim_roi(target, prediction, torch.zeros_like(roi), 1.0)


def test_foreground_is_the_filled_object() -> None:
    y, x = torch.meshgrid(torch.arange(60) - 30, torch.arange(64) - 32, indexing="ij")
    radius = (y**2 + x**2).sqrt()
    ring = ((radius < 20) & (radius > 8)).double()
    mask = metrics.foreground(torch.stack([ring, 1e-3 * torch.rand(60, 64).double()]))
    assert mask[0][radius < 18].all()
    assert not mask[0][radius > 21].any()
    assert not mask[1].any()
    touching = metrics.foreground(torch.ones(1, 20, 20))
    assert touching[0, 1:-1, 1:-1].all()


def test_foreground_scores_ignore_the_background() -> None:
    target = torch.zeros(2, 40, 40)
    target[:, 10:30, 10:30] = 1 + torch.rand(2, 20, 20)
    noisy = target + 0.05 * torch.randn(2, 40, 40) * (target == 0)
    assert in_foreground(target, noisy).nmse < 1e-12
    assert official(target, noisy).nmse > 1e-3


def test_bad_volumes_are_named() -> None:
    target, prediction = pair(3, 16, 16)
    broken = prediction.clone()
    broken[1, 3, 4] = torch.nan
    with pytest.raises(BadInput, match=r"file7: .*prediction, slice 1"):
        official(target, broken, name="file7")
    with pytest.raises(BadInput, match="2 slices, the target 3"):
        official(target, prediction[:2])
    with pytest.raises(BadInput, match="smaller than the 16 x 16"):
        official(target, prediction[..., :15])
    with pytest.raises(BadInput, match="all zero"):
        official(torch.zeros_like(target), prediction)
    with pytest.raises(BadInput, match="at least 7 x 7"):
        official(target[:, :6, :6], prediction[:, :6, :6])
    with pytest.raises(BadInput, match="complex"):
        official(target, prediction.to(torch.complex128))


def test_a_constant_slice_has_a_defined_ssim() -> None:
    target, prediction = pair(2, 16, 16)
    target[1] = prediction[1] = 0
    assert metrics.ssim_slices(target, prediction, 1.0)[1] == pytest.approx(1)


def test_summary_counts_each_volume_once() -> None:
    scores = [official(*golden(name)) for name in ("square", "odd")]
    summary = summarise(scores)
    assert summary.n_volumes == 2
    assert summary.mean["ssim"] == pytest.approx((scores[0].ssim + scores[1].ssim) / 2)
    assert summary.std["psnr"] == pytest.approx(abs(scores[0].psnr - scores[1].psnr) / 2**0.5)
    assert "SSIM = " in summary.line()
    with pytest.raises(BadInput):
        summarise([])


@pytest.mark.slow
def test_forty_slices_are_scored_in_half_a_second() -> None:
    import time

    target, prediction = pair(40, 320, 320)
    official(target[:1], prediction[:1])
    start = time.process_time()
    official(target, prediction)
    assert time.process_time() - start < 2  # 0.3 s on an idle core
