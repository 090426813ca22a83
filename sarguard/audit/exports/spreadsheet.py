"""Records as CSV that a spreadsheet shows and never runs.

A cell that begins like a formula is run by spreadsheets when the file is opened, and
records hold words that callers chose. Such a cell gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from sarguard.audit.exports.rows import COLUMNS, Cell, row
from sarguard.audit.storage.query import Entry

_STARTS = tuple("=+-@\t\r\n＝＋－＠|%")  # noqa: RUF001 - full width, as Excel reads it
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad\x00"


def safe_cell(value: Cell) -> str:
    """Return a cell's text, harmless to a spreadsheet; numbers stay as they are."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    # Readers of CSV drop what is invisible or blank and look at what follows.
    bare = value.lstrip(_INVISIBLE).lstrip()
    if value.startswith(_STARTS) or bare.startswith(_STARTS):
        return f"'{value}"
    return value


def write_csv(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield a CSV file: a heading, then a line for each record (RFC 4180)."""
    yield _line(list(COLUMNS))
    for entry in entries:
        yield _line([safe_cell(value) for value in row(entry).values()])


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8")
