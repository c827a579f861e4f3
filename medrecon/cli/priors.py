"""medrecon priors: what networks have learnt, and from what; whether they keep it on an image; taking in others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrecon.cli.options import Force, Seed, slices_of
from medrecon.cli.outputs import check_targets, staged, writable
from medrecon.cli.session import Session, jsonable

if TYPE_CHECKING:
    from medrecon.study.check import PriorCheck


def priors(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Show the card of this prior, or check it.", show_default=False)] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="IMAGE", help="Denoise this image beside TV and BM3D, test identities.", show_default=False),
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take in weights, or a folder of diffusers.", show_default=False)
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="--check: a folder for picture and numbers. --import: a name, or a file.", show_default=False),
    ] = None,
    slices: Annotated[str | None, typer.Option("--slices", metavar="A:B", help="Which slices to check.", show_default="the middle")] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """List the priors, show one model card, check a prior on your own image, or import one."""
    from medrecon import prior
    from medrecon.errors import BadInput

    if imported is not None:
        if name is not None or check is not None:
            raise BadInput("--import stands alone: give the name under which the prior is kept by -o NAME")
        _import(session, imported, output, force)
    elif check is not None:
        if name is None:
            raise BadInput("--check needs the name or file of a prior: medrecon priors NAME --check IMAGE")
        _check(session, name, check, output, slices, seed, force)
    elif name is not None:
        session.result = prior.card(name)
        session.say(session.result)
    else:
        _list(session)


def _list(session: Session) -> None:
    from medrecon import prior
    from medrecon.prior.store import label

    session.result = prior.available()
    rows = [
        (known, facts.get("field"), facts.get("domain"), facts.get("sigma_range"), label(facts), facts.get("card", {}).get("licence"))
        for known, facts in session.result.items()
    ]
    session.table(("prior", "field", "domain", "noise levels", "label", "licence of the images"), rows)


def _import(session: Session, source: Path, name: str | None, force: bool) -> None:
    from medrecon.files import check_target
    from medrecon.study.adopt import adopt, adopted_path

    target = adopted_path(source, name)
    check_target(target, force)
    writable(target)
    session.inputs = [source]
    session.outputs = adopt(source, target, force=force)
    known = target.stem if name is None or name == target.stem else str(target)
    session.say(f"wrote {', '.join(map(str, session.outputs))}; use it as --prior {known}")


def _check(session: Session, name: str, image: Path, output: str | None, slices: str | None, seed: int, force: bool) -> None:
    from medrecon.prior import store
    from medrecon.study.check import check, in_prior_units

    targets = [] if output is None else [Path(output) / "check.png", Path(output) / "check.json"]
    check_targets(targets, force)
    loaded = store.load(name)
    session.inputs, session.settings = [image], {"prior": name, "slices": slices, "seed": seed}
    images, words = in_prior_units(loaded, image)
    chosen = slices_of(slices or str(len(images) // 2), len(images))
    with session.progress("check") as progress:
        found = check(loaded, Path(name).stem, images[chosen], words, seed=seed, progress=progress)
    if targets:
        picture, numbers = targets
        with staged(targets, force) as place:
            place[picture].write_bytes(found.picture())
            place[numbers].write_text(json.dumps(jsonable(found.facts()), indent=1) + "\n", encoding="utf-8")
        session.outputs = targets
    _tell(session, found)


def _tell(session: Session, found: PriorCheck) -> None:
    session.result = found.facts()
    session.metrics = {"passed": found.passed, "milliseconds": session.result["milliseconds"]}
    session.facts({"image": found.image, "size": found.size, "ms per image": found.milliseconds})
    head = ("sigma", "noisy dB", "prior dB", "card dB", "tv dB", "bm3d dB", "SURE (1)", "phase (0)")
    rows = [(f.sigma, f.noisy, f.prior, f.card, f.tv, f.bm3d, f.sure, f.phase) for f in found.levels]
    session.table(head, rows)
    for text in found.warnings:
        session.warn(text)
    if session.outputs:
        session.say("wrote " + ", ".join(map(str, session.outputs)))
