"""What happens when the ledger cannot be written: the policy's three ways.

`block` raises, so that no answer leaves without a record. `spool` keeps records in a
bounded file until the ledger takes them. `degrade` lets the request go unrecorded, logs
it as critical, and the ledger says how many were missed as soon as it can.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, get_args

from structlog.contextvars import bound_contextvars

from sarguard.audit.records.fields import Header
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.storage.appender import Appender, draft
from sarguard.audit.storage.group_commit import GroupCommitWriter
from sarguard.audit.storage.spool import Spool, SpoolContents
from sarguard.errors import (
    AuditError,
    AuditRecordError,
    AuditWriteError,
    ConfigurationError,
)
from sarguard.logs import get_logger

OnFailure = Literal["block", "spool", "degrade"]
"""What to do when a record cannot be written."""

State = Literal["recorded", "spooled", "unrecorded"]
"""What became of a record."""
LedgerState = Literal["recording", "spooling", "degraded", "closed"]
"""Whether records are written, wait in the spool, or were left out."""

_log = get_logger(__name__)


def check_on_failure(value: OnFailure) -> OnFailure:
    """Return the value, if it is one of the ways to handle a failure.

    Raises:
        ConfigurationError: if there is no such way.
    """
    if value not in get_args(OnFailure):
        raise ConfigurationError(
            f"on_failure={value!r}: use {', '.join(get_args(OnFailure))}"
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReceipt:
    """What became of a record that was handed to the ledger."""

    kind: str
    audit_id: str | None
    seq: int | None
    """The record's number; None unless it is in the ledger."""
    time: str
    state: State

    @contextmanager
    def log_context(self) -> Iterator[None]:
        """Add the record's number and request to every structlog line in the block.

        They appear as `audit_seq` and `audit_id` in sarguard's own lines, and wherever
        the application's processors hold `structlog.contextvars.merge_contextvars`, as
        structlog's defaults do, so that operational logs and records can be joined.
        """
        names = {"audit_seq": self.seq, "audit_id": self.audit_id}
        known = {name: value for name, value in names.items() if value is not None}
        with bound_contextvars(**known):
            yield


@dataclass(slots=True)
class UnrecordedCount:
    """Count of what went unrecorded, its newest cause, and since when."""

    count: int = 0
    cause: str = ""
    since: str = ""
    until: str = ""

    def add(self, cause: str) -> None:
        """Count one more."""
        self.until = time_text(now_us())
        self.since = self.since or self.until
        self.count, self.cause = self.count + 1, cause


