"""medrecon train: a prior from images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import Device, DryRun, Force, Seed
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
        str | None,
        typer.Option("--domain", help="What the images show: brain, knee, ...; a modality's name chooses it.", show_default="custom"),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Of the images, for the card.")] = "not stated",
    objective: Annotated[str, typer.Option("--objective", help="edm, vp, ve or flow.")] = "edm",
    network: Annotated[str, typer.Option("--network", help="unet_full, or large (for a GPU).")] = "unet_full",
    precision: Annotated[str, typer.Option("--precision", help="float32, bfloat16, or auto: the faster one.")] = "auto",
    device: Device = "cpu",
    report_every: Annotated[int, typer.Option("--report-every", min=0, help="Iterations between PSNR and pictures; 0: none.")] = 500,
    seed: Seed = 0,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Train a prior on images. The same command goes on where an interrupted run stopped."""
    from medrecon.study.modalities import GENERIC, MODALITIES
    from medrecon.study.train import TrainingRun, cost, train_from_files

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
        domain=domain or modality or "custom",
        licence=licence,
        objective=objective,
        network=network,
        precision=precision,
        device=device,
        report_every=report_every,
    )
    session.inputs = data
    session.settings = {"command": run.command()}
    if dry_run:
        session.say(run.command())
        session.say(cost(run))
        return
    with session.progress("train") as progress:
        train_from_files(run, progress)
    session.outputs = [output, *(p for p in map(output.with_suffix, (".md", ".csv", ".png")) if p.exists())]
    session.say(f"wrote {output} and its card {output.with_suffix('.md')}")
