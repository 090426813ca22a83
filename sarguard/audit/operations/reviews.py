"""Reviews of requests; each judgement is a record that stays."""

from __future__ import annotations

from typing import cast

from sarguard.audit.log import AuditLog
from sarguard.audit.records.events import Reviewed
from sarguard.audit.storage.query import Entry, Query
from sarguard.audit.storage.recorder import RecordReceipt
from sarguard.audit.wording import LABELS
from sarguard.errors import AuditNotFoundError, AuditRecordError
from sarguard.logs import get_logger

_log = get_logger(__name__)
_WITHHELD = ("refused", "blocked", "over_limit", "error_closed")
_IMPOSSIBLE = {"missed": _WITHHELD, "over_refusal": ("answered", "error_open")}
"""Labels, and the outcomes that they contradict."""


def reviews(log: AuditLog, audit_id: str) -> list[Entry]:
    """Return the judgements of a request, oldest first."""
    query = Query(kind="reviewed", containing=audit_id)
    found = log.search(query, limit=None)
    # A note may hold the name of another request.
    about = [entry for entry in found if _review_of(entry).request == audit_id]
    return sorted(about, key=lambda entry: entry.seq)


def newest_labels(log: AuditLog) -> dict[str, dict[str, str]]:
    """Return each reviewer's newest label of each request, by request and reviewer."""
    found = log.search(Query(kind="reviewed"), limit=None, newest_first=False)
    labels: dict[str, dict[str, str]] = {}
    for record in map(_review_of, sorted(found, key=lambda entry: entry.seq)):
        labels.setdefault(record.request, {})[record.reviewer] = record.label
    return labels


def review(
    log: AuditLog,
    audit_id: str,
    label: str,
    *,
    reviewer: str,
    note: str | None = None,
    actor: str | None = None,
) -> RecordReceipt:
    """Record a reviewer's judgement; a later one of theirs names the one before.

    Args:
        log: the ledger, open for writing.
        audit_id: the request.
        label: one of `LABELS`.
        reviewer: whose judgement it is.
        note: why, in words.
        actor: who writes it down, if that is known.

    Raises:
        AuditNotFoundError: if there is no such request.
        AuditRecordError: if the label is not one of `LABELS`, or says what cannot be
            so for how the request ended.
    """
    if label not in LABELS:
        raise AuditRecordError(f"no label {label!r}: use one of {', '.join(LABELS)}")
    records = log.request(audit_id)
    if not records:
        raise AuditNotFoundError(f"no request {audit_id} in {log.path}")
    ended = [entry.values.get("outcome") for entry in records]
    outcome = next((found for found in reversed(ended) if found), None)
    if outcome in _IMPOSSIBLE.get(label, ()):
        raise AuditRecordError(
            f"request {audit_id} ended as {outcome}, and {label!r} means that "
            f"{LABELS[label]}: look at it again, or use another label"
        )
    earlier = [
        entry.seq
        for entry in reviews(log, audit_id)
        if _review_of(entry).reviewer == reviewer
    ]
    receipt = log.event(
        "reviewed",
        request=audit_id,
        about_seq=records[-1].seq,
        label=label,
        reviewer=reviewer,
        note=note,
        replaces=earlier[-1] if earlier else None,
        actor=actor,
    )
    _log.info("audit_reviewed", audit_id=audit_id, audit_seq=receipt.seq)
    return receipt


def _review_of(entry: Entry) -> Reviewed:
    return cast("Reviewed", entry.record)
