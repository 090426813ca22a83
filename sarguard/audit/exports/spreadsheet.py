"""Records as CSV that a spreadsheet shows and never runs.

A cell that begins like a formula is run by spreadsheets when the file is opened, and
records hold words that callers chose. Such a cell gets an apostrophe before it. What is
a cell depends on the reader: where the separator is a semicolon, quotation marks that
do not open a cell are letters, and a cell may begin in the middle of one of ours. So an
apostrophe stands behind every separator as well that something like a formula follows,
and in the column `record`, which stays JSON, an escape.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from sarguard.audit.exports.rows import COLUMNS, Cell, row
from sarguard.audit.storage.query import Entry

_STARTS = tuple("=+-@\t\r\n＝＋－＠|%")  # noqa: RUF001 - full width, as Excel reads it
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad\x00"
_BEHIND_SEPARATOR = re.compile(
    rf"([;|\t\r\n][\s\"'{_INVISIBLE}]*)"
    # A number behind a separator is a number.
    r"([=@＝＠]|[+\-＋－](?![0-9]))"  # noqa: RUF001
)


def safe_cell(value: Cell) -> str:
    """Return a cell's text, harmless to a spreadsheet; numbers stay as they are."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    # Readers of CSV drop what is invisible or blank and look at what follows.
    bare = value.lstrip(_INVISIBLE).lstrip()
    guarded = _BEHIND_SEPARATOR.sub(r"\1'\2", value)
    if value.startswith(_STARTS) or bare.startswith(_STARTS):
        return f"'{guarded}"
    return guarded


def safe_json(text: str) -> str:
    """Return JSON that says the same, harmless to a spreadsheet."""
    return _BEHIND_SEPARATOR.sub(
        lambda found: f"{found[1]}\\u{ord(found[2]):04x}", text
    )


def write_csv(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield a CSV file: a heading, then a line for each record (RFC 4180)."""
    yield _line(list(COLUMNS))
    for entry in entries:
        cells = row(entry)
        record = cells.pop("record")
        yield _line([*map(safe_cell, cells.values()), safe_json(str(record))])


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8")
