"""medrecon demo: a scan to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import Force
from medrecon.cli.session import Session


def demo(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(help="A public data set to download; `--list` shows them.", show_default="made here, no download")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write in.")] = Path("medrecon-demo"),
    listed: Annotated[bool, typer.Option("--list", help="List the data sets that can be downloaded.")] = False,
    checksum: Annotated[str | None, typer.Option("--sha256", help="What the download must have.", show_default="as listed")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only look for an earlier download.")] = False,
    force: Force = False,
) -> None:
    """Make the demo scan, or download a named public one."""
    from medrecon.study.demo import demo_scan, download, registry

    if listed:
        session.result = registry()
        session.table(("name", "licence", "what"), [(key, entry["licence"], entry["what"]) for key, entry in session.result.items()])
        return
    session.settings = {"name": name}
    path = demo_scan(output, force=force) if name is None else download(name, output, checksum=checksum, offline=offline)
    session.outputs = [path]
    session.say(f"wrote {path}")
