"""One table of a report as words, for every form that it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from sarguard.evaluation.arms.arm import Arm
from sarguard.evaluation.stats.rates import Rate

MISSED = "missed"
"""What stands beside a bar that was not reached."""

Cell: TypeAlias = "str | Arm"
"""What a cell says; an arm may be shown in its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One table."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def percent(rate: Rate | None) -> str:
    """Return a rate in percent with its interval; a dash where there is none."""
    if rate is None:
        return "-"
    value, low, high = (
        round(100 * number) for number in (rate.value, rate.low, rate.high)
    )
    return f"{value} [{low}, {high}]"


def whole(share: float | None) -> str:
    """Return a share in whole percent; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.0f}"


def ratio(rate: Rate | None) -> str:
    """Return a ratio with its interval; a dash where there is none."""
    if rate is None:
        return "-"
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def to_lines(grid: Grid) -> list[str]:
    """Return a table's lines in Markdown."""
    head = [_line(grid.headings), _line("---" for _ in grid.headings)]
    return [*head, *map(_line, grid.rows)]


def _line(cells: Iterable[Cell]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
