"""How a training goes: loss, denoising PSNR and sample pictures on validation images, beside the weights to come."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from medrecon.files import atomic_file
from medrecon.prior.precondition import NetworkPrior
from medrecon.study.images import ImageSet
from medrecon.study.measures import CARD_SIGMAS, denoising_psnr, write_pictures

Progress = Callable[[int, int, str], None]

COLUMNS = ("iteration", "minutes", "loss", *(f"psnr_{s:g}" for s in CARD_SIGMAS))


class Course:
    """`report` and `observe` of a training loop.

    Every `interval` iterations (0: never) a line joins OUT.csv (iteration, minutes, loss, PSNR in dB at each noise level of a
    few validation images, by the averaged weights) and OUT.png shows one of them noisy, denoised and clean. No random number
    of the training is used. A run that goes on keeps the lines from before its last checkpoint.
    """

    def __init__(
        self, out: Path, prior: NetworkPrior, check: ImageSet, total: int, interval: int, progress: Progress | None, *, goes_on: bool
    ) -> None:
        self.table, self.picture = out.with_suffix(".csv"), out.with_suffix(".png")
        self.prior, self.check, self.total, self.interval = copy.deepcopy(prior), check, total, interval
        self.progress = progress
        self.rows = self._earlier() if goes_on else []
        self.started, self.before = time.monotonic(), float(self.rows[-1]["minutes"]) if self.rows else 0.0
        self.loss, self.text = float("nan"), ""

    @property
    def minutes(self) -> float:
        """Of work so far, that of earlier runs up to their last line with it."""
        return self.before + (time.monotonic() - self.started) / 60

    def report(self, step: int, loss: float) -> None:
        """Tells `progress` the loss and the latest PSNR."""
        self.loss = loss
        if self.progress is not None:
            self.progress(step, self.total, f"loss {loss:.4f}{self.text}")

    def observe(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Measures the averaged weights where it is time to."""
        if not self.interval or step % self.interval:
            return
        self.prior.network.load_state_dict(weights)
        psnr = denoising_psnr(self.prior, self.check, 4)
        self.text = "; PSNR " + ", ".join(f"{s:g}: {p:.2f}" for s, p in psnr.items()) + " dB"
        numbers = (f"{step}", f"{self.minutes:.1f}", f"{self.loss:.5f}", *(f"{p:.2f}" for p in psnr.values()))
        self.rows = [row for row in self.rows if int(row["iteration"]) < step] + [dict(zip(COLUMNS, numbers, strict=True))]
        with atomic_file(self.table, force=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        write_pictures(self.picture, self.prior, self.check)

    def _earlier(self) -> list[dict[str, str]]:
        if not self.table.exists():
            return []
        with self.table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return [row for row in reader if set(row) == set(COLUMNS)] if reader.fieldnames else []
