"""medrecon convert: one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import Force, Read, settings_of
from medrecon.cli.outputs import check_targets
from medrecon.cli.session import Session


def convert(
    session: Session,
    source: Annotated[Path, typer.Argument(help="A raw or image file or folder.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The new file or folder; its ending names the format.", show_default=False)],
    read: Read = None,
    force: Force = False,
) -> None:
    """Write a file in another format, in the same place in the patient."""
    from medrecon import io

    check_targets([target], force)
    session.inputs = [source]
    io.convert(source, target, force, **settings_of(read, "--read"))
    session.outputs = [target]
    session.say(f"wrote {target}")
