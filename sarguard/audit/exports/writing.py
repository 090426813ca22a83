"""Write an export whole or not at all, and record that records left the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog

from sarguard.audit.exports.cloudevents import cloud_event
from sarguard.audit.exports.evidence import write_evidence
from sarguard.audit.exports.ocsf import events
from sarguard.audit.exports.opentelemetry import spans
from sarguard.audit.exports.parquet import write_parquet
from sarguard.audit.exports.spreadsheet import write_csv
from sarguard.audit.log import AuditLog
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditRecordError

_log = structlog.get_logger(__name__)

Lines = Callable[[Iterable[Entry]], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Say what was exported."""

    path: str
    format: str
    records: int
    """How many records were read for it; some formats leave out some kinds."""
    first_seq: int | None
    last_seq: int | None
    digest: str
    """SHA-256 of the file."""
    seq: int | None = None
    """The record that says so; None where it was not recorded."""


def write_jsonl(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield each record's exact bytes, one a line."""
    for entry in entries:
        yield entry.data + b"\n"


def _as_json(found: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for value in found:
        yield json.dumps(value, ensure_ascii=False).encode() + b"\n"


_LINES: dict[str, Lines] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "otel": lambda entries: _as_json(spans(entries)),
    "ocsf": lambda entries: _as_json(events(entries)),
    "cloudevents": lambda entries: _as_json(map(cloud_event, entries)),
}

FORMATS = (*_LINES, "parquet", "evidence")
"""What can be written."""


def export(
    log: AuditLog,
    path: str | Path,
    format: str,
    query: Query | Sequence[Query] | None = None,
    *,
    actor: str | None = None,
    asked: str | None = None,
    record: bool = True,
) -> Written:
    """Write the records that fit a query, oldest first, to a new file.

    Args:
        log: the ledger; open for writing where the export is recorded.
        path: the file; an existing one is not replaced.
        format: one of `FORMATS`.
        query: which records; by default all. With several, what fits any of them.
        actor: who exports.
        asked: the query in words, for the record.
        record: whether the ledger records the export.

    Raises:
        AuditRecordError: if there is no such format.
        FileExistsError: if there is a file at the path.
        AuditWriteError: if the export cannot be recorded; then there is no file.
    """
    if format not in FORMATS:
        raise AuditRecordError(f"no format {format!r}: use one of {', '.join(FORMATS)}")
    place = Path(path)
    if place.exists():
        raise FileExistsError(f"{place} exists: name another file")
    if format == "evidence" and record:
        log.checkpoint()
    part = place.with_name(f".{place.name}.part")
    try:
        wanted = [query] if isinstance(query, Query) else list(query or [Query()])
        seen = _Seen(log, wanted)
        _write(log, seen, part, format)
        written = Written(
            path=str(place),
            format=format,
            records=seen.count,
            first_seq=seen.first,
            last_seq=seen.last,
            digest=f"sha256:{_digest(part)}",
        )
        if record:
            written = _record(log, written, actor, asked)
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
    return written


class _Seen:
    """Pass entries on, in order, and remember how many and which."""

    def __init__(self, log: AuditLog, queries: list[Query]) -> None:
        self.log = log
        self.queries = queries
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries():
            self.count += 1
            self.first = min(self.first or entry.seq, entry.seq)
            self.last = max(self.last or entry.seq, entry.seq)
            yield entry

    def _entries(self) -> Iterator[Entry]:
        first, last = self.queries[0].first_seq, self.queries[0].last_seq
        if self.queries == [Query(first_seq=first, last_seq=last)]:
            # By number: a clock that went back must not disorder a whole ledger.
            return self.log.entries(first or 1, last)
        found = [
            self.log.search(query, limit=None, newest_first=False)
            for query in self.queries
        ]
        # A record that fits two of the queries is given once.
        return (next(same) for _, same in groupby(merge(*found, key=_place), _place))


def _place(entry: Entry) -> tuple[str, int]:
    return entry.record.time, entry.seq


def _write(log: AuditLog, seen: _Seen, part: Path, format: str) -> None:
    # What is exported is as private as the ledger: its owner alone may read it.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    if format == "evidence":
        seen.count = write_evidence(log, seen, part)
    elif format == "parquet":
        write_parquet(seen, part)
    else:
        with part.open("wb") as file:
            file.writelines(_LINES[format](seen))
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    whole = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def _record(
    log: AuditLog, written: Written, actor: str | None, asked: str | None
) -> Written:
    from dataclasses import replace

    done = log.event(
        "exported",
        format=written.format,
        records=written.records,
        first_seq=written.first_seq,
        last_seq=written.last_seq,
        digest=written.digest,
        actor=actor,
        query=asked,
    )
    _log.info("audit_exported", records=written.records, audit_seq=done.seq)
    return replace(written, seq=done.seq)
