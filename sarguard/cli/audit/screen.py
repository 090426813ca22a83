"""Records as tables and pages, and as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from sarguard.audit.views import ListRow, list_row, record_page
from sarguard.audit.wording import printable
from sarguard.cli.screen import print_table, results

if TYPE_CHECKING:
    from sarguard.audit import Entry

_STYLES = {
    "answered": "green",
    "refused": "yellow",
    "blocked": "yellow",
    "over_limit": "yellow",
    "error_closed": "red",
    "error_open": "bold red",
    "cancelled": "dim",
    "timeout": "red",
}


def write_json_lines(entries: Iterable[Entry]) -> int:
    """Write records as JSON, one a line; return how many there were."""
    count = 0
    for entry in entries:
        values = {"seq": entry.seq, "leaf": entry.leaf, "record": entry.values}
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_table(entries: Iterable[Entry]) -> int:
    """Write records as a table; return how many there were."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("record", no_wrap=True, justify="right")
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("request", no_wrap=True)
    for entry in entries:
        table.add_row(*_cells(list_row(entry)))
    if table.row_count:
        print_table(results(), table)
    return table.row_count


def write_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Write a heading and named values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value is not None and value != "":
            table.add_row(Text(printable(name)), Text(printable(value)))
    console = results()
    console.print(Text(title, style="bold"))
    console.print(table if table.row_count else "none")


def write_pages(entries: Iterable[Entry]) -> None:
    """Write everything that some records hold."""
    for entry in entries:
        page = record_page(entry)
        write_facts(page.title, page.lines)


def say(text: str, style: str = "") -> None:
    """Write a sentence."""
    results().print(Text(printable(text), style=style))


def _cells(row: ListRow) -> list[Text]:
    what = Text(row.kind)
    if row.outcome:
        what.append(": ").append(row.outcome, style=_STYLES.get(row.outcome, ""))
    if row.detail:
        what.append(f"\n{row.detail}", style="dim")
    return [
        Text(str(row.seq)),
        Text(row.time[:19].replace("T", " ")),
        what,
        Text(row.request),
    ]
