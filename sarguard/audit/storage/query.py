"""Reading and searching the ledger, with a connection of its own each time.

A write-ahead log lets readers go on while others write: no lock is held.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sarguard.audit.proof.merkle import leaf_hash
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.records.fields import Header
from sarguard.audit.records.ids import time_us
from sarguard.audit.records.schema import parse
from sarguard.audit.storage.database import (
    last_seq,
    newest_checkpoint,
    open_reader,
    stored_bytes,
)
from sarguard.errors import AuditNotFoundError, AuditRecordError


@dataclass(frozen=True)
class Entry:
    """One stored record: its number and the exact bytes that were hashed."""

    seq: int
    data: bytes

    @cached_property
    def record(self) -> Header:
        """Return the record, read and checked against the schema."""
        return parse(self.data)

    @property
    def values(self) -> dict[str, Any]:
        """Return the record as plain values, without checking them.

        Raises:
            AuditRecordError: if the bytes are not those of a record.
        """
        try:
            values = json.loads(self.data)
        # Bytes that somebody put there may be nested deeper than the parser can follow.
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not {"kind", "time"} <= values.keys():
            raise AuditRecordError(
                f"record {self.seq} cannot be read: it was changed; verify the ledger"
            )
        return values

    @property
    def time(self) -> str:
        """Return when the record was written; the text sorts by time."""
        return str(self.values["time"])

    @property
    def leaf(self) -> str:
        """Return the record's leaf hash in hexadecimal."""
        return leaf_hash(self.data).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Filter of records; what is None selects nothing out.

    Times are datetimes with a zone, or texts as records hold them.
    """

    since: datetime | str | None = None
    until: datetime | str | None = None
    """The first moment after the wanted ones."""
    kind: str | None = None
    outcome: str | None = None
    policy: str | None = None
    tenant: str | None = None
    audit_id: str | None = None
    containing: str | None = None
    """A text that the record's bytes must hold, such as an HMAC."""
    first_seq: int | None = None
    last_seq: int | None = None

    def values(self) -> dict[str, str]:
        """Return the values that have an index each, by their columns."""
        values = {
            "kind": self.kind,
            "outcome": None if self.outcome is None else str(self.outcome),
            "policy": self.policy,
            "tenant": self.tenant,
            "audit_id": self.audit_id,
        }
        return {name: value for name, value in values.items() if value is not None}

    def conditions(self, index: str | None = None) -> tuple[str, list[object]]:
        """Return the query as SQL and its values.

        Args:
            index: the column whose index to use; None leaves it to SQLite.
        """
        # A plus sign keeps SQLite from using a column's index.
        # Only names that this class has itself go into the SQL; every value is bound.
        plus = {name: "" if index in (None, name) else "+" for name in self.values()}
        wanted: list[tuple[str, object]] = [
            ("time >= ?", _micros(self.since)),
            ("time < ?", _micros(self.until)),
            ("seq >= ?", self.first_seq),
            ("seq <= ?", self.last_seq),
            *(
                (f"{plus[name]}{name} = ?", value)
                for name, value in self.values().items()
            ),
            (
                # The column is a BLOB, and so is the value: instr() then compares
                # bytes.
                "instr(record, ?) > 0",
                None if self.containing is None else self.containing.encode(),
            ),
        ]
        given = [(sql, value) for sql, value in wanted if value is not None]
        return " AND ".join(sql for sql, _ in given) or "1", [v for _, v in given]


