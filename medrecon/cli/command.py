"""What every command shares: the common flags, their defaults from a file or the environment, and how it ends."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from medrecon.cli.session import Session
from medrecon.errors import BadInput, nearest


class Command(TyperCommand):
    """A command whose options default to `MEDRECON_<NAME>` of the environment, below --config and the flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        found = {name: os.environ.get(f"MEDRECON_{name.upper()}") for name in option_names(ctx)}
        ctx.default_map = {name: value for name, value in found.items() if value is not None}
        return super().parse_args(ctx, args)


def option_names(ctx: Any) -> dict[str, str]:
    """Option names as people write them (max_memory) -> parameter names."""
    names = {}
    for parameter in ctx.command.params:
        for flag in parameter.opts:
            if flag.startswith("--") or not flag.startswith("-"):
                names[flag.lstrip("-").replace("-", "_")] = parameter.name
    return {name: parameter for name, parameter in names.items() if name not in ("help", "config")}


def load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Options from a TOML file, from its top level or its table for this command, as defaults of the command."""
    if path is None or ctx.resilient_parsing:
        return path
    known = option_names(ctx)
    table = dict(read_toml(path))
    # Tables for other commands may stand in the same file.
    own = table.pop(str(ctx.command.name), {})
    values = {name: value for name, value in table.items() if not isinstance(value, dict) or name == "set"} | own
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        if key not in known:
            raise BadInput(f"{path}: unknown option {name!r} for medrecon {ctx.command.name}{nearest(key, list(known))}")
        defaults[known[key]] = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    from medrecon.files import check_readable

    try:
        return tomllib.loads(check_readable(path).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from error


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", is_eager=True, callback=load_config, metavar="F.toml", help="Options from a file; flags go first."),
]


def _common(json: Json = False, verbose: Verbose = 0, quiet: Quiet = False, debug: Debug = False, config: Config = None) -> None:
    """The flags that every command has."""


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """`function(session, ...)` as a command: common flags added, errors turned into one line and an exit code."""
    hints = {**get_type_hints(function, include_extras=True), **get_type_hints(_common, include_extras=True)}
    own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(function).parameters.values())[1:]]
    shared = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in inspect.signature(_common).parameters.values()]

    @functools.wraps(function)
    def wrapper(*args: Any, json: bool, verbose: int, quiet: bool, debug: bool, config: Path | None, **options: Any) -> None:
        session = Session(function.__name__, json, quiet, verbose, debug)
        with session.listening():
            try:
                function(session, *args, **options)
            except BrokenPipeError:  # the reader, `head` say, has seen enough; Python would complain again at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except (Exception, KeyboardInterrupt) as error:
                session.fail(error)
        raise typer.Exit(session.finish())

    first = next(iter(inspect.signature(function).parameters))
    named = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
    wrapper.__signature__ = inspect.Signature([*named, *shared])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {name: hint for name, hint in hints.items() if name not in (first, "return")}
    return wrapper
