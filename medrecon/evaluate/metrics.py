"""Numbers about an image against a known truth. Volumes are real (z, y, x); all is computed in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medrecon.errors import BadInput
from medrecon.tensors import quantile

WINDOW = 7  # SSIM: uniform window, sample covariance, interior only
K1, K2 = 0.01, 0.03
LOG_SIZE, LOG_SIGMA = 15, 1.5  # HFEN


def paired(target: Tensor, prediction: Tensor, name: str = "") -> tuple[Tensor, Tensor]:
    """Both as float64 (z, y, x); `BadInput` naming the volume (and the slice) for shapes, complex or non-finite values."""
    where = f"{name}: " if name else ""
    if target.shape != prediction.shape or target.ndim != 3:
        raise BadInput(
            f"{where}target of shape {tuple(target.shape)}, prediction of {tuple(prediction.shape)}: expected the same (z, y, x) for both"
        )
    if target.is_complex() or prediction.is_complex():
        raise BadInput(f"{where}complex volumes: metrics compare magnitudes, take .abs() first")
    for what, volume in (("target", target), ("prediction", prediction)):
        bad = (~torch.isfinite(volume)).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise BadInput(f"{where}NaN or infinite values in the {what}, slice {bad[0]} ({len(bad)} of {len(volume)} slices)")
    return target.detach().double(), prediction.detach().double()


def mse(target: Tensor, prediction: Tensor) -> float:
    """Mean squared error over the volume."""
    target, prediction = paired(target, prediction)
    return float((target - prediction).square().mean())


def nmse(target: Tensor, prediction: Tensor) -> float:
    """|t - p|^2 / |t|^2, one ratio for the volume; `BadInput` for an all-zero target."""
    target, prediction = paired(target, prediction)
    return float((target - prediction).square().sum()) / _positive(float(target.square().sum()), "energy of the target")


def psnr(target: Tensor, prediction: Tensor, data_range: float) -> float:
    """10 log10(range^2 / MSE) in dB, infinite for equal volumes."""
    error = mse(target, prediction)
    return 10 * math.log10(_positive(data_range, "range") ** 2 / error) if error > 0 else math.inf


def nrmse(target: Tensor, prediction: Tensor) -> float:
    """|t - p| / |t|."""
    return math.sqrt(nmse(target, prediction))


def nrmse_range(target: Tensor, prediction: Tensor) -> float:
    """Root mean squared error over the range (max - min) of the target."""
    return math.sqrt(mse(target, prediction)) / _positive(float(target.max() - target.min()), "range of the target")


def nrmse_mean(target: Tensor, prediction: Tensor) -> float:
    """Root mean squared error over the mean of the target."""
    return math.sqrt(mse(target, prediction)) / _positive(float(target.double().mean()), "mean of the target")


def ssim_slices(target: Tensor, prediction: Tensor, data_range: float) -> Tensor:
    """SSIM of each slice, (z,) float64: scikit-image's default, which is fastMRI's.

    Uniform 7 x 7 window, sample covariance, averaged over the interior. One `data_range` for all slices.
    """
    target, prediction = paired(target, prediction)
    _check_window(target)
    _positive(data_range, "range")
    if target.device.type != "cpu":
        return ssim_map(target, prediction, data_range).mean((-2, -1))
    from skimage.metrics import structural_similarity

    pairs = zip(target.numpy(), prediction.numpy(), strict=True)
    return torch.tensor([structural_similarity(t, p, data_range=data_range) for t, p in pairs], dtype=torch.float64)


def ssim(target: Tensor, prediction: Tensor, data_range: float) -> float:
    """Mean over slices of `ssim_slices`."""
    return float(ssim_slices(target, prediction, data_range).mean())


def ssim_map(target: Tensor, prediction: Tensor, data_range: float) -> Tensor:
    """SSIM of each interior pixel, (z, y - 6, x - 6) float64, on the device of the target."""
    t, p = paired(target, prediction)
    _check_window(t)
    unbias = WINDOW**2 / (WINDOW**2 - 1)
    mean_t, mean_p, mean_tt, mean_pp, mean_tp = (_box(x) for x in (t, p, t * t, p * p, t * p))
    var_t = unbias * (mean_tt - mean_t.square())
    var_p = unbias * (mean_pp - mean_p.square())
    covariance = unbias * (mean_tp - mean_t * mean_p)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    above = (2 * mean_t * mean_p + c1) * (2 * covariance + c2)
    return above / ((mean_t.square() + mean_p.square() + c1) * (var_t + var_p + c2))


def ssim_roi(target: Tensor, prediction: Tensor, roi: Tensor, data_range: float) -> float:
    """Mean of the SSIM map where the whole window lies inside `roi` (bool, shape of the volume)."""
    values = ssim_map(target, prediction, data_range)
    inside = _box(roi.double()) > 1 - 0.5 / WINDOW**2
    if not bool(inside.any()):
        raise BadInput(f"SSIM of a region: no {WINDOW} x {WINDOW} window fits into it: take a larger region")
    return float(values[inside.to(values.device)].mean())


def hfen(target: Tensor, prediction: Tensor) -> float:
    """|LoG t - LoG p| / |LoG t| per slice with zero padding, mean over slices (Ravishankar and Bresler 2011).

    15 x 15 Laplacian of Gaussian, sigma 1.5. Slices whose target has no edges at all are left out.
    """
    target, prediction = paired(target, prediction)
    kernel = laplacian_of_gaussian().to(target.device)[None, None]
    edges, error = (functional.conv2d(x[:, None], kernel, padding=LOG_SIZE // 2)[:, 0] for x in (target, target - prediction))
    size = edges.flatten(1).norm(dim=1)
    used = size > 0
    if not bool(used.any()):
        raise BadInput("HFEN: the target is zero, an error relative to its edges is not defined")
    return float((error.flatten(1).norm(dim=1)[used] / size[used]).mean())


def laplacian_of_gaussian(size: int = LOG_SIZE, sigma: float = LOG_SIGMA) -> Tensor:
    """(size, size) float64 kernel of sum 0."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    square = axis[:, None] ** 2 + axis**2
    bell = torch.exp(-square / (2 * sigma**2))
    kernel = (square - 2 * sigma**2) / sigma**4 * (bell / bell.sum())
    return kernel - kernel.mean()


