"""How far a command has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, str], None]
"""progress(done, total, text)."""

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def shown_progress(title: str, note: Callable[[str], None], *, quiet: bool = False) -> Iterator[Progress]:
    """A function to report to; `note` prints a line on stderr."""
    if quiet:
        yield lambda done, total, text: None
    elif sys.stderr.isatty():
        with _bar(title) as report:
            yield report
    else:
        yield _lines(title, note)


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=f"{title}: {text}")


def _lines(title: str, note: Callable[[str], None]) -> Progress:
    started = last = time.monotonic()

    def report(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            note(f"{title}: {text}, {done} of {total}, {now - started:.0f} s")

    return report
