"""Retention: old sealed segments are deleted, unless a hold covers them.

A signed tombstone takes the place of each segment, and its hashes stay, so that every
proof and checkpoint stays valid and nothing can disappear unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.legal_holds import active_holds, carry_over
from sarguard.audit.operations.maintenance import Segment
from sarguard.audit.privacy.encryption import Sealer
from sarguard.audit.records.ids import now_us, time_us
from sarguard.audit.storage.query import Query
from sarguard.errors import ConfigurationError
from sarguard.logs import get_logger

MIN_DAYS = 183
"""Half a year: how long records are kept at least, unless a floor is set."""

_DAY = 86_400_000_000
_log = get_logger(__name__)

Fate = Literal["delete", "keep", "held", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRule:
    """How long records are kept."""

    days: int = 365
    floor_days: int = MIN_DAYS
    """Lower bound of `days`."""
    legal_hold: bool = False
    """Whether nothing is deleted, whatever its age."""

    def __post_init__(self) -> None:
        if self.floor_days < 1 or self.days < self.floor_days:
            raise ConfigurationError(
                f"records would be kept for {self.days} days, the least is "
                f"{self.floor_days}: keep them longer, or set the floor as well"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDecision:
    """What retention does with a segment, and why."""

    segment: Segment
    fate: Fate
    why: str


def plan(
    log: AuditLog, rule: RetentionRule, *, now: int | None = None
) -> list[SegmentDecision]:
    """Return what retention would do with each segment, oldest first.

    Args:
        log: the ledger.
        rule: how long records are kept.
        now: microseconds since 1970; by default the clock's.
    """
    cutoff = (now_us() if now is None else now) - rule.days * _DAY
    holds = active_holds(log)
    decisions = []
    fate: Fate
    for segment in log.segments():
        if segment.buried:
            fate, why = "gone", "deleted earlier"
        elif not segment.sealed:
            fate, why = "keep", "still open"
        elif time_us(segment.last_time) >= cutoff:
            fate, why = "keep", f"not yet {rule.days} days old"
        elif rule.legal_hold:
            fate, why = "held", "the policy holds everything"
        else:
            covering = [hold for hold in holds if hold.covers(log, segment)]
            names = ", ".join(f"{hold.hold_id} ({hold.reason})" for hold in covering)
            fate, why = (
                ("held", f"legal hold {names}")
                if covering
                else ("delete", f"older than {rule.days} days")
            )
        decisions.append(SegmentDecision(segment=segment, fate=fate, why=why))
    return decisions


def apply(
    log: AuditLog,
    rule: RetentionRule,
    *,
    actor: str | None = None,
    sealer: Sealer | None = None,
    now: int | None = None,
) -> int:
    """Delete the segments that are old enough; return how many records went.

    Args:
        log: the ledger, open for writing.
        rule: how long records are kept.
        actor: who asked for it.
        sealer: the sealed content that goes with the records.
        now: microseconds since 1970; by default the clock's.
    """
    gone = 0
    for decision in plan(log, rule, now=now):
        if decision.fate != "delete":
            continue
        segment = decision.segment
        # Before the records go: they name their content, and may have placed holds.
        contents = _contents_of(log, segment) if sealer else []
        carry_over(log, segment)
        deleted = log.delete_segment(
            segment.segment,
            retention_days=rule.days,
            reason=decision.why,
            actor=actor,
        )
        gone += deleted
        if sealer is not None:
            sealer.store.delete(contents)
        _log.info("audit_segment_buried", segment=segment.segment, records=deleted)
    if sealer is not None:
        _sweep(log, sealer)
    return gone


def _contents_of(log: AuditLog, segment: Segment) -> list[str]:
    """Return the names of the sealed content of a segment's records."""
    names = []
    for entry in log.entries(segment.first_seq, segment.last_seq):
        for content in getattr(entry.record, "content", ()):
            if content.content_id is not None:
                names.append(content.content_id)
    return names


def _sweep(log: AuditLog, sealer: Sealer) -> None:
    """Delete content that a crash left without records, and keys without content."""
    requests = Query(kind="request_started")
    oldest = next(log.search(requests, limit=1, newest_first=False), None)
    if oldest is not None:
        # Content is sealed a moment before its record is written: leave it a day.
        sealer.store.delete_before(time_us(oldest.record.time) - _DAY)
    used = sealer.store.keys_in_use()
    unused = [
        secret.key_id
        for secret in sealer.keyring.secrets()
        if secret.purpose == "content"
        and secret.key_id not in used
        and secret.made < now_us() - _DAY
    ]
    sealer.keyring.destroy(unused)
