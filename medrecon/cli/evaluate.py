"""medrecon evaluate: fastMRI's own numbers."""

from __future__ import annotations

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
    from medrecon.evaluate.fastmri import evaluate_folders

    session.inputs = [target, predictions]
    session.metrics = evaluate_folders(target, predictions)
    session.facts(session.metrics)
