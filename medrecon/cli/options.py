"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

from medrecon.errors import BadInput

Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, how long and how much memory; write nothing.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same result.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Nan = Annotated[str, typer.Option("--nan", help="NaN or infinity in the data: error, or zero to treat it as not measured.")]

Read = Annotated[
    list[str] | None, typer.Option("--read", metavar="KEY=VALUE", help="An option of the file's reader, as series=2; may be repeated.")
]

PATHS = ("maps", "calib")
"""Settings that name a file."""


def settings_of(texts: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """{key: value} of `key=value` texts: values are Python literals, true, false, none, else plain text; files as paths."""
    settings: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise BadInput(f"{option} {text}: expected key=value, as in {option} {'weight=0.01' if option == '--set' else 'series=2'}")
        if key in settings:
            raise BadInput(f"{option} {key} is given twice: {settings[key]!r} and {value!r}")
        settings[key] = Path(value) if key in PATHS else literal(value.strip())
    return settings


def literal(text: str) -> Any:
    """The number, list, truth value or text that was typed."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def slices_of(text: str, count: int) -> slice:
    """The slices a..b-1 of `count` that 'a:b' means; either end may be left out, negative counts from the end."""
    start, colon, stop = text.partition(":")
    try:
        wanted = slice(int(start) if start else None, int(stop) if stop else None) if colon else slice(int(text), int(text) + 1 or None)
    except ValueError as error:
        raise BadInput(f"--slices {text}: expected a:b with whole numbers, as in 10:20") from error
    first, last, _ = wanted.indices(count)
    if last <= first:
        raise BadInput(f"--slices {text} selects nothing: the scan has {count} slices, numbered from 0")
    return slice(first, last)


def one_of(option: str, text: str, known: tuple[str, ...]) -> str:
    """The text if it is known, else an error that offers the nearest."""
    from medrecon.errors import nearest

    if text not in known:
        raise BadInput(f"{option} {text}: expected {', '.join(known)}{nearest(text, known)}")
    return text
