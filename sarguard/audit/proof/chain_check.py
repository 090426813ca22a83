"""Check of a ledger's records, one by one, from the first to the last."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sarguard.audit.operations.maintenance import rotation_statement
from sarguard.audit.proof.merkle import TiledTree, leaf_hash
from sarguard.audit.proof.report import Problems
from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
from sarguard.audit.records import events
from sarguard.audit.records.fields import NO_RECORD, Header
from sarguard.audit.records.ids import time_us
from sarguard.audit.records.requests import RequestFinished, RequestStarted
from sarguard.audit.records.schema import Columns, columns, parse
from sarguard.audit.storage.chain_head import TILE_LEVEL
from sarguard.errors import AuditKeyError, AuditRecordError


@dataclass(frozen=True, slots=True)
class DeletedRange:
    """Hashes of records that retention deleted."""

    first: int
    last: int
    leaves: bytes


@dataclass(slots=True)
class ChainCheck:
    """Check of a ledger: what has been read so far, and what does not fit."""

    problems: Problems
    tiles: dict[int, bytes]
    checkpoints: dict[int, list[Checkpoint]]
    """By size: those stored in the ledger, and copies from outside."""
    size: int = 0
    read: int = 0
    deleted: int = 0
    log: str = ""
    origin: str = ""
    keys: list[VerifierKey] = field(default_factory=list)
    signed: int = 0
    unrecorded: int = 0
    open_requests: set[str] = field(default_factory=set)
    tombstones: dict[tuple[int, int], str] = field(default_factory=dict)
    deleted_roots: dict[tuple[int, int], str] = field(default_factory=dict)
    """The root at the end of each deleted segment."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    seals: list[events.SegmentSealed] = field(default_factory=list)
    """The records that seal segments: they tell what was in a gap."""
    proven: set[Checkpoint] = field(default_factory=set)
    checked: int = 0
    """How many checkpoints were compared with the records."""
    tree: TiledTree = field(default_factory=lambda: TiledTree(TILE_LEVEL))
    broken: bool = False
    """Whether records are missing, so that no later root can be computed."""
    # Of deleted segments, as their tombstones name them.
    _old_keys: list[VerifierKey] = field(default_factory=list)
    _deferred: list[Checkpoint] = field(default_factory=list)
    _leaf: str = NO_RECORD
    _time: int = 0
    _segment: int = 1
    _segment_first: int = 1
    _after_gap: bool = False

    def take(self, seq: int, data: bytes, found: Columns) -> None:
        """Check the next record."""
        leaf = leaf_hash(data)
        self.read += 1
        try:
            record = parse(data)
            self._check_place(seq, record)
            self._check_columns(seq, record, found)
            if record.kind in _BY_KIND:
                _BY_KIND[record.kind](self, record)
        except (AuditRecordError, ValueError) as error:
            # A ValueError is a time that no clock shows.
            self.problems.add("unreadable", f"record {seq}: {error}", seq)
        # Hashed even if unreadable: the records after it are checked all the same.
        self._push(seq, leaf)
        self._after_gap = False

    def skip_deleted(self, gone: DeletedRange) -> None:
        """Take the hashes of deleted records in place of the records."""
        for place in range(0, len(gone.leaves), 32):
            self._push(self.size + 1, gone.leaves[place : place + 32], deleted=True)
        self.deleted += gone.last - gone.first + 1
        self.deleted_roots[gone.first, gone.last] = self.tree.root().hex()
        self._segment, self._segment_first = self._segment + 1, gone.last + 1
        self._after_gap = True

    def skip_missing(self, first: int, last: int) -> None:
        """Note that records are missing, and go on after them."""
        self.gaps.append((first, last))
        self.size, self.broken = last, True
        self._after_gap = True

    def _push(self, seq: int, leaf: bytes, deleted: bool = False) -> None:
        tile_root = self.tree.append(leaf)
        self.size, self._leaf = seq, leaf.hex()
        if self.broken:
            return
        if tile_root is not None:
            stored = self.tiles.pop((seq >> TILE_LEVEL) - 1, None)
            # A wrong one would give later openings a wrong root: they read it for the
            # records.
            if stored != tile_root:
                self.problems.add(
                    "tile", f"the stored hash over the records up to {seq} differs", seq
                )
        if seq in self.checkpoints:
            for checkpoint in self.checkpoints.pop(seq):
                self._check_checkpoint(checkpoint, deleted)

    def _check_place(self, seq: int, record: Header) -> None:
        if record.seq != seq:
            self._report("number", seq, f"calls itself record {record.seq}")
        # After a gap nothing is known of the record before; the gap is reported.
        if record.prev != self._leaf and not (self.broken and self._after_gap):
            self._report("chain", seq, "does not follow the record before it")
        if not self.log:
            self.log = record.log
            if record.kind not in ("log_opened", "segment_sealed"):
                self._report("beginning", seq, "is not one that a ledger begins with")
        elif record.log != self.log:
            self._report("foreign", seq, f"was written to another ledger, {record.log}")

    def _check_columns(self, seq: int, record: Header, found: Columns) -> None:
        # Searches read the columns alone: a changed one would hide a record from them.
        wanted = columns(record)
        if found != wanted:
            self._report("index", seq, "is filed under values that it does not hold")
        time = wanted[1]
        if time < self._time:
            back = getattr(record, "count", None)
            # An older time is excused by the record that the appender writes for it,
            # and by no other amount than that says.
            recorded = getattr(record, "cause", "") == "clock_moved_back"
            if not recorded or back != self._time - time:
                self._report("clock", seq, "is older than the record before it")
        self._time = time

    def _opened(self, record: events.LogOpened) -> None:
        if record.seq != 1:
            self._report("beginning", record.seq, "begins a ledger a second time")
            return
        self.origin = record.origin
        self._new_key(record.seq, record.key)

    def _rotated(self, record: events.KeyRotated) -> None:
        seq = record.seq
        try:
            old, new = (
                VerifierKey.parse(text) for text in (record.old_key, record.new_key)
            )
            # Made again from the fields: a statement that is stored may say something
            # else. Both sign: the old key hands over, the new one proves that somebody
            # holds it.
            text = rotation_statement(self.origin, seq, old, new)
            signed = _signs(old, text, record.old_signature) and _signs(
                new, text, record.new_signature
            )
        except AuditKeyError as error:
            self._report("key", seq, f"names a key that is none: {error}")
            return
        if not signed or text != record.statement:
            self._report("key", seq, "hands over to a key without both signatures")
        if not self.keys or old != self.keys[-1]:
            self._report("key", seq, "hands over from a key that did not sign")
        # Followed all the same, or every checkpoint from here on would be a problem
        # too.
        self.keys.append(new)

    def _sealed(self, record: events.SegmentSealed) -> None:
        seq = record.seq
        self.seals.append(record)
        if not self.origin:
            self.origin = record.origin
        # After a gap the seal is the first record left that names a key.
        if not self.keys or self._after_gap:
            self._new_key(seq, record.key)
        elif record.key != str(self.keys[-1]):
            self._report("key", seq, "names a key that does not sign")
        place = (self._segment, self._segment_first, seq - 1)
        if self._after_gap:
            place = (record.segment, record.first_seq, seq - 1)
        if (record.segment, record.first_seq, record.last_seq) != place:
            self._report("segment", seq, "seals a segment with other bounds")
        if not self.broken and record.tree_root != self.tree.root().hex():
            self._report("segment", seq, "seals a segment with another root")
        self._segment, self._segment_first = record.segment + 1, seq

    def _tombstone(self, record: events.RetentionTombstone) -> None:
        self.tombstones[record.first_seq, record.last_seq] = record.tree_root
        try:
            self._old_keys.extend(VerifierKey.parse(text) for text in record.keys)
        except AuditKeyError as error:
            self._report("key", record.seq, f"names a key that is none: {error}")
        age = time_us(record.time) - time_us(record.last_time)
        if age < record.retention_days * 86_400_000_000:
            self._report(
                "retention",
                record.seq,
                f"deletes segment {record.segment} before its "
                f"{record.retention_days} days were over",
            )

    def _degraded(self, record: events.AuditDegraded) -> None:
        self.unrecorded += record.unrecorded

    def _started(self, record: RequestStarted) -> None:
        self.open_requests.add(record.audit_id)

    def _finished(self, record: RequestFinished) -> None:
        if record.audit_id in self.open_requests:
            self.open_requests.remove(record.audit_id)
        # Its start may be among records that are deleted or missing.
        elif not self.deleted and not self.broken:
            self._report("request", record.seq, "ends a request that did not begin")

    def _new_key(self, seq: int, text: str) -> None:
        try:
            key = VerifierKey.parse(text)
        except AuditKeyError as error:
            self._report("key", seq, f"names a key that is none: {error}")
            return
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)

    def _check_checkpoint(self, checkpoint: Checkpoint, deleted: bool) -> None:
        size = checkpoint.size
        self.checked += 1
        if checkpoint.root != self.tree.root():
            self.problems.add(
                "checkpoint",
                f"the first {size} records are not those that the checkpoint of size "
                f"{size} was signed over",
                size,
            )
        elif deleted:
            # The record that names its key is deleted; a tombstone, further on, names
            # it again.
            self._deferred.append(checkpoint)
        else:
            # The key in force at this size, no other: one that was rotated out signs no
            # more.
            self._check_signature(checkpoint, self.keys[-1:])

    def check_deferred(self) -> None:
        """Check the signatures of checkpoints over records that are deleted."""
        for checkpoint in self._deferred:
            self._check_signature(checkpoint, [*self.keys, *self._old_keys])

    def _check_signature(
        self, checkpoint: Checkpoint, keys: Sequence[VerifierKey]
    ) -> None:
        size = checkpoint.size
        signed = any(checkpoint.signed_by(key) for key in keys)
        if not signed or checkpoint.origin != self.origin:
            self.problems.add(
                "signature",
                f"the checkpoint of size {size} is not signed by the ledger's key",
                size,
            )
        else:
            self.signed = max(self.signed, size)
            self.proven.add(checkpoint)

    def report_gaps(self) -> None:
        """Report which records are missing, and which segments they were."""
        for first, last in self.gaps:
            names = [
                f"segment {seal.segment}, records {seal.first_seq} to "
                f"{seal.last_seq}, written {seal.first_time} to {seal.last_time}"
                for seal in self.seals
                if seal.first_seq <= last and seal.last_seq >= first
            ]
            segments = f" ({'; '.join(names)})" if names else ""
            self.problems.add(
                "missing", f"records {first} to {last} are missing{segments}", first
            )

    def _report(self, code: str, seq: int, text: str) -> None:
        self.problems.add(code, f"record {seq} {text}", seq)


def _signs(key: VerifierKey, text: str, signature: str) -> bool:
    try:
        return key.verifies(text.encode(), b64decode(signature, validate=True))
    except Base64Error:
        return False


_BY_KIND: dict[str, Callable[[ChainCheck, Any], None]] = {
    "log_opened": ChainCheck._opened,
    "key_rotated": ChainCheck._rotated,
    "segment_sealed": ChainCheck._sealed,
    "retention_tombstone": ChainCheck._tombstone,
    "audit_degraded": ChainCheck._degraded,
    "request_started": ChainCheck._started,
    "request_finished": ChainCheck._finished,
}