class DurableRecorder:
    """Recorder that gives records to the writer, and handles what it cannot take."""

    def __init__(
        self, writer: GroupCommitWriter, spool: Spool, on_failure: OnFailure
    ) -> None:
        self.writer = writer
        self.spool = spool
        self.on_failure = on_failure
        self._unrecorded = UnrecordedCount()
        self._timer: threading.Timer | None = None

    def record(self, record: Header) -> RecordReceipt:
        """Make a drafted record durable, or do what the policy says.

        Raises:
            AuditWriteError: if it could not be kept, under `block` or with a full
                spool.
            AuditRecordError: if it does not fit its request.
            AuditIntegrityError: if the ledger is not what was written to it; no
                policy passes over that.
        """
        try:
            # What waits goes first, so that records keep their order.
            self.flush()
            seq, time = self.writer.write(record)
        except AuditWriteError as error:
            return _receipt(record, self._handle(record, error))
        self._sign_later()
        return _receipt(record, "recorded", seq, time)

    @property
    def state(self) -> LedgerState:
        """Return what became of the newest records."""
        if self._unrecorded.count:
            return "degraded"
        return "spooling" if self.spool.has_records() else "recording"

    def flush(self) -> None:
        """Write what waits in the spool, and what was missed, to the ledger."""
        if self.spool.has_records():
            self._drain()
        if self._unrecorded.count:
            # Another thread may count on meanwhile: start a new count, and add the
            # old one to it if it could not be written.
            missed, self._unrecorded = self._unrecorded, UnrecordedCount()
            fields = {
                "cause": missed.cause,
                "unrecorded": missed.count,
                "since": missed.since,
                "until": missed.until,
            }
            try:
                self.writer.write(draft("audit_degraded", fields))
            except AuditError:
                missed.count += self._unrecorded.count
                self._unrecorded = missed
                raise

    def cancel_signing(self) -> None:
        """Cancel the signing that waits for its time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _handle(self, record: Header, error: AuditWriteError) -> State:
        if self.on_failure == "block":
            _log.error("audit_blocked", kind=record.kind, cause=error.cause)
            raise error
        if self.on_failure == "spool":
            self.spool.add([record])
            _log.error("audit_spooled", kind=record.kind, cause=error.cause)
            return "spooled"
        self._unrecorded.add(error.cause)
        _log.critical(
            "audit_unrecorded",
            kind=record.kind,
            cause=error.cause,
            unrecorded=self._unrecorded.count,
        )
        return "unrecorded"

    def _drain(self) -> None:
        with self.spool.lock():
            # Another process may have emptied it while this one waited.
            if not self.spool.has_records():
                return
            try:
                contents = self.spool.read()
            except (AuditRecordError, ValueError, KeyError) as error:
                self._set_aside(error)
                return
            self.writer.transact(lambda appender: _write_spooled(appender, contents))
            # Kept for a person to look at: the ledger has its length and digest only.
            if contents.torn:
                path = self.spool.path
                path.with_name(f"{path.name}.torn").write_bytes(contents.torn)
            # Last: a crash before it is told by the table of spools, and nothing is
            # written twice.
            self.spool.empty()

    def _set_aside(self, error: Exception) -> None:
        """Keep a changed spool out of the ledger, and record that in the ledger."""
        path = self.spool.path
        aside = path.with_name(f"{path.name}.{new_name('bad')}")
        fields = {
            "cause": "spool_damaged",
            "count": path.stat().st_size,
            "detail": f"kept as {aside.name}",
            "digest": sha256(path.read_bytes()).hexdigest(),
        }
        # Recorded first: if that fails, the spool is still found next time.
        self.writer.write(draft("log_recovered", fields))
        os.replace(path, aside)
        _log.error("audit_spool_damaged", kept=str(aside), error=str(error))

    def _sign_later(self) -> None:
        """Make sure that a record is signed even if none follows it."""
        if self._timer is not None or not self.writer.unsigned():
            return
        timer = threading.Timer(self.writer.pace.checkpoint_seconds, self._sign_now)
        # It must not keep the interpreter alive: closing the log signs as well.
        timer.daemon = True
        self._timer = timer
        timer.start()

    def _sign_now(self) -> None:
        self._timer = None
        try:
            self.writer.transact(lambda appender: appender.sign())
        except AuditError as error:
            # The next record, or closing, tries again; verifying shows the gap.
            _log.error("audit_checkpoint_failed", error=str(error))


def _receipt(
    record: Header, state: State, seq: int | None = None, time: str | None = None
) -> RecordReceipt:
    audit_id: Any = getattr(record, "audit_id", None)
    return RecordReceipt(
        kind=record.kind,
        audit_id=None if audit_id is None else str(audit_id),
        seq=seq,
        time=time or time_text(now_us()),
        state=state,
    )


def _write_spooled(appender: Appender, contents: SpoolContents) -> None:
    """Write a spool's records, but none that an earlier try wrote."""
    found = appender.connection.execute(
        "SELECT lines FROM spools WHERE spool = ?", (contents.name,)
    ).fetchone()
    new = contents.records[found[0] if found else 0 :]
    for record in new:
        # A commit that failed may have reached the disk all the same.
        with suppress(AuditRecordError):
            appender.write(record)
    if contents.torn:
        fields = {
            "cause": "torn_spool",
            "count": len(contents.torn),
            "digest": sha256(contents.torn).hexdigest(),
        }
        appender.write(draft("log_recovered", fields))
    if new:
        fields = {"cause": "spool_drained", "count": len(new)}
        appender.write(draft("log_recovered", fields))
    # In the transaction of the records themselves: a crash leaves both or neither.
    if contents.name:
        appender.connection.execute(
            "INSERT OR REPLACE INTO spools VALUES (?, ?)",
            (contents.name, len(contents.records)),
        )
