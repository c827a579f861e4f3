"""medrecon train: a prior from images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import DryRun, Force, Seed
from medrecon.cli.outputs import check_targets
from medrecon.cli.session import Session


def train(
    session: Session,
    data: Annotated[list[Path], typer.Argument(help="Image archives (.npz) or image files.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The weights to write, .safetensors; the card lies beside.", show_default=False)
    ],
    modality: Annotated[
        str | None, typer.Option("--modality", help="mr, ct (HU), ultrasound (8-bit B-mode) or generic.", show_default="mr, or the domain")
    ] = None,
    field: Annotated[str | None, typer.Option("--field", help="complex or real.", show_default="that of the modality")] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Optimiser steps.")] = 20000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Patches a step.")] = 16,
    patch: Annotated[int, typer.Option("--patch", min=16, help="Side of a patch in pixels.")] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of Adam, before its decay.")] = 1e-3,
    init: Annotated[Path | None, typer.Option("--init", help="Weights to start from.", show_default=False)] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="SUBJECT", help="Never seen; NAME or NAME*; may be repeated.")
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option("--validate", metavar="SUBJECT", help="For the error curve only; may be repeated.", show_default="every tenth"),
    ] = None,
    domain: Annotated[
        str, typer.Option("--domain", help="What the images show: brain, knee, ...; a modality's name chooses it.")
    ] = "custom",
    licence: Annotated[str, typer.Option("--licence", help="Of the images, for the card.")] = "not stated",
    seed: Seed = 0,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Train a prior on images. The same command goes on where an interrupted run stopped."""
    from medrecon.study.modalities import GENERIC, MODALITIES
    from medrecon.study.train import TrainingRun, train_from_files

    check_targets([output, output.with_suffix(".md")], force)
    run = TrainingRun(
        data,
        output,
        modality=modality or (domain if domain in (*MODALITIES, GENERIC) else "mr"),
        field=field or "",
        iterations=iterations,
        batch=batch,
        patch=patch,
        learning_rate=learning_rate,
        seed=seed,
        init=init,
        exclude=exclude or [],
        validate=validate or [],
        domain=domain,
        licence=licence,
    )
    session.inputs = data
    session.settings = {"command": run.command()}
    if dry_run:
        session.say(run.command())
        return
    with session.progress("train") as progress:
        train_from_files(run, progress)
    session.outputs = [output, output.with_suffix(".md")]
    session.say(f"wrote {output} and its card {output.with_suffix('.md')}")