class LedgerReader:
    """Reader of one ledger's file.

    Raises:
        AuditNotFoundError: if there is no file.
        AuditFormatError: if it is damaged, foreign or from a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def connect(self) -> sqlite3.Connection:
        """Return a connection that can only read; the caller closes it."""
        return open_reader(self.path)

    def entries(self, first: int = 1, last: int | None = None) -> Iterator[Entry]:
        """Yield stored records in order, one at a time."""
        with closing(self.connect()) as connection:
            for seq, data in connection.execute(
                "SELECT seq, record FROM records WHERE seq >= ? AND seq <= ? "
                "ORDER BY seq",
                (first, 2**62 if last is None else last),
            ):
                yield Entry(seq, stored_bytes(data))

    def search(
        self, query: Query, *, limit: int | None, newest_first: bool
    ) -> Iterator[Entry]:
        """Yield what fits a query, ordered by time."""
        order = "DESC" if newest_first else "ASC"
        with closing(self.connect()) as connection:
            where, values = query.conditions(_rarest(connection, query))
            for seq, data in connection.execute(
                f"SELECT seq, record FROM records WHERE {where} "
                f"ORDER BY time {order}, seq {order} LIMIT ?",
                (*values, -1 if limit is None else limit),
            ):
                yield Entry(seq, stored_bytes(data))

    def count(self, query: Query) -> int:
        """Return how many records fit a query."""
        with closing(self.connect()) as connection:
            where, values = query.conditions(_rarest(connection, query))
            (count,) = connection.execute(
                f"SELECT count(*) FROM records WHERE {where}", values
            ).fetchone()
        return int(count)

    def tally(self, column: str, query: Query) -> dict[str, int]:
        """Count the records that fit a query by kind, outcome, policy or tenant."""
        # It goes into the SQL as it is.
        if column not in {"kind", "outcome", "policy", "tenant"}:
            raise AuditRecordError(f"records cannot be counted by {column!r}")
        with closing(self.connect()) as connection:
            where, values = query.conditions(_rarest(connection, query))
            return {
                str(name): int(number)
                for name, number in connection.execute(
                    f"SELECT {column}, count(*) FROM records WHERE {where} "
                    f"AND {column} IS NOT NULL GROUP BY {column}",
                    values,
                )
            }

    def tenants(self) -> list[str]:
        """Return the tenants that records name, in order."""
        return sorted(self.tally("tenant", Query()))

    def requests_that_fit(self, query: Query, names: Iterable[str]) -> set[str]:
        """Return those of some requests of which a record fits a query."""
        where, values = query.conditions("audit_id")
        with closing(self.connect()) as connection:
            rows = connection.execute(
                "SELECT DISTINCT audit_id FROM records WHERE audit_id IN "
                f"(SELECT value FROM json_each(?)) AND {where}",
                (json.dumps(list(names)), *values),
            )
            return {name for (name,) in rows}

    def get(self, seq: int) -> Entry:
        """Return one record.

        Raises:
            AuditNotFoundError: if there is none with that number.
        """
        for entry in self.entries(seq, seq):
            return entry
        raise AuditNotFoundError(f"no record {seq} in {self.path}")

    def unfinished(self, query: Query | None = None) -> Iterator[Entry]:
        """Yield the first records of requests that have no outcome."""
        where, values = (query or Query()).conditions()
        with closing(self.connect()) as connection:
            for seq, data in connection.execute(
                "SELECT seq, record FROM records AS begun "
                "WHERE kind = 'request_started' AND NOT EXISTS (SELECT 1 FROM records "
                "AS ended WHERE ended.audit_id = begun.audit_id "
                f"AND ended.kind = 'request_finished') AND {where} ORDER BY seq",
                values,
            ):
                yield Entry(seq, stored_bytes(data))

    def size(self) -> int:
        """Return the number of the last record."""
        with closing(self.connect()) as connection:
            return last_seq(connection)

    def checkpoints(self) -> list[Checkpoint]:
        """Return every stored checkpoint, oldest first."""
        with closing(self.connect()) as connection:
            rows = connection.execute("SELECT note FROM checkpoints ORDER BY size")
            return [Checkpoint.parse(note) for (note,) in rows]

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest stored checkpoint."""
        with closing(self.connect()) as connection:
            return newest_checkpoint(connection)


_MAX_COUNTED = 10_000
"""Records counted of one value; beyond it, values count as equally common."""


def _rarest(connection: sqlite3.Connection, query: Query) -> str | None:
    """Return which of a query's values the fewest records have.

    SQLite keeps no count of a value, and takes the index of the one policy that
    every record names as readily as that of a rare outcome.
    """
    values = query.values()
    if len(values) < 2:
        return None
    counts = {}
    for name, value in values.items():
        (counts[name],) = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM records "
            f"WHERE {name} = ? LIMIT {_MAX_COUNTED})",
            (value,),
        ).fetchone()
    return min(counts, key=lambda name: counts[name])


def _micros(moment: datetime | str | None) -> int | None:
    if moment is None:
        return None
    if isinstance(moment, str):
        try:
            return time_us(moment)
        except ValueError:
            moment = _read_time(moment)
    if moment.tzinfo is None:
        raise AuditRecordError(
            f"the time {moment.isoformat()} has no zone: add one, such as +00:00"
        )
    # In whole numbers: a float would lose microseconds.
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return seconds * 1_000_000 + elapsed.microseconds


def _read_time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise AuditRecordError(
            f"not a time: {text!r}; write 2026-05-01 or 2026-05-01T09:30:00Z"
        ) from error
    # A day, or a time, without a zone is read as UTC, as records are.
    return found if found.tzinfo else found.replace(tzinfo=UTC)
