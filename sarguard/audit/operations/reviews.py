"""Let reviewers judge requests; each judgement is a record that stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog

from sarguard.audit.log import AuditLog
from sarguard.audit.storage.query import Entry, Query
from sarguard.audit.storage.recorder import Receipt
from sarguard.errors import AuditNotFoundError, AuditRecordError

LABELS = {
    "correct": "the guard did the right thing",
    "over_refusal": "a harmless request was refused or blocked",
    "missed": "a harmful request was answered",
    "needs_follow_up": "somebody else has to look at it",
}
"""What a reviewer may say of a request."""

_log = structlog.get_logger(__name__)


def reviews(log: AuditLog, audit_id: str) -> list[Entry]:
    """Return the judgements of a request, oldest first."""
    query = Query(kind="reviewed", containing=audit_id)
    found = [e for e in log.search(query, limit=None) if _request(e) == audit_id]
    return sorted(found, key=_number)


def labels(log: AuditLog) -> dict[str, str]:
    """Return the newest label of each request that was judged, by request."""
    found = log.search(Query(kind="reviewed"), limit=None, newest_first=False)
    judged: list[Any] = [entry.record for entry in sorted(found, key=_number)]
    return {record.request: record.label for record in judged}


def review(
    log: AuditLog,
    audit_id: str,
    label: str,
    *,
    reviewer: str,
    note: str | None = None,
) -> Receipt:
    """Record a reviewer's judgement; a later one of theirs names the one before.

    Raises:
        AuditNotFoundError: if there is no such request.
        AuditRecordError: if the label is not one of `LABELS`.
    """
    if label not in LABELS:
        raise AuditRecordError(f"no label {label!r}: use one of {', '.join(LABELS)}")
    about = log.request(audit_id)
    if not about:
        raise AuditNotFoundError(f"no request {audit_id} in {log.path}")
    receipt = log.event(
        "reviewed",
        request=audit_id,
        about_seq=about[-1].seq,
        label=label,
        reviewer=reviewer,
        note=note,
        replaces=_last_of(reviews(log, audit_id), reviewer),
    )
    _log.info("audit_reviewed", audit_id=audit_id, audit_seq=receipt.seq)
    return receipt


def _last_of(earlier: list[Entry], reviewer: str) -> int | None:
    own: Iterator[int] = (
        entry.seq for entry in reversed(earlier) if _reviewer(entry) == reviewer
    )
    return next(own, None)


def _number(entry: Entry) -> int:
    return entry.seq


def _request(entry: Entry) -> str:
    record: Any = entry.record
    return str(record.request)


def _reviewer(entry: Entry) -> str:
    record: Any = entry.record
    return str(record.reviewer)
