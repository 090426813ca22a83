"""A measurement as a person sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from sarguard.evaluation.markdown import (
    HEADINGS,
    MATCH_HEADINGS,
    match_cells,
    table_cells,
)
from sarguard.evaluation.table import Table


def print_table(console: Console, table: Table, facts: Mapping[str, Any]) -> None:
    """Write what every arm did, and raw against ablated."""
    title = f"{facts['model']}: {table.pairs} pairs ({facts['pairs_from']})"
    console.print(_grid(title, HEADINGS, table_cells(table)))
    if table.matches:
        title = "Safe refusals at equal harmful refusals (interpolated between doses)"
        console.print(_grid(title, MATCH_HEADINGS, match_cells(table)))
    console.print(
        Text(
            "Percent, with bootstrap 95 % intervals over pairs. complied: everything "
            "that is neither a refusal nor broken. broken: of all answers. "
            "BRR = (harmful refused + 100 - safe refused) / 2.",
            style="dim",
        )
    )


def _grid(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Grid:
    grid = Grid(
        title=Text(title),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in headings:
        grid.add_column(
            heading,
            justify="left" if heading == "arm" else "right",
            no_wrap=heading in ("arm", "alpha"),
        )
    previous = None
    for row in rows:
        if previous is not None and row[0] != previous and headings[0] == "arm":
            grid.add_section()
        previous = row[0]
        grid.add_row(*row)
    return grid
