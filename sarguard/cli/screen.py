"""Output: results on stdout; progress, remarks and logs on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

# rich may be missing where `sarguard doctor` runs: it is imported where it is used.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

WIDTH_OF_FILES = 100
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Keeps libraries quiet, unless the user has set it otherwise."""

Advance = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a few words on what is going on."""


def quiet_libraries() -> None:
    """Silence libraries, and log to stderr; call it before they are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that lacks a character shows "?", instead of a failure.
            reconfigure(errors="replace")
    logger = logging.getLogger("sarguard")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


class _StandardError(logging.StreamHandler[TextIO]):
    """Handler that writes to what standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.setStream(sys.stderr)
        super().emit(record)


def warn_only() -> None:
    """Log warnings only, in a command that reports itself what it did."""
    logging.getLogger("sarguard").setLevel(logging.WARNING)


def results() -> Console:
    """Return the console that results are written to.

    A file or a pipe gets lines of a fixed width, unless COLUMNS says otherwise.
    """
    from rich.console import Console

    class Results(Console):
        def on_broken_pipe(self) -> None:
            # Rich would leave with 1, which of `verify` means that a ledger is wrong.
            raise BrokenPipeError

    fixed = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    width = WIDTH_OF_FILES if fixed else None
    return Results(file=sys.stdout, highlight=False, width=width)


def print_table(console: Console, table: Table) -> None:
    """Print a table, or where the terminal is too narrow for it its rows as lists.

    A table that is squeezed loses what stands on the left of it, which is what one has
    to type.
    """
    from rich.text import Text

    rows = list(zip(*(_texts(column) for column in table.columns), strict=True))
    if _least_width(table) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    for row in rows:
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            if cell.plain:
                heading = Text(f"{'' if number == 0 else '  '}{column.header}: ")
                heading.stylize("bold" if number == 0 else "dim")
                console.print(Text.assemble(heading, cell))


def _least_width(table: Table) -> int:
    """Return how wide a table has to be to cut nothing off."""
    widths = []
    for column in table.columns:
        parts = [
            part
            for text in (str(column.header), *(cell.plain for cell in _texts(column)))
            for part in (text.splitlines() if column.no_wrap else text.split())
        ]
        widths.append(max(map(len, parts), default=0))
    # Blanks on both sides, and a box's lines.
    return sum(widths) + (2 if table.box is None else 3) * len(widths)


def _texts(column: Column) -> list[Text]:
    from rich.text import Text

    cells = list(column.cells)
    return [cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells]


def remarks() -> Console:
    """Return the console that progress and remarks are written to."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def print_json(
    content: Any,  # noqa: ANN401
    *,
    indent: int | None = 2,
    ensure_ascii: bool = True,
) -> None:
    """Write plain values to stdout as JSON; NaN, which JSON lacks, is an error."""
    text = json.dumps(
        content, indent=indent, allow_nan=False, ensure_ascii=ensure_ascii
    )
    sys.stdout.write(text + "\n")


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


class ProgressLines:
    """Says now and then how far something is, where no bar can be drawn."""

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        *,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._say = say
        self._every_s = every_s
        self._clock = clock
        self._begun = self._said = clock()
        self._first: int | None = None

    def __call__(self, done: int, total: int, now: str = "") -> None:
        """Take how much is done, how much there is, and what is at work."""
        time_now = self._clock()
        if self._first is None:
            # What an earlier run has done took this one no time.
            self._first, self._begun = done, time_now
        if time_now - self._said < self._every_s:
            return
        self._said = time_now
        line = f"{self._what}: {done} of {total}"
        if total:
            line += f" ({done / total:.0%})"
        if self._first < done < total:
            pace = (time_now - self._begun) / (done - self._first)
            line += f", {_duration(pace * (total - done))} left"
        self._say(line)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute or less"
    if minutes < 60:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60} min"


@contextmanager
def steps(what: str) -> Iterator[Advance]:
    """Show a progress bar on a terminal, and a line every half a minute elsewhere."""
    from rich import progress

    console = remarks()
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False)
        yield ProgressLines(
            what, lambda line: console.print(line, markup=False, soft_wrap=True)
        )
        return
    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task(what, total=None)

        def advance(done: int, total: int, now: str) -> None:
            described = f"{what} \u00b7 {now}" if now else what
            bars.update(task, completed=done, total=total, description=described)

        yield advance