def foreground(target: Tensor, share: float = 0.05) -> Tensor:
    """Bool (z, y, x): the object, target > `share` of the volume's 99.5 percentile, closed, filled, eroded by a pixel.

    It depends on the target: for evaluation only.
    """
    from scipy import ndimage

    volume = target.detach().double().cpu()
    bright = (volume > share * quantile(volume, 0.995)).numpy()
    structure = ndimage.generate_binary_structure(2, 1)
    masks = []
    for plane in bright:
        # padded, as a closing eats what touches the border
        closed = ndimage.binary_closing(np.pad(plane, 2), structure, iterations=2)[2:-2, 2:-2]
        masks.append(torch.from_numpy(ndimage.binary_erosion(ndimage.binary_fill_holes(closed), structure)))
    return torch.stack(masks).to(target.device)


def _box(x: Tensor) -> Tensor:
    """Mean over the 7 x 7 window around each interior pixel."""
    return functional.avg_pool2d(x[:, None], WINDOW, stride=1)[:, 0]


def _check_window(volume: Tensor) -> None:
    if min(volume.shape[-2:]) < WINDOW:
        raise BadInput(f"SSIM: slices of {tuple(volume.shape[-2:])} pixels, expected at least {WINDOW} x {WINDOW}")


def _positive(value: float, what: str) -> float:
    if not 0 < value < math.inf:
        raise BadInput(f"metric undefined: the {what} is {value:g}, expected a positive number (is the target empty?)")
    return value
