"""medrecon methods: the table of reconstruction methods."""

from __future__ import annotations

from typing import Annotated

import typer

from medrecon.cli.session import Session


def methods(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Only this method, with its settings.", show_default=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/methods.md.")] = False,
) -> None:
    """List the methods, their presets and settings."""
    from medrecon.errors import BadInput, nearest
    from medrecon.recon.catalogue import catalogue, markdown_page
    from medrecon.recon.recipes import METHODS

    if name is not None and name not in METHODS:
        raise BadInput(f"unknown method {name!r}{nearest(name, list(METHODS))}: `medrecon methods` lists them")
    known = catalogue(METHODS if name is None else {name: METHODS[name]})
    session.result = known
    if markdown:
        session.say(markdown_page(known))
    elif name is None:
        rows = [(method, entry["kind"], entry["needs"], list(entry["presets"]), entry["summary"]) for method, entry in known.items()]
        session.table(("method", "kind", "needs", "presets", "summary"), rows)
    else:
        session.facts({key: value for key, value in known[name].items() if key != "notes"})
