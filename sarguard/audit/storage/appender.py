"""Append records inside one transaction: number, chain, seal, sign."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sarguard.audit.proof.merkle import leaf_hash
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.proof.signing_keys import Signer, sign_checkpoint
from sarguard.audit.records.fields import NO_RECORD, Header, WriterRef
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.records.schema import build, canonical, columns
from sarguard.audit.storage.chain_head import ChainHead
from sarguard.audit.storage.database import TILE
from sarguard.errors import AuditRecordError

PLACEHOLDER_HEADER = {
    "log": "log_" + "0" * 26,
    "seq": 1,
    "time": time_text(0),
    "mono_ns": 0,
    "writer": {"instance": "-", "pid": 0},
    "prev": NO_RECORD,
}
"""Header of a record that has no place in the chain yet."""

# All columns but the first two repeat values of the record, for the indexes. What is
# hashed is `record`; a verifier compares the others with it.
_INSERT = (
    "INSERT INTO records (seq, record, kind, time, audit_id, tenant, policy, outcome) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a ledger is signed, and how long its segments are."""

    checkpoint_records: int = 256
    checkpoint_seconds: float = 60.0
    segment_records: int = 100_000
    segment_days: float = 30.0


def draft(kind: str, fields: Mapping[str, object]) -> Header:
    """Check a record's own fields; its place is filled in when it is written.

    Raises:
        AuditRecordError: if a field does not fit, or belongs to the header.
    """
    reserved = sorted(set(fields) & {*PLACEHOLDER_HEADER, "schema_version"})
    if reserved:
        raise AuditRecordError(f"{', '.join(reserved)}: the ledger fills these in")
    # Validated as a whole and before any lock is taken: a bad record costs no
    # transaction, and nobody waits for it.
    return build(kind, {**fields, **PLACEHOLDER_HEADER})


@dataclass(slots=True)
class Appender:
    """Appender to a ledger; its lock must be held, in an open transaction."""

    connection: sqlite3.Connection
    head: ChainHead
    writer: WriterRef
    signer: Signer
    pace: Pace

    def write(self, record: Header) -> tuple[int, str]:
        """Append a drafted record; return its number and time.

        A wall clock that moved back, and a segment that is full, are recorded first.

        Raises:
            AuditRecordError: if a request would begin or end twice.
        """
        # Before anything is written: what else this batch appends stays in the
        # transaction.
        self._refuse_duplicate(record)
        if self._segment_is_full(now_us()):
            self.seal()
        now = self._now()
        return self._append(record, now), time_text(now)

    def _now(self) -> int:
        """Return the time, after recording that it went back if it did."""
        now = now_us()
        if now < self.head.time:
            # The gap is written down: a verifier takes an older time for an attack
            # unless the record before it says by how much the clock went back.
            back = {"cause": "clock_moved_back", "count": self.head.time - now}
            self._append(draft("log_recovered", back), now)
        return now

    def _append(self, record: Header, now: int) -> int:
        head = self.head
        place = {
            "log": head.log,
            "seq": head.size + 1,
            "time": time_text(now),
            "mono_ns": time.monotonic_ns(),
            "writer": self.writer,
            "prev": head.leaf,
        }
        # Not validated again: the draft was, and the ledger makes these values.
        placed = record.model_copy(update=place)
        data = canonical(placed)
        self.connection.execute(_INSERT, (head.size + 1, data, *columns(placed)))
        # After the insert, so that a statement that fails leaves the head as the file
        # is.
        tile_root = head.push(leaf_hash(data), now)
        if tile_root is not None:
            tile = head.size // TILE - 1
            self.connection.execute(
                "INSERT INTO tiles VALUES (?, ?)", (tile, tile_root)
            )
        return head.size

    def _refuse_duplicate(self, record: Header) -> None:
        audit_id = getattr(record, "audit_id", None)
        if audit_id is None:
            return
        # The unique index would refuse it too, but with a database error, which fails
        # every record of the batch.
        found = self.connection.execute(
            "SELECT seq FROM records WHERE audit_id = ? AND kind = ?",
            (audit_id, record.kind),
        ).fetchone()
        if found is not None:
            raise AuditRecordError(
                f"request {audit_id} has its {record.kind} record already: "
                f"number {found[0]}"
            )

    def _segment_is_full(self, now: int) -> bool:
        records = self.head.size + 1 - self.head.segment_first
        # Microseconds to days.
        age = (now - self.head.segment_time) / 86_400e6
        return records > 0 and (
            records >= self.pace.segment_records or age >= self.pace.segment_days
        )

    def seal(self) -> int:
        """Close the open segment now; return the number of the sealing record."""
        # First: a clock that went back adds a record to the segment.
        now = self._now()
        head = self.head
        fields = {
            "origin": head.origin,
            "key": head.key,
            "segment": head.segment,
            "first_seq": head.segment_first,
            "last_seq": head.size,
            "first_time": time_text(head.segment_time),
            "last_time": time_text(head.time),
            "tree_root": head.tree.root().hex(),
        }
        seq = self._append(draft("segment_sealed", fields), now)
        # The seal is the first record of the next segment. It covers what is before it,
        # and stays when retention deletes the segment that it seals.
        head.begin_segment(head.segment + 1, seq, now)
        return seq

    def begin_ledger(self, library: str) -> None:
        """Write the first record of a new ledger: its name and its key."""
        now = now_us()
        key = self.signer.verifier
        head = self.head
        head.log, head.origin, head.key = new_name("log"), key.name, str(key)
        head.begin_segment(1, 1, now)
        fields = {"origin": key.name, "key": str(key), "library": library}
        self._append(draft("log_opened", fields), now)

    def sign_is_due(self) -> bool:
        """Return whether enough records or time have passed since a checkpoint."""
        unsigned = self.head.size - self.head.signed
        if unsigned <= 0:
            return False
        waited = (now_us() - self.head.unsigned_since) / 1e6
        return (
            unsigned >= self.pace.checkpoint_records
            or waited >= self.pace.checkpoint_seconds
        )

    def sign(self, *others: Signer) -> Checkpoint | None:
        """Sign the ledger as it is; return None if this size is signed already."""
        head = self.head
        if head.size == head.signed:
            return None
        plain = Checkpoint(head.origin, head.size, head.tree.root())
        note = sign_checkpoint(plain, self.signer, *others)
        self.connection.execute(
            "INSERT INTO checkpoints VALUES (?, ?)", (head.size, str(note))
        )
        head.signed = head.size
        return note
