"""One run of a command: what it says, its progress, and the JSON object that it ends with."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrecon.cli.progress import Progress, shown_progress
from medrecon.errors import MedreconError


@dataclass
class Session:
    """What one command reads, writes, finds and says. With `json` only the final object goes to stdout."""

    command: str
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    debug: bool = False
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    warnings: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int = 0
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str = "") -> None:
        """A line of the answer: on stdout, unless the answer is JSON or nobody wants one."""
        if not self.json and not self.quiet:
            print(text, flush=True)

    def facts(self, values: Mapping[str, Any]) -> None:
        """Aligned `name  value` lines of the answer."""
        width = max((len(name) for name in values), default=0)
        for name, value in values.items():
            self.say(f"{name:<{width}}  {plain(value)}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Aligned columns of the answer; plain text, so that it can be searched and pasted."""
        cells = [list(head), *([plain(cell) for cell in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        for row in cells:
            self.say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())

    def note(self, text: str) -> None:
        """A line beside the answer, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A warning, once: on stderr and in the JSON object."""
        line = " ".join(text.split())
        if line not in self.warnings:
            self.warnings.append(line)
            print(f"warning: {line}", file=sys.stderr, flush=True)

    def fail(self, error: BaseException) -> None:
        """Records the error, prints its one line and sets the exit code."""
        code, message, hint, exit_code = diagnosis(error)
        self.errors.append({"code": code, "message": message, "path": _path_of(error), "hint": hint})
        self.exit_code = max(self.exit_code, exit_code)
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        print(f"error: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)

    def item_failed(self, path: Path, reason: str) -> None:
        """Records that one item of several failed; the command goes on, and its exit code is 1."""
        self.errors.append({"code": "item_failed", "message": reason, "path": str(path), "hint": None})
        self.exit_code = max(self.exit_code, 1)
        print(f"failed: {' '.join(reason.split())}", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar on a terminal, a line every 30 seconds elsewhere, nothing when quiet; always on stderr."""
        with shown_progress(title, self.note, quiet=self.quiet) as report:
            yield report

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Warnings and log messages of the package become lines here; details show with -v, -vv."""
        logger, handler = logging.getLogger("medrecon"), _Listener(self)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(self.verbose, 2)])
        logger.propagate = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default" if self.verbose else "ignore")
                warnings.filterwarnings("always", category=UserWarning, module=r"medrecon\b")
                warnings.showwarning = lambda message, *place, **more: self.warn(str(message))
                yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate

    def object(self) -> dict[str, Any]:
        """The JSON object, schema 1."""
        from medrecon.files import sha256

        status = {0: "done", 1: "failed", 2: "bad input", 130: "interrupted"}.get(self.exit_code, "failed")
        answer: dict[str, Any] = {
            "schema": 1,
            "command": self.command,
            "status": status,
            "inputs": [str(path) for path in self.inputs],
            "outputs": [{"path": str(path), "sha256": sha256(path)} for path in self.outputs],
            "settings": self.settings,
            "metrics": self.metrics,
            "warnings": self.warnings,
            "errors": self.errors,
            "seconds": round(time.monotonic() - self.started, 3),
            "peak_memory_bytes": peak_memory(),
        }
        if self.result is not None:
            answer["result"] = self.result
        return answer

    def finish(self) -> int:
        """Prints the JSON object where one was asked for; the exit code."""
        if self.json:
            print(json.dumps(jsonable(self.object())), flush=True)
        return self.exit_code


class _Listener(logging.Handler):
    """Passes log records on to the session."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.session.warn(record.getMessage())
        else:
            self.session.note(record.getMessage())


def diagnosis(error: BaseException) -> tuple[str, str, str | None, int]:
    """Code, one-line message, hint and exit code of anything that ended a command."""
    message = " ".join(str(error).split())
    if isinstance(error, MedreconError):
        return _snake(type(error).__name__), message, None, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted: nothing was written", None, 130
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory", "out of memory", "lower --max-memory, use --device cpu or fewer --samples", 1
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return "system", f"{where}{error.strerror.lower()}", None, 2 if error.filename else 1
    kind = type(error).__name__
    return "internal", f"{kind}: {message}" if message else kind, "a fault in medrecon: run again with --debug to see where", 1


def plain(value: Any) -> str:
    """A value as people read it: short numbers, no quotes, no brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return "-" if value is None else str(value)


def jsonable(value: Any) -> Any:
    """The value in JSON's types: paths as text, arrays as lists, and null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and numpy numbers
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def peak_memory() -> int:
    """The most memory that this process held: of the machine, plus of the CUDA device where one was used."""
    try:
        import resource
    except ImportError:  # Windows has no such record
        return 0
    kilobytes = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak += torch.cuda.max_memory_allocated()
    return int(peak)


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


def _path_of(error: BaseException) -> str | None:
    name = getattr(error, "filename", None)
    return os.fspath(name) if isinstance(name, str | os.PathLike) else None
