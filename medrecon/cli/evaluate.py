"""medrecon evaluate: fastMRI's own numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.session import Session


def evaluate(
    session: Session,
    target: Annotated[Path, typer.Option("--target", help="Folder of fastMRI files with reconstruction_rss or _esc.", show_default=False)],
    predictions: Annotated[Path, typer.Option("--predictions", help="Folder of prediction files of the same names.", show_default=False)],
) -> None:
    """NMSE, PSNR and SSIM of a folder of predictions, as fastMRI counts them."""
    from medrecon.study.scores import score_folders

    session.inputs = [target, predictions]
    with session.progress("evaluate") as progress:
        found = score_folders(target, predictions, progress)
    session.result = {name: asdict(scores) for name, scores in found.scores.items()}
    session.metrics = asdict(found.summary)
    session.table(("volume", "nmse", "psnr", "ssim"), [(name, s.nmse, s.psnr, s.ssim) for name, s in found.scores.items()])
    session.say(f"{found.summary.n_volumes} volumes: {found.summary.line()}")
    for name, reason in found.failures.items():
        session.item_failed(target / name, reason)
