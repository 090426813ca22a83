"""Let threads and processes write to one ledger, one at a time, all together.

Records that wait while another thread commits are committed as one: under load one
flush of the disk serves many.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.proof.signing_keys import Signer
from sarguard.audit.records.fields import FaultFact
from sarguard.audit.records.fields import Writer as WriterFact
from sarguard.audit.records.header import Header
from sarguard.audit.records.ids import new_name
from sarguard.audit.storage.appender import Pace, Pen, draft
from sarguard.audit.storage.chain_head import End
from sarguard.audit.storage.database import open_writer, transaction
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import (
    AuditError,
    AuditIntegrityError,
    AuditKeyError,
    AuditRecordError,
    AuditWriteError,
)

T = TypeVar("T")

Written = tuple[int, str]
"""The number and time of a record."""


@dataclass(slots=True)
class Job:
    """Hold a record that one thread wants written, and what became of it."""

    record: Header
    written: Written | None = None
    error: Exception | None = None
    finished: bool = False


class Writer:
    """Write to a ledger's file.

    Args:
        path: the file.
        signer: returns the key that signs checkpoints; asked again after a rotation.
        pace: how often to sign and to begin a segment.
        timeout: seconds to wait for other writers.
        published: called with each new checkpoint, after it is durable.
    """

    def __init__(
        self,
        path: Path,
        signer: Callable[[], Signer],
        *,
        pace: Pace,
        timeout: float,
        published: Callable[[Checkpoint], None],
    ) -> None:
        self.path = path
        self._find_signer = signer
        self.signer = signer()
        self.pace = pace
        self.timeout = timeout
        self._published = published
        self.begin()
        _ALIVE.add(self)

    def begin(self) -> None:
        """Start without a connection or a memory: at first, and in a forked child."""
        self.fact = WriterFact(instance=new_name("writer"), pid=os.getpid())
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._end: End | None = None
        self._lock = threading.RLock()
        self._queue: list[Job] = []
        self._queue_lock = threading.Lock()

    def write(self, record: Header) -> Written:
        """Write a drafted record; return its number and time once it is durable.

        Raises:
            AuditRecordError: if it does not fit its request.
            AuditWriteError: if it cannot be made durable.
            AuditIntegrityError: if the ledger is not what was written to it.
        """
        job = Job(record)
        with self._queue_lock:
            self._queue.append(job)
        with self._lock:
            if not job.finished:
                with self._queue_lock:
                    jobs, self._queue = self._queue, []
                self._commit(jobs)
        if job.written is None:
            raise job.error or AuditWriteError("the record was not written")
        return job.written

    def note(self, checkpoint: Checkpoint, error: Exception) -> None:
        """Record that a checkpoint could not be copied to its second place."""
        fault = FaultFact(type=type(error).__name__)
        self.act(
            lambda pen: pen.write(
                draft("mirror_failed", {"size": checkpoint.size, "fault": fault})
            )
        )

    def unsigned(self) -> int:
        """Return how many records stand after the newest checkpoint known here."""
        end = self._end
        return 0 if end is None else end.size - end.signed

    def act(self, action: Callable[[Pen], T]) -> T:
        """Run something in a transaction of its own, with the lock held.

        Raises:
            AuditWriteError: if it cannot be made durable.
            AuditIntegrityError: if the ledger is not what was written to it.
        """
        with self._lock:
            try:
                result, note = self._transact(action)
            except BaseException as error:
                # What was pushed in memory is not in the file: read it again.
                self._end = None
                if isinstance(error, AuditError) or not isinstance(
                    error, (sqlite3.Error, OSError)
                ):
                    raise
                self._drop()
                raise write_error(error, f"the ledger {self.path}") from error
        if note is not None:
            self._published(note)
        return result

    def _transact(self, action: Callable[[Pen], T]) -> tuple[T, Checkpoint | None]:
        connection, end = self._ready()
        with transaction(connection, self.timeout):
            end.catch_up(connection)
            self._check_signer(end)
            before = end.signed
            result = action(Pen(connection, end, self.fact, self.signer, self.pace))
            note = _newest(connection) if end.signed != before else None
        return result, note

    def close(self) -> None:
        """Close the connection; the next write opens it again."""
        with self._lock:
            self._drop()

    def _commit(self, jobs: list[Job]) -> None:
        """Write the records of several threads; tell each what became of its own."""
        try:
            self.act(lambda pen: _write_all(pen, jobs))
        except Exception as error:
            for job in jobs:
                job.written, job.error = None, job.error or error
        finally:
            for job in jobs:
                job.finished = True

    def _ready(self) -> tuple[sqlite3.Connection, End]:
        if self._connection is None:
            self._connection = open_writer(self.path, timeout=self.timeout)
            self._inode = self._found_inode()
            self._end = None
        elif self._found_inode() != self._inode:
            raise AuditIntegrityError(
                f"the file at {self.path} is not the one this process has been "
                "writing to: it was replaced or removed; keep both and verify them"
            )
        if self._end is None:
            self._end = End()
        return self._connection, self._end

    def _found_inode(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _check_signer(self, end: End) -> None:
        if not end.size or end.key == str(self.signer.verifier):
            return
        self.signer = self._find_signer()
        found = self.signer.verifier
        if end.key != str(found):
            raise AuditKeyError(
                f"checkpoints of this ledger are signed by {end.key}, "
                f"the key given is {found}: give the ledger its own key"
            )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._end = None

    def leave(self) -> None:
        """Forget a connection that belongs to the parent of a forked process."""
        if self._connection is not None:
            # Closing it here could release the parent's locks on the file.
            _LEFT.append(self._connection)
        self.begin()


def _write_all(pen: Pen, jobs: list[Job]) -> None:
    for job in jobs:
        try:
            job.written = pen.write(job.record)
        except AuditRecordError as error:
            job.error = error
    if pen.sign_is_due():
        pen.sign()


def _newest(connection: sqlite3.Connection) -> Checkpoint:
    (note,) = connection.execute(
        "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1"
    ).fetchone()
    return Checkpoint.parse(note)


_ALIVE: weakref.WeakSet[Writer] = weakref.WeakSet()
_LEFT: list[sqlite3.Connection] = []


def _after_fork() -> None:
    for writer in list(_ALIVE):
        writer.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
