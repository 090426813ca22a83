"""Decide what happens when the ledger cannot be written: the policy's three ways.

`block` raises, so that no answer leaves without a record. `spool` keeps records in a
bounded file until the ledger takes them. `degrade` lets the request go unrecorded,
loudly, and the ledger says how many were missed as soon as it can.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import structlog

from sarguard.audit.records.header import Header
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.records.schema import State
from sarguard.audit.storage.appender import Pen, draft
from sarguard.audit.storage.group_commit import Writer
from sarguard.audit.storage.spool import Spool, Waiting
from sarguard.errors import (
    AuditError,
    AuditRecordError,
    AuditWriteError,
    ConfigurationError,
)

OnFailure = Literal["block", "spool", "degrade"]
"""What to do when a record cannot be written."""

_log = structlog.get_logger(__name__)


def check_on_failure(value: OnFailure) -> OnFailure:
    """Return what to do when a record cannot be written, if it is one of the ways.

    Raises:
        ConfigurationError: if there is no such way.
    """
    if value not in get_args(OnFailure):
        raise ConfigurationError(
            f"on_failure={value!r}: use {', '.join(get_args(OnFailure))}"
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Say what became of a record."""

    kind: str
    audit_id: str | None
    seq: int | None
    """The record's number; None unless it stands in the ledger."""
    time: str
    state: State


@dataclass(slots=True)
class Missed:
    """Count what went unrecorded."""

    count: int = 0
    cause: str = ""
    since: str = ""
    until: str = ""

    def add(self, cause: str) -> None:
        """Count one more."""
        self.until = time_text(now_us())
        self.since = self.since or self.until
        self.count, self.cause = self.count + 1, cause


class Recorder:
    """Give records to the writer, and act on a policy where it cannot take them."""

    def __init__(self, writer: Writer, spool: Spool, on_failure: OnFailure) -> None:
        self.writer = writer
        self.spool = spool
        self.on_failure = on_failure
        self._missed = Missed()
        self._timer: threading.Timer | None = None

    def record(self, record: Header) -> Receipt:
        """Make a drafted record durable, or do what the policy says.

        Raises:
            AuditWriteError: if it could not be kept, under `block` or with a full
                spool.
            AuditRecordError: if it does not fit its request.
            AuditIntegrityError: if the ledger is not what was written to it; no
                policy passes over that.
        """
        try:
            self.settle()
            seq, time = self.writer.write(record)
        except AuditWriteError as error:
            return self._survive(record, error)
        self._sign_later()
        return Receipt(
            kind=record.kind, audit_id=_request_of(record), seq=seq, time=time,
            state="recorded",
        )  # fmt: skip

    def settle(self) -> None:
        """Write what waits in the spool, and what was missed, to the ledger."""
        if self.spool.waits():
            self._drain()
        if self._missed.count:
            missed, self._missed = self._missed, Missed()
            try:
                self.writer.write(_degraded(missed))
            except AuditError:
                missed.count += self._missed.count
                self._missed = missed
                raise

    def stop(self) -> None:
        """Cancel the signing that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """Let go of a timer that a forked process does not have."""
        self._timer = None

    def _survive(self, record: Header, error: AuditWriteError) -> Receipt:
        state: State = "unrecorded"
        if self.on_failure == "block":
            _log.error("audit_blocked", kind=record.kind, cause=error.cause)
            raise error
        if self.on_failure == "spool":
            self.spool.add([record])
            state = "spooled"
            _log.error("audit_spooled", kind=record.kind, cause=error.cause)
        else:
            self._missed.add(error.cause)
            _log.critical(
                "audit_unrecorded",
                kind=record.kind,
                cause=error.cause,
                unrecorded=self._missed.count,
            )
        return Receipt(
            kind=record.kind, audit_id=_request_of(record), seq=None,
            time=time_text(now_us()), state=state,
        )  # fmt: skip

    def _drain(self) -> None:
        with self.spool.lock():
            # Another process may have emptied it while this one waited.
            if not self.spool.waits():
                return
            try:
                waiting = self.spool.read()
            except (AuditRecordError, ValueError, KeyError) as error:
                self._set_aside(error)
                return
            self.writer.act(lambda pen: _write_waiting(pen, waiting))
            if waiting.torn:
                _keep_torn(self.spool.path, waiting.torn)
            self.spool.empty()

    def _set_aside(self, error: Exception) -> None:
        """Keep a spool that was changed out of the ledger, and say so in it."""
        path = self.spool.path
        aside = path.with_name(f"{path.name}.{new_name('bad')}")
        digest = sha256(path.read_bytes()).hexdigest()
        self.writer.write(
            draft(
                "log_recovered",
                {
                    "cause": "spool_damaged",
                    "count": path.stat().st_size,
                    "detail": f"kept as {aside.name}",
                    "digest": digest,
                },
            )
        )
        os.replace(path, aside)
        _log.error("audit_spool_damaged", kept=str(aside), error=str(error))

    def _sign_later(self) -> None:
        """See to it that a record is signed even if none follows it."""
        if self._timer is not None or not self.writer.unsigned():
            return
        timer = threading.Timer(self.writer.pace.checkpoint_seconds, self._sign_now)
        timer.daemon = True
        self._timer = timer
        timer.start()

    def _sign_now(self) -> None:
        self._timer = None
        try:
            self.writer.act(_sign)
        except AuditError as error:
            # The next record, or closing, tries again; verifying shows the gap.
            _log.error("audit_checkpoint_failed", error=str(error))


def _sign(pen: Pen) -> None:
    pen.sign()


def _request_of(record: Header) -> str | None:
    found: Any = getattr(record, "audit_id", None)
    return None if found is None else str(found)


def _degraded(missed: Missed) -> Header:
    return draft(
        "audit_degraded",
        {
            "cause": missed.cause,
            "unrecorded": missed.count,
            "since": missed.since,
            "until": missed.until,
        },
    )


def _write_waiting(pen: Pen, waiting: Waiting) -> None:
    """Write a spool's records, but none that an earlier try wrote."""
    found = pen.connection.execute(
        "SELECT lines FROM spools WHERE spool = ?", (waiting.name,)
    ).fetchone()
    fresh = waiting.records[found[0] if found else 0 :]
    for record in fresh:
        # A commit that failed may have reached the disk all the same.
        with suppress(AuditRecordError):
            pen.write(record)
    cause = "spool_drained"
    if waiting.torn:
        torn = {
            "cause": "torn_spool",
            "count": len(waiting.torn),
            "digest": sha256(waiting.torn).hexdigest(),
        }
        pen.write(draft("log_recovered", torn))
    if fresh:
        pen.write(draft("log_recovered", {"cause": cause, "count": len(fresh)}))
    if waiting.name:
        pen.connection.execute(
            "INSERT OR REPLACE INTO spools VALUES (?, ?)",
            (waiting.name, len(waiting.records)),
        )


def _keep_torn(path: Path, torn: bytes) -> None:
    path.with_name(f"{path.name}.torn").write_bytes(torn)
