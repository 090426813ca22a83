"""What a person sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_WIDTH_OF_FILES = 100

Advance = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a few words on what is going on."""


def results() -> Console:
    """Return the console that results are written to.

    A file or a pipe gets lines of a fixed width, unless COLUMNS says otherwise.
    """
    fixed = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    width = _WIDTH_OF_FILES if fixed else None
    return Console(file=sys.stdout, highlight=False, width=width)


def remarks() -> Console:
    """Return the console that progress and remarks are written to."""
    return Console(file=sys.stderr, highlight=False)


def print_json(content: Any) -> None:  # noqa: ANN401
    """Write plain values to stdout as JSON."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something takes its time."""
    console = remarks()
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False)
        yield
        return
    with console.status(f"{what} ..."):
        yield


@contextmanager
def steps(what: str) -> Iterator[Advance]:
    """Show a bar on a terminal, and a line elsewhere."""
    console = remarks()
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False)
        yield _ignore
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task(what, total=None)

        def advance(done: int, total: int, now: str) -> None:
            described = f"{what} \u00b7 {now}" if now else what
            bars.update(task, completed=done, total=total, description=described)

        yield advance


def _ignore(done: int, total: int, now: str) -> None:
    """Show nothing."""
