"""Where the ledger ends: its last leaf, its tree, its open segment and its key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sarguard.audit.proof.merkle import Frontier, TiledTree, leaf_hash
from sarguard.audit.records.fields import NO_RECORD
from sarguard.audit.storage.database import TILE, stored_bytes
from sarguard.errors import AuditIntegrityError

# TILE is a power of two: a tile is a full subtree of this height.
TILE_LEVEL = TILE.bit_length() - 1

# The records that name the key which signs from there on.
_KEY_KINDS = ("log_opened", "key_rotated", "segment_sealed")


@dataclass(slots=True)
class ChainHead:
    """End of the ledger, as one writer knows it."""

    size: int = 0
    leaf: str = NO_RECORD
    time: int = 0
    log: str = ""
    origin: str = ""
    key: str = ""
    segment: int = 1
    segment_first: int = 1
    segment_time: int = 0
    signed: int = 0
    """The size of the newest checkpoint."""
    unsigned_since: int = 0
    """When the first record after the newest checkpoint was written."""
    tree: TiledTree = field(default_factory=lambda: TiledTree(TILE_LEVEL))
    _version: int = -1

    def push(self, leaf: bytes, time: int) -> bytes | None:
        """Add a record's leaf; return the root of a tile that it fills."""
        if self.size == self.signed:
            # The clock of the next checkpoint starts at the first unsigned record.
            self.unsigned_since = time
        self.size += 1
        self.leaf, self.time = leaf.hex(), time
        return self.tree.append(leaf)

    def catch_up(self, connection: sqlite3.Connection) -> None:
        """Follow what other writers added since.

        Raises:
            AuditIntegrityError: if the records known so far are not what is found.
        """
        # SQLite changes this number when another connection wrote, so a lone writer
        # reads nothing here.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        fresh = not self.size
        if version == self._version and not fresh:
            return
        self._version = version
        if fresh:
            # From stored hashes of 256 records: opening does not read a whole ledger.
            self._load_tiles(connection)
        for seq, data, time in connection.execute(
            "SELECT seq, record, time FROM records WHERE seq > ? ORDER BY seq",
            (self.size,),
        ):
            self._follow(seq, stored_bytes(data), time)
        (last,) = connection.execute("SELECT max(seq) FROM records").fetchone()
        if (last or 0) != self.size:
            raise AuditIntegrityError(
                f"the ledger ends at record {last or 0}, this process has seen "
                f"{self.size}: records were taken away; keep the file and verify it"
            )
        if fresh and self.size:
            # The records under tiles were not read, and these say which key signs and
            # where the open segment begins.
            self._load_state(connection)
        (signed,) = connection.execute("SELECT max(size) FROM checkpoints").fetchone()
        if (signed or 0) > self.signed:
            self.signed, self.unsigned_since = signed, self.time

    def _load_tiles(self, connection: sqlite3.Connection) -> None:
        for tile, root in connection.execute(
            "SELECT tile, root FROM tiles ORDER BY tile"
        ):
            if tile * TILE != self.tree.size:
                raise AuditIntegrityError(
                    f"the hash of records {self.tree.size + 1} to "
                    f"{self.tree.size + TILE} is missing: verify the ledger"
                )
            self.tree.append_tile(root)
        self.size = self.tree.size
        # The next record names this leaf, which a tile's root does not give.
        for leaf in leaves(connection, max(self.size - 1, 0), self.size):
            self.leaf = leaf.hex()
        (self.time,) = connection.execute(
            "SELECT coalesce(max(time), 0) FROM records WHERE seq = ?", (self.size,)
        ).fetchone()
        # The tiles may end inside a segment that retention deleted.
        (last,) = connection.execute("SELECT max(last_seq) FROM burials").fetchone()
        for leaf in leaves(connection, self.size, max(last or 0, self.size)):
            self.push(leaf, 0)

    def _follow(self, seq: int, data: bytes, time: int) -> None:
        header = json.loads(data)
        if seq != self.size + 1 or header["prev"] != self.leaf:
            raise AuditIntegrityError(
                f"record {seq} does not follow record {self.size} as this process "
                "knows it: records were changed; keep the file and verify it"
            )
        self.log = header["log"]
        if header["kind"] in _KEY_KINDS:
            self._take_key(header)
        # Before the push, as the seal belongs to the segment that it begins.
        if header["kind"] == "segment_sealed":
            self.begin_segment(header["segment"] + 1, seq, time)
        self.push(leaf_hash(data), time)

    def _take_key(self, header: dict[str, Any]) -> None:
        self.key = header.get("new_key") or header["key"]
        # A verifier key is name+id+base64, and a ledger's origin is its key's name.
        self.origin = self.key.partition("+")[0]

    def begin_segment(self, segment: int, first: int, time: int) -> None:
        """Begin a segment with the record of a number."""
        self.segment, self.segment_first, self.segment_time = segment, first, time

    def _load_state(self, connection: sqlite3.Connection) -> None:
        found = connection.execute(
            "SELECT record FROM records WHERE seq = (SELECT max(seq) FROM records "
            "WHERE kind IN (?, ?, ?))",
            _KEY_KINDS,
        ).fetchone()
        if found is None:
            raise AuditIntegrityError(
                "no record names the ledger's key: the first one is missing; "
                "verify the ledger"
            )
        header = json.loads(found[0])
        self._take_key(header)
        self.log = header["log"]
        self._load_segment(connection)

    def _load_segment(self, connection: sqlite3.Connection) -> None:
        found = connection.execute(
            "SELECT seq, time, record FROM records WHERE seq = "
            "(SELECT max(seq) FROM records WHERE kind = 'segment_sealed')"
        ).fetchone()
        if found is not None:
            first, time, data = found
            self.begin_segment(json.loads(data)["segment"] + 1, first, time)
            return
        (time,) = connection.execute(
            "SELECT coalesce(min(time), 0) FROM records WHERE seq = 1"
        ).fetchone()
        self.begin_segment(1, 1, time)


