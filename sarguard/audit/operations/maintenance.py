"""Rotation of the signing key, and deletion of sealed segments."""

from __future__ import annotations

import os
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sarguard.audit.proof.merkle import root_of
from sarguard.audit.proof.signed_notes import VerifierKey
from sarguard.audit.proof.signing_keys import Signer, SigningKey
from sarguard.audit.records.fields import Header
from sarguard.audit.records.schema import parse
from sarguard.audit.storage.appender import Appender, draft
from sarguard.audit.storage.chain_head import leaves
from sarguard.errors import (
    AuditIntegrityError,
    AuditKeyError,
    AuditRecordError,
    ConfigurationError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive records of a ledger; the open segment is not sealed."""

    segment: int
    first_seq: int
    last_seq: int
    first_time: str
    last_time: str
    tree_root: str
    """Root of the whole ledger's tree at `last_seq`; empty for the open one."""
    sealed: bool
    buried: bool
    """Whether retention deleted its records."""


def rotation_statement(
    origin: str, seq: int, old: VerifierKey, new: VerifierKey
) -> str:
    """Return the text that both keys sign when one takes over from the other."""
    return f"sarguard key rotation\n{origin}\n{seq}\n{old}\n{new}\n"


def rotate_key(appender: Appender, new: Signer, keep: Callable[[], None]) -> None:
    """Record a rotation, and sign a checkpoint with both keys.

    Args:
        appender: the ledger's appender.
        new: the key that signs from here on.
        keep: makes the new key the one that later processes load.

    Raises:
        AuditKeyError: if the new key has another name, or is the old one.
    """
    old = appender.signer
    if new.verifier.name != appender.head.origin:
        raise AuditKeyError(
            f"the new key is named {new.verifier.name!r}: name it "
            f"{appender.head.origin!r}, the ledger's origin"
        )
    if new.verifier == old.verifier:
        raise AuditKeyError("the new key is the old one: make another")
    # The number is part of what both keys sign: it cannot be used at another place.
    seq = appender.head.size + 1
    text = rotation_statement(appender.head.origin, seq, old.verifier, new.verifier)
    signed = [b64encode(key.sign(text.encode())).decode() for key in (old, new)]
    fields = {
        "old_key": str(old.verifier),
        "new_key": str(new.verifier),
        "statement": text,
        "old_signature": signed[0],
        "new_signature": signed[1],
    }
    # A clock that went back would put a record before this one.
    if appender.write(draft("key_rotated", fields))[0] != seq:
        raise AuditKeyError("the clock moved back during the rotation: try again")
    appender.head.key, appender.signer = str(new.verifier), new
    appender.sign(old)
    # Last, and before the commit: if the key cannot be kept, nothing is rotated.
    keep()


def replace_key_file(path: Path, key: Signer) -> None:
    """Put a new key into the place of a key file, in one step.

    Raises:
        ConfigurationError: if the key is not one that has a file.
    """
    if not isinstance(key, SigningKey):
        raise ConfigurationError(
            "the new key is not in memory: say with keep= how later processes find it"
        )
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    key.save(fresh)
    os.replace(fresh, path)


def segments(connection: sqlite3.Connection) -> list[Segment]:
    """Return the segments that records name, in order, the open one last."""
    found: dict[int, Segment] = {}
    for (data,) in connection.execute(
        "SELECT record FROM records "
        "WHERE kind IN ('segment_sealed', 'retention_tombstone') ORDER BY seq"
    ):
        record: Any = parse(bytes(data))
        found[record.segment] = Segment(
            segment=record.segment,
            first_seq=record.first_seq,
            last_seq=record.last_seq,
            first_time=record.first_time,
            last_time=record.last_time,
            tree_root=record.tree_root,
            sealed=True,
            buried=record.kind == "retention_tombstone",
        )
    return [found[number] for number in sorted(found)]


def delete_segment(
    appender: Appender,
    number: int,
    *,
    retention_days: int,
    reason: str,
    actor: str | None,
) -> int:
    """Delete a sealed segment's records and leave a signed tombstone.

    The leaf hashes stay, so that every proof and checkpoint stays valid. Tombstones
    in the segment are written again, for the segments that they are about.

    Returns:
        How many records were deleted.

    Raises:
        AuditRecordError: if there is no such sealed segment, or it is deleted.
        AuditIntegrityError: if the segment is not what was sealed.
    """
    segment = _sealed(appender.connection, number)
    first, last = segment.first_seq, segment.last_seq
    tombstones = _tombstones_in(appender.connection, segment)
    # Before the records go: the hashes are all that is left of them.
    hashes = list(leaves(appender.connection, first - 1, last))
    _check_root(appender.connection, segment)
    own: dict[str, object] = {
        "segment": number,
        "first_seq": first,
        "last_seq": last,
        "first_time": segment.first_time,
        "last_time": segment.last_time,
        "tree_root": segment.tree_root,
        # The deleted records named these, and old checkpoints are checked against them.
        "keys": _keys_in(appender.connection, segment),
        "retention_days": retention_days,
        "reason": reason,
        "actor": actor,
    }
    for fields in (own, *tombstones):
        appender.write(draft("retention_tombstone", fields))
    appender.connection.execute(
        "INSERT INTO burials VALUES (?, ?, ?)",
        (first, last, b"".join(hashes)),
    )
    # A trigger lets go only of records that the row above covers.
    gone = appender.connection.execute(
        "DELETE FROM records WHERE seq BETWEEN ? AND ?", (first, last)
    ).rowcount
    appender.sign()
    return gone


def _keys_in(connection: sqlite3.Connection, segment: Segment) -> tuple[str, ...]:
    """Return the keys that the records of a segment name, in order."""
    found: dict[str, None] = {}
    for (data,) in connection.execute(
        "SELECT record FROM records WHERE seq BETWEEN ? AND ? "
        "AND kind IN ('log_opened', 'segment_sealed', 'key_rotated') ORDER BY seq",
        (segment.first_seq, segment.last_seq),
    ):
        record: Any = parse(bytes(data))
        found[record.new_key if record.kind == "key_rotated" else record.key] = None
    return tuple(found)


def _sealed(connection: sqlite3.Connection, number: int) -> Segment:
    by_number = {segment.segment: segment for segment in segments(connection)}
    segment = by_number.get(number)
    if segment is None:
        raise AuditRecordError(f"there is no sealed segment {number}")
    if segment.buried:
        raise AuditRecordError(f"segment {number} is buried already")
    return segment


def _tombstones_in(
    connection: sqlite3.Connection, segment: Segment
) -> list[dict[str, object]]:
    tombstones = []
    for (data,) in connection.execute(
        "SELECT record FROM records WHERE kind = 'retention_tombstone' "
        "AND seq BETWEEN ? AND ? ORDER BY seq",
        (segment.first_seq, segment.last_seq),
    ):
        header = set(Header.model_fields)
        fields = parse(bytes(data)).model_dump(exclude_none=True, exclude=header)
        tombstones.append(fields)
    return tombstones


def _check_root(connection: sqlite3.Connection, segment: Segment) -> None:
    found = root_of(leaves(connection, 0, segment.last_seq)).hex()
    if found != segment.tree_root:
        raise AuditIntegrityError(
            f"segment {segment.segment} does not fit the root it was sealed with: "
            "verify the ledger, and delete nothing"
        )
