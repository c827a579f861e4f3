"""medrecon info: what a file holds, without loading all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import Read, settings_of
from medrecon.cli.session import Session


def info(
    session: Session,
    file: Annotated[Path, typer.Argument(help="A raw or image file or folder.", show_default=False)],
    read: Read = None,
    phi: Annotated[bool, typer.Option("--phi", help="Show patient and study attributes too.")] = False,
) -> None:
    """Explain a file: format, axes, shapes, spacing, orientation, sampling."""
    from medrecon import io

    session.inputs = [file]
    session.result = io.describe(file, identity=phi, **settings_of(read, "--read"))
    session.facts(session.result)
