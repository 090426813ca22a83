"""Show records as tables and pages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from sarguard.audit.wording import OUTCOMES, STYLES, detail, plain, what
from sarguard.cli.screen import results

if TYPE_CHECKING:
    from sarguard.audit import Entry


def write_line(entry: Entry) -> None:
    """Write one record as a line of JSON."""
    found = {"seq": entry.seq, "leaf": entry.leaf, "record": entry.values}
    sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")


def write_lines(entries: Iterable[Entry]) -> None:
    """Write records as JSON, one a line."""
    for entry in entries:
        write_line(entry)


def write_table(entries: Iterable[Entry]) -> int:
    """Write records as a table; return how many there were."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("record", no_wrap=True, justify="right")
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("request", no_wrap=True)
    count = 0
    for entry in entries:
        table.add_row(*_cells(entry))
        count += 1
    if count:
        results().print(table)
    return count


def write_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Write a heading and a list of facts."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value is not None and value != "":
            table.add_row(Text(plain(name)), Text(plain(value)))
    console = results()
    console.print(Text(title, style="bold"))
    console.print(table if table.row_count else "none")


def write_request(entries: list[Entry]) -> None:
    """Write a request from its first record to its last."""
    records = [entry.values for entry in entries]
    for entry, record in zip(entries, records, strict=True):
        outcome = record.get("outcome")
        said = f"{outcome} - {OUTCOMES[outcome]}" if outcome else None
        head = [("outcome", said), ("in short", detail(record))]
        write_facts(
            f"record {entry.seq}: {what(record)}, {record['time']}",
            [*head, *_flat(record), ("leaf hash", entry.leaf)],
        )


def say(text: str, style: str = "") -> None:
    """Write a sentence."""
    results().print(Text(plain(text), style=style))


def _cells(entry: Entry) -> list[Text]:
    record = entry.values
    outcome = record.get("outcome")
    told = Text(what(record))
    if outcome:
        told.append(": ").append(outcome, style=STYLES.get(outcome, ""))
    if below := _below(record):
        told.append(f"\n{below}", style="dim")
    return [
        Text(str(entry.seq)),
        Text(record["time"][:19].replace("T", " ")),
        told,
        Text(plain(record.get("audit_id") or record.get("request") or "")),
    ]


def _below(record: dict[str, Any]) -> str:
    """Say whose request it was, under which policy, and the one thing more."""
    policy = record.get("policy") or {}
    tier = f"/{policy['tier']}" if policy.get("tier") else ""
    parts = (record.get("tenant"), f"{policy.get('id', '')}{tier}", detail(record))
    return ", ".join(plain(part) for part in parts if part)


_SHOWN = {"kind", "outcome", "seq", "time", "schema_version", "mono_ns", "content"}


def _flat(record: dict[str, Any], before: str = "") -> list[tuple[str, object]]:
    """List what a record holds, one fact a line."""
    facts: list[tuple[str, object]] = []
    for name, value in record.items():
        if not before and name in _SHOWN:
            continue
        path = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict):
            facts += _flat(value, f"{path} ")
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for number, part in enumerate(value, 1):
                facts += _flat(part, f"{path} {number} ")
        else:
            facts.append((path, _value(value)))
    return facts


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
