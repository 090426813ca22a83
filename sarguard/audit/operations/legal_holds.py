"""Legal holds: what they cover is neither deleted nor erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sarguard.audit.log import AuditLog
from sarguard.audit.operations.maintenance import Segment
from sarguard.audit.records.ids import new_name
from sarguard.audit.storage.query import Query
from sarguard.errors import AuditRecordError

_RECORDED = ("hold_id", "reason", "actor", "tenant", "first_seq", "last_seq")


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalHold:
    """One legal hold; without a tenant or a range it covers everything."""

    hold_id: str
    reason: str
    actor: str
    tenant: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    placed_seq: int
    """The record that placed it."""

    def covers(self, log: AuditLog, segment: Segment) -> bool:
        """Return whether a segment has records that this hold covers."""
        first = max(segment.first_seq, self.first_seq or 1)
        last = min(segment.last_seq, self.last_seq or segment.last_seq)
        if first > last:
            return False
        if self.tenant is None:
            return True
        wanted = Query(tenant=self.tenant, first_seq=first, last_seq=last)
        kinds = log.reader.tally("kind", wanted)
        # The records of holds name their tenant too, and are carried over.
        return any(kind != "hold_changed" for kind in kinds)

    def covers_records(self, tenant: str | None, seqs: Sequence[int]) -> bool:
        """Return whether some records of one tenant, or their content, are covered."""
        if self.tenant not in (None, tenant):
            return False
        if self.first_seq is None and self.last_seq is None:
            return True
        last = self.last_seq or max(seqs, default=0)
        return any((self.first_seq or 1) <= seq <= last for seq in seqs)


def place_hold(
    log: AuditLog,
    *,
    reason: str,
    actor: str,
    tenant: str | None = None,
    first_seq: int | None = None,
    last_seq: int | None = None,
) -> str:
    """Record a hold; return its name, which lifts it again.

    Raises:
        AuditRecordError: if the range is empty.
    """
    if first_seq and last_seq and last_seq < first_seq:
        raise AuditRecordError(
            f"a hold on records {first_seq} to {last_seq} covers nothing: the first "
            "comes first"
        )
    name = new_name("hold")
    log.event(
        "hold_changed",
        action="placed",
        hold_id=name,
        reason=reason,
        actor=actor,
        tenant=tenant,
        first_seq=first_seq,
        last_seq=last_seq,
    )
    return name


def lift_hold(log: AuditLog, hold_id: str, *, reason: str, actor: str) -> None:
    """Record that a hold is lifted.

    Raises:
        AuditRecordError: if no such hold is in force.
    """
    if all(hold.hold_id != hold_id for hold in active_holds(log)):
        raise AuditRecordError(
            f"no hold {hold_id} is in force: `sarguard audit hold list` names them"
        )
    log.event(
        "hold_changed", action="lifted", hold_id=hold_id, reason=reason, actor=actor
    )


def active_holds(log: AuditLog) -> list[LegalHold]:
    """Return the holds in force, oldest first."""
    found: dict[str, LegalHold] = {}
    changes = log.search(Query(kind="hold_changed"), limit=None)
    # By number and not by time, which may go back.
    for entry in sorted(changes, key=lambda change: change.seq):
        record: Any = entry.record
        if record.action == "lifted":
            found.pop(record.hold_id, None)
        else:
            fields = {name: getattr(record, name) for name in _RECORDED}
            found[record.hold_id] = LegalHold(**fields, placed_seq=record.seq)
    return list(found.values())


def carry_over(log: AuditLog, segment: Segment) -> None:
    """Write again the holds in force that a segment's records placed."""
    for hold in active_holds(log):
        if segment.first_seq <= hold.placed_seq <= segment.last_seq:
            fields = {name: getattr(hold, name) for name in _RECORDED}
            log.event("hold_changed", action="placed", **fields)
