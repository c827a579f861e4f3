"""fastMRI's own numbers, per volume: what its evaluation script prints."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.evaluate import metrics
from medrecon.tensors import fastmri_crop


@dataclass(frozen=True)
class Scores:
    """Metrics of one volume and the range behind PSNR and SSIM."""

    nmse: float
    psnr: float
    ssim: float
    mse: float
    data_range: float


def cropped(target: Tensor, prediction: Tensor, name: str = "") -> tuple[Tensor, Tensor]:
    """Both cut to the central W x W, W the width of the target, float64. `BadInput` naming the volume if that cannot be."""
    where = f"{name}: " if name else ""
    if target.ndim != 3 or prediction.ndim != 3:
        raise BadInput(f"{where}target {tuple(target.shape)}, prediction {tuple(prediction.shape)}: expected (slice, y, x) for both")
    if len(target) != len(prediction):
        raise BadInput(f"{where}the prediction has {len(prediction)} slices, the target {len(target)}")
    width = target.shape[-1]
    for what, volume in (("target", target), ("prediction", prediction)):
        if min(volume.shape[-2:]) < width:
            raise BadInput(f"{where}the {what} is {tuple(volume.shape[-2:])} pixels, smaller than the {width} x {width} that are scored")
    return metrics.paired(fastmri_crop(target, (width, width)), fastmri_crop(prediction, (width, width)), name)


def official(target: Tensor, prediction: Tensor, *, data_range: float | None = None, name: str = "") -> Scores:
    """The evaluation script's numbers for volumes (slice, y, x).

    `data_range`: by default the maximum of the cropped target volume, as the script has it. With the file's `max`
    attribute they are the numbers that the training loop logs; the two differ where cropping removes the maximum.
    """
    target, prediction = cropped(target, prediction, name)
    span = float(target.max()) if data_range is None else data_range
    if not bool((target != 0).any()):
        raise BadInput(f"{name or 'target'}: all zero, NMSE is not defined")
    return Scores(
        nmse=metrics.nmse(target, prediction),
        psnr=metrics.psnr(target, prediction, span),
        ssim=metrics.ssim(target, prediction, span),
        mse=metrics.mse(target, prediction),
        data_range=span,
    )


def in_foreground(target: Tensor, prediction: Tensor, *, name: str = "") -> Scores:
    """`official` with both volumes set to zero outside the object: fair to images that are empty in the background."""
    target, prediction = cropped(target, prediction, name)
    inside = metrics.foreground(target)
    outside = torch.zeros((), dtype=target.dtype, device=target.device)
    return official(torch.where(inside, target, outside), torch.where(inside, prediction, outside), name=name)


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over volumes, by metric."""

    mean: Mapping[str, float]
    std: Mapping[str, float]
    n_volumes: int

    def line(self) -> str:
        """As the reference prints it: mean +/- twice the standard deviation."""
        return " ".join(f"{name.upper()} = {self.mean[name]:.4g} +/- {2 * self.std[name]:.4g}" for name in self.mean)


def summarise(scores: Sequence[Scores]) -> Summary:
    """Over volumes, each counting once."""
    if not scores:
        raise BadInput("no volumes were scored")
    columns = {name: [float(getattr(score, name)) for score in scores] for name in ("mse", "nmse", "psnr", "ssim")}
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    std = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return Summary(mean, std, len(scores))
