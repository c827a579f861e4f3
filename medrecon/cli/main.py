"""The medrecon command: arguments in, exit code out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from medrecon.cli.command import Command, with_session
from medrecon.cli.convert import convert
from medrecon.cli.demo import demo
from medrecon.cli.doctor import doctor
from medrecon.cli.evaluate import evaluate
from medrecon.cli.info import info
from medrecon.cli.methods import methods
from medrecon.cli.priors import priors
from medrecon.cli.recon import recon
from medrecon.cli.session import Session
from medrecon.cli.simulate import simulate
from medrecon.cli.train import train
from medrecon.cli.undersample import undersample

COMMANDS = (recon, info, convert, simulate, undersample, evaluate, methods, priors, train, demo, doctor)

app = typer.Typer(
    name="medrecon",
    help="From raw medical scanner data to images: reconstruct, inspect, simulate, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _function in COMMANDS:
    app.command(_function.__name__, cls=Command)(with_session(_function))


def _show_version(wanted: bool) -> None:
    if wanted:
        import medrecon

        print(f"medrecon {medrecon.__version__}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


# typer has taken click from two places; in both the base of usage errors has this name.
UsageErrors: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(arguments: Sequence[str]) -> int:
    """The exit code of `medrecon ARGUMENTS`: 0 done, 1 failed, 2 bad input or usage, 130 interrupted."""
    from medrecon.errors import MedreconError

    try:
        return int(app(args=list(arguments), prog_name="medrecon", standalone_mode=False) or 0)
    except (UsageErrors, MedreconError, KeyboardInterrupt) as error:
        return _bad_usage(error, arguments)


def _bad_usage(error: BaseException, arguments: Sequence[str]) -> int:
    """Arguments that no command could be started with: one line, and the JSON object where it was asked for."""
    from medrecon.errors import BadInput

    command = next((word for word in arguments if not word.startswith("-")), "medrecon")
    session = Session(command, json="--json" in arguments, debug="--debug" in arguments)
    if isinstance(error, UsageErrors):
        text = getattr(error, "format_message", lambda: str(error))()
        if not text:  # no arguments at all: the help has been printed
            return 2
        known = command if command in {function.__name__ for function in COMMANDS} else ""
        error = BadInput(f"{text.rstrip('.')}. Try: medrecon {known + ' ' if known else ''}--help")
    session.fail(error)
    return session.finish()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the installed command."""
    # A batch system ends a job by SIGTERM: as with Ctrl-C, nothing unfinished is left behind.
    signal.signal(signal.SIGTERM, _stop)
    # Threads that spin while they wait make a busy machine many times slower; read by the runtime when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(run(sys.argv[1:]))
