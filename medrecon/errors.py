"""What can go wrong, by name. Every message says what was found, where, what was expected and what to do."""

from __future__ import annotations


class MedreconError(Exception):
    """Base of every error that a user can act on; `exit_code` is what the command line returns."""

    exit_code = 2


class BadInput(MedreconError):
    """A file, an argument or a shape is not what the called function takes."""


class NotSupported(MedreconError):
    """Valid input that this version cannot handle, or a method that lacks what it needs."""


class OutOfMemory(MedreconError):
    """The smallest piece of the work does not fit the memory budget."""

    exit_code = 1


class Diverged(MedreconError):
    """An iteration produced non-finite numbers or left the data far behind."""

    exit_code = 1


class OutputExists(BadInput):
    """The target is already there and --force was not given."""


class MissingExtra(MedreconError):
    """An optional package is needed; the message names the extra that installs it."""


class Interrupted(MedreconError):
    """The user stopped the run; nothing was written."""

    exit_code = 130


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """', did you mean X?' for a misspelt name, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
