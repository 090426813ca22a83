"""A measurement as a person sees it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sarguard.evaluation.judges.agreement import Agreement
from sarguard.evaluation.report import Report
from sarguard.evaluation.report.tables import Grid, confusion_grid, short_grids

_LONGEST_REPLY = 70


def print_report(console: Console, report: Report) -> None:
    """Write the short tables, and what has to be said of them."""
    console.print(Text(str(report.facts["title"]), style="bold"))
    for grid in short_grids(report):
        _print(console, grid)
    for finding in report.findings:
        console.print(Text(finding.text, style="bold red" if finding.grave else "dim"))


def print_agreement(console: Console, found: Agreement) -> None:
    """Write how a judge's labels compare with a person's, and where they differ."""
    _print(console, confusion_grid(found))
    for row, label in found.missed:
        shown = row.reply[:_LONGEST_REPLY].replace("\n", " ")
        console.print(Text(f"{row.label} labelled {label}: {shown}", style="dim"))


def _print(console: Console, grid: Grid) -> None:
    table = Table(
        title=Text(grid.title),
        title_style="bold",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, heading in enumerate(grid.headings):
        table.add_column(
            heading,
            justify="left" if place == 0 or heading == "arm" else "right",
            no_wrap=(place == 0 and heading != "figure") or heading == "arm",
        )
    for row in grid.rows:
        table.add_row(*row)
    console.print(table)
    console.print(Text(grid.note, style="dim"))
    console.print()
