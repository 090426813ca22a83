"""What a list of records, or the page of one, shows: plain data for any screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.reviews import newest_labels, reviews
from sarguard.audit.privacy.encryption import Sealer
from sarguard.audit.records.fields import Content
from sarguard.audit.storage.query import Entry, Query
from sarguard.audit.wording import OUTCOME_WORDS, describe, describe_kind, printable
from sarguard.errors import AuditNotFoundError, AuditRecordError

NOTABLE_KINDS = (
    *("integrity_failed", "audit_degraded", "policy_changed", "policy_overridden"),
    *("log_recovered", "mirror_failed", "erased", "exported", "accessed"),
)
"""Kinds of record that statistics count beside requests."""

_IN_TITLE = {"kind", "outcome", "seq", "time", "schema_version", "mono_ns", "content"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """One record in a list; every text is safe to print."""

    seq: int
    time: str
    kind: str
    """Words for what the record is about."""
    outcome: str | None
    """The outcome's code, which `OUTCOME_WORDS` explains."""
    detail: str
    """Tenant, policy and tier, and what a reviewer wants to know first."""
    request: str
    """Name of the request; empty if the record is not about one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """Everything that one record holds, one named value a line."""

    title: str
    lines: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptContent:
    """A piece of content of a record, opened as far as that is possible."""

    part: str
    mode: str
    redactions: int | None = None
    text: str | None = None
    data: bytes | None = None
    """The bytes of sealed content, once opened: UTF-8, or FLAC for audio."""
    problem: str = ""
    """Why sealed content could not be opened: erased, or kept elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProgress:
    """How much of a request the ledger holds."""

    audit_id: str
    records: int
    finished: bool


def find(log: AuditLog, queries: Sequence[Query]) -> Iterator[Entry]:
    """Yield what fits any of some queries, newest first."""
    found = [log.search(query, limit=None) for query in queries]
    return merge(*found, key=lambda entry: (entry.time, entry.seq), reverse=True)


def records_of(log: AuditLog, name: str) -> list[Entry]:
    """Return a record by its number, or a request's records and its reviews.

    Raises:
        AuditNotFoundError: if there is no such record or request.
    """
    if name.isdecimal():
        return [log.reader.get(int(name))]
    found = log.request(name)
    if not found:
        raise AuditNotFoundError(
            f"no record or request {name!r}: give a number, or a name like req_01J..."
        )
    return [*found, *reviews(log, name)]


def request_of(log: AuditLog, name: str) -> str:
    """Return a request's name, from its name or from one of its records' numbers.

    Raises:
        AuditNotFoundError: if there is no record with that number.
        AuditRecordError: if the record is not about a request.
    """
    if not name.isdecimal():
        return name
    audit_id = getattr(log.reader.get(int(name)).record, "audit_id", None)
    if audit_id is None:
        raise AuditRecordError(f"record {name} is not about a request")
    return str(audit_id)


def progress(log: AuditLog, entries: Sequence[Entry]) -> list[RequestProgress]:
    """Return how much the ledger holds of each request that some records are of."""
    names = {getattr(entry.record, "audit_id", None) for entry in entries}
    found = []
    for name in filter(None, names):
        kinds = [entry.record.kind for entry in log.request(name)]
        finished = any(kind != "request_started" for kind in kinds)
        found.append(
            RequestProgress(audit_id=name, records=len(kinds), finished=finished)
        )
    return found


def list_row(entry: Entry) -> ListRow:
    """Return a record as a row of a list."""
    record = entry.values
    policy = record.get("policy") or {}
    tier = f"/{policy['tier']}" if policy.get("tier") else ""
    parts = (record.get("tenant"), f"{policy.get('id', '')}{tier}", describe(record))
    return ListRow(
        seq=entry.seq,
        time=record["time"],
        kind=describe_kind(record),
        outcome=record.get("outcome") or None,
        detail=", ".join(printable(part) for part in parts if part),
        request=printable(record.get("audit_id") or record.get("request") or ""),
    )


def record_page(entry: Entry) -> RecordPage:
    """Return everything that a record holds."""
    record = entry.values
    outcome = record.get("outcome")
    return RecordPage(
        title=f"record {entry.seq}: {describe_kind(record)}, {record['time']}",
        lines=(
            ("outcome", f"{outcome} - {OUTCOME_WORDS[outcome]}" if outcome else None),
            ("in short", describe(record)),
            *_flatten({k: v for k, v in record.items() if k not in _IN_TITLE}),
            ("leaf hash", entry.leaf),
        ),
    )


def contents(
    entries: Sequence[Entry], sealer: Sealer | None = None
) -> list[KeptContent]:
    """Return the content that records keep.

    Args:
        entries: the records.
        sealer: opens sealed content; without it, that stays sealed. Whoever opens it
            has to record that first.
    """
    kept: list[Content] = [
        content for entry in entries for content in getattr(entry.record, "content", ())
    ]
    return [_open(content, sealer) for content in kept]


def statistics(log: AuditLog, queries: Sequence[Query]) -> dict[str, Any]:
    """Count the requests that fit any of some queries, and other notable records.

    Args:
        log: the ledger.
        queries: what `find` would be asked, but for the kind; no record may fit two.
    """
    ended = [replace(query, kind="request_finished") for query in queries]
    begun = [replace(query, kind="request_started") for query in queries]
    judged = newest_labels(log)
    counted = {
        name
        for query in (*ended, *begun)
        for name in log.reader.requests_that_fit(query, judged)
    }
    judged = {name: judged[name] for name in judged if name in counted}
    labels = [label for given in judged.values() for label in given.values()]
    by_kind = _tally(log, "kind", queries)
    return {
        "started": sum(map(log.reader.count, begun)),
        "ended": sum(map(log.reader.count, ended)),
        "open": sum(1 for query in begun for _ in log.unfinished(query)),
        "outcome": _tally(log, "outcome", ended),
        "policy": _tally(log, "policy", ended),
        "tenant": _tally(log, "tenant", ended),
        "reviewed": len(judged),
        "labels": {label: labels.count(label) for label in sorted(set(labels))},
        "disagreements": sum(len(set(given.values())) > 1 for given in judged.values()),
        "of_note": {kind: by_kind[kind] for kind in NOTABLE_KINDS if kind in by_kind},
    }


def _tally(log: AuditLog, column: str, queries: Sequence[Query]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for query in queries:
        found.update(log.reader.tally(column, query))
    return dict(found)


def _open(content: Content, sealer: Sealer | None) -> KeptContent:
    view = KeptContent(part=content.part, mode=content.mode)
    if content.mode == "redacted":
        return replace(view, text=content.text, redactions=content.redactions)
    if sealer is None:
        return view
    try:
        data = sealer.unseal(content)
    except AuditNotFoundError as error:
        return replace(view, problem=str(error))
    text = None if "audio" in content.part else data.decode("utf-8", "replace")
    return replace(view, data=data, text=text)


def _flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str | None]]:
    lines: list[tuple[str, str | None]] = []
    for name, value in record.items():
        path = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            lines += _flatten(value, f"{path} ")
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for number, part in enumerate(value, 1):
                lines += _flatten(part, f"{path} {number} ")
        else:
            lines.append((path, _text(value)))
    return lines


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
