"""Writing an export whole or not at all, and recording that records left the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

from sarguard.audit.exports import FORMATS
from sarguard.audit.exports.cloudevents import cloud_event
from sarguard.audit.exports.evidence import write_evidence
from sarguard.audit.exports.ocsf import events
from sarguard.audit.exports.opentelemetry import spans
from sarguard.audit.exports.parquet import write_parquet
from sarguard.audit.exports.spreadsheet import write_csv
from sarguard.audit.log import AuditLog
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditRecordError
from sarguard.logs import get_logger

_log = get_logger(__name__)

Lines = Callable[[Iterable[Entry]], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was exported."""

    path: str
    format: str
    records: int
    """How many records were read for it; some formats leave out some kinds."""
    first_seq: int | None
    last_seq: int | None
    digest: str
    """SHA-256 of the file."""
    seq: int | None = None
    """The record of the export; None where it was not recorded."""


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


def export(
    log: AuditLog,
    path: str | Path,
    format: str,
    query: Query | Sequence[Query] | None = None,
    *,
    actor: str | None = None,
    query_text: str | None = None,
    record: bool = True,
) -> ExportResult:
    """Write the records that fit a query, oldest first, to a new file.

    Args:
        log: the ledger; open for writing where the export is recorded.
        path: the file; an existing one is not replaced.
        format: one of `FORMATS`.
        query: which records; by default all. With several, what fits any of them.
        actor: who exports.
        query_text: the query in words, for the record.
        record: whether the ledger records the export.

    Raises:
        AuditRecordError: if there is no such format.
        FileExistsError: if there is a file at the path.
        AuditWriteError: if the export cannot be recorded; then there is no file.
    """
    if format not in FORMATS:
        raise AuditRecordError(f"no format {format!r}: use one of {', '.join(FORMATS)}")
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists: name another file")
    if format == "evidence" and record:
        log.checkpoint()
    part = target.with_name(f".{target.name}.part")
    try:
        wanted = [query] if isinstance(query, Query) else list(query or [Query()])
        entries = _CountedEntries(log, wanted)
        _write(log, entries, part, format)
        exported = ExportResult(
            path=str(target),
            format=format,
            records=entries.count,
            first_seq=entries.first,
            last_seq=entries.last,
            digest=f"sha256:{_digest(part)}",
        )
        if record:
            exported = _record(log, exported, actor, query_text)
        # Recorded first: no export may leave the ledger's reach unrecorded.
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return exported


class _CountedEntries:
    """Entries that fit the queries, in order, with a count of those given."""

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
        return (next(same) for _, same in groupby(merge(*found, key=_order), _order))


def _order(entry: Entry) -> tuple[str, int]:
    return entry.record.time, entry.seq


def _write(log: AuditLog, entries: _CountedEntries, part: Path, format: str) -> None:
    # What is exported is as private as the ledger: its owner alone may read it.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    if format == "evidence":
        entries.count = write_evidence(log, entries, part)
    elif format == "parquet":
        write_parquet(entries, part)
    else:
        with part.open("wb") as file:
            file.writelines(_LINES[format](entries))
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _record(
    log: AuditLog, exported: ExportResult, actor: str | None, query_text: str | None
) -> ExportResult:
    done = log.event(
        "exported",
        format=exported.format,
        records=exported.records,
        first_seq=exported.first_seq,
        last_seq=exported.last_seq,
        digest=exported.digest,
        actor=actor,
        query=query_text,
    )
    _log.info("audit_exported", records=exported.records, audit_seq=done.seq)
    return replace(exported, seq=done.seq)