def leaves(connection: sqlite3.Connection, low: int, high: int) -> Iterator[bytes]:
    """Yield the leaf hashes from one index up to, not including, another.

    Records that retention deleted have left their hashes.

    Raises:
        AuditIntegrityError: if records are missing.
    """
    place = low
    while place < high:
        found = connection.execute(
            "SELECT first_seq, last_seq, leaves FROM burials "
            "WHERE last_seq > ? AND first_seq <= ? ORDER BY first_seq LIMIT 1",
            (place, high),
        ).fetchone()
        stop = high if found is None else min(high, found[0] - 1)
        for (data,) in connection.execute(
            "SELECT record FROM records WHERE seq > ? AND seq <= ? ORDER BY seq",
            (place, stop),
        ):
            yield leaf_hash(stored_bytes(data))
            place += 1
        if place < stop:
            raise AuditIntegrityError(
                f"{stop - place} of the records up to {stop} are missing"
            )
        if found is not None and place < high:
            first, last, blob = found
            for index in range(place, min(high, last)):
                # Indexes of leaves begin at 0, numbers of records at 1.
                at = 32 * (index - first + 1)
                yield blob[at : at + 32]
                place += 1


def subtree(connection: sqlite3.Connection, low: int, high: int) -> bytes:
    """Return the root over a range of leaves, from stored tiles where they fit."""
    tree = Frontier()
    first = low
    if low % TILE == 0 and high - low >= TILE:
        for (root,) in connection.execute(
            "SELECT root FROM tiles WHERE tile >= ? AND tile < ? ORDER BY tile",
            (low // TILE, high // TILE),
        ):
            tree.append(root, TILE_LEVEL)
        first = low + tree.size
    for leaf in leaves(connection, first, high):
        tree.append(leaf)
    return tree.root()
