"""Write records inside one transaction: stamp, chain, seal, sign."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sarguard.audit.proof.merkle import leaf_hash
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.proof.signing_keys import Signer, sign_checkpoint
from sarguard.audit.records.fields import Writer
from sarguard.audit.records.header import NO_RECORD, Header
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.records.schema import build, canonical, columns
from sarguard.audit.storage.chain_head import End
from sarguard.audit.storage.database import TILE
from sarguard.errors import AuditRecordError

BLANK = {
    "log": "log_" + "0" * 26,
    "seq": 1,
    "time": time_text(0),
    "mono_ns": 0,
    "writer": {"instance": "-", "pid": 0},
    "prev": NO_RECORD,
}
"""Stands in for a header until the record has its place."""

_INSERT = (
    "INSERT INTO records (seq, record, kind, time, audit_id, tenant, policy, outcome) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Say how often to sign and to begin a new segment."""

    checkpoint_records: int = 256
    checkpoint_seconds: float = 60.0
    segment_records: int = 100_000
    segment_days: float = 30.0


def draft(kind: str, fields: Mapping[str, object]) -> Header:
    """Check a record's own fields; its place is filled in when it is written.

    Raises:
        AuditRecordError: if a field does not fit, or belongs to the header.
    """
    taken = sorted(set(fields) & {*BLANK, "schema_version"})
    if taken:
        raise AuditRecordError(f"{', '.join(taken)}: the ledger fills these in")
    return build(kind, {**fields, **BLANK})


@dataclass(slots=True)
class Pen:
    """Write to the ledger while its lock is held."""

    connection: sqlite3.Connection
    end: End
    writer: Writer
    signer: Signer
    pace: Pace

    def write(self, record: Header) -> tuple[int, str]:
        """Add a drafted record; return its number and time.

        A wall clock that moved back, and a segment that is full, are recorded first.

        Raises:
            AuditRecordError: if a request would begin or end twice.
        """
        self._refuse_twice(record)
        if self._segment_is_full(now_us()):
            self.seal()
        now = self._now()
        return self._put(record, now), time_text(now)

    def _now(self) -> int:
        """Return the time, after recording that it went back if it did."""
        now = now_us()
        if now < self.end.time:
            back = {"cause": "clock_moved_back", "count": self.end.time - now}
            self._put(draft("log_recovered", back), now)
        return now

    def _put(self, record: Header, now: int) -> int:
        end = self.end
        place = {
            "log": end.log,
            "seq": end.size + 1,
            "time": time_text(now),
            "mono_ns": time.monotonic_ns(),
            "writer": self.writer,
            "prev": end.leaf,
        }
        placed = record.model_copy(update=place)
        data = canonical(placed)
        self.connection.execute(_INSERT, (end.size + 1, data, *columns(placed)))
        full = end.push(leaf_hash(data), now)
        if full is not None:
            tile = end.size // TILE - 1
            self.connection.execute("INSERT INTO tiles VALUES (?, ?)", (tile, full))
        return end.size

    def _refuse_twice(self, record: Header) -> None:
        audit_id = getattr(record, "audit_id", None)
        if audit_id is None:
            return
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
        held = self.end.size + 1 - self.end.segment_first
        age = (now - self.end.segment_time) / 86_400e6
        return held > 0 and (
            held >= self.pace.segment_records or age >= self.pace.segment_days
        )

    def _seal(self) -> Header:
        end = self.end
        return draft(
            "segment_sealed",
            {
                "origin": end.origin,
                "key": end.key,
                "segment": end.segment,
                "first_seq": end.segment_first,
                "last_seq": end.size,
                "first_time": time_text(end.segment_time),
                "last_time": time_text(end.time),
                "tree_root": end.tree.root().hex(),
            },
        )

    def seal(self) -> int:
        """Close the open segment now; return the number of the sealing record."""
        now = self._now()
        seq = self._put(self._seal(), now)
        self.end.begin_segment(self.end.segment + 1, seq, now)
        return seq

    def begin_ledger(self, library: str) -> None:
        """Write the first record of a new ledger: its name and its key."""
        now = now_us()
        key = self.signer.verifier
        self.end.log, self.end.origin, self.end.key = (
            new_name("log"),
            key.name,
            str(key),
        )
        self.end.begin_segment(1, 1, now)
        fields = {"origin": key.name, "key": str(key), "library": library}
        self._put(draft("log_opened", fields), now)

    def sign_is_due(self) -> bool:
        """Tell whether enough records or time have gone by since a checkpoint."""
        unsigned = self.end.size - self.end.signed
        if unsigned <= 0:
            return False
        waited = (now_us() - self.end.unsigned_since) / 1e6
        return (
            unsigned >= self.pace.checkpoint_records
            or waited >= self.pace.checkpoint_seconds
        )

    def sign(self, *also: Signer) -> Checkpoint | None:
        """Sign the ledger as it is; return None if this size is signed already."""
        end = self.end
        if end.size == end.signed:
            return None
        plain = Checkpoint(end.origin, end.size, end.tree.root())
        note = sign_checkpoint(plain, self.signer, *also)
        self.connection.execute(
            "INSERT INTO checkpoints VALUES (?, ?)", (end.size, str(note))
        )
        end.signed = end.size
        return note
