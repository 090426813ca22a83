"""A measurement's table as Markdown, for a document."""

from __future__ import annotations

from collections.abc import Iterable

from sarguard.evaluation.arms import ArmName
from sarguard.evaluation.rates import Rate
from sarguard.evaluation.table import Table

HEADINGS = (
    "arm",
    "alpha",
    "harmful refused",
    "harmful complied",
    "safe refused",
    "broken",
    "BRR",
)
MATCH_HEADINGS = ("harmful refused", "safe refused: raw", "ablated", "raw - ablated")


def table_cells(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of the table, a row an arm, percentages with intervals."""
    return [
        (
            row.arm.name.value,
            "" if row.arm.name is ArmName.BARE else f"{row.arm.alpha:g}",
            percent(row.harmful_refused),
            percent(row.harmful_complied),
            percent(row.safe_refused),
            percent(row.broken),
            percent(row.balanced),
        )
        for row in table.rows
    ]


def match_cells(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of the comparison at equal harmful refusals."""
    return [
        (
            f"{match.harmful_refused:.0%}",
            percent(match.raw),
            percent(match.ablated),
            percent(match.difference),
        )
        for match in table.matches
    ]


def percent(rate: Rate | None) -> str:
    """Return a rate in percent with its interval; a dash where there is none."""
    if rate is None:
        return "-"
    value, low, high = (
        round(100 * number) for number in (rate.value, rate.low, rate.high)
    )
    return f"{value} [{low}, {high}]"


def to_markdown(table: Table) -> str:
    """Return both tables as Markdown."""
    parts = [
        f"{table.pairs} pairs, percent with bootstrap 95 % intervals over pairs.",
        _render(HEADINGS, table_cells(table)),
    ]
    if table.matches:
        parts += [
            "Safe refusals at equal harmful refusals, interpolated between doses:",
            _render(MATCH_HEADINGS, match_cells(table)),
        ]
    return "\n\n".join(parts) + "\n"


def _render(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    headings = list(headings)
    lines = [_line(headings), _line("---" for _ in headings), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
