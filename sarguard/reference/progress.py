"""Progress of assembly, on stderr or in the operational log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int], None]
"""Called with the number of further units done."""


class Reporter:
    """Bars and notes on stderr while entered; where not shown, notes are logged.

    Args:
        show: whether to show them to a user.
    """

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bars: Progress | None = None

    def __enter__(self) -> Reporter:
        if self._show:
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def note(self, text: str) -> None:
        """Show or log one line."""
        if self._bars is not None:
            self._bars.console.print(
                text, soft_wrap=True, markup=False, highlight=False
            )
        else:
            from sarguard.logs import get_logger

            get_logger(__name__).info("reference_model", note=text)

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Advance]:
        """Show one bar, or a pulse where there is no total."""
        if self._bars is None:
            yield _ignore
            return
        bars, task = self._bars, self._bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)
        bars.update(task, total=total or 1, completed=total or 1)


def _ignore(count: int) -> None:
    """Advance nothing."""


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TaskProgressColumn as Percentage

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        Percentage(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
