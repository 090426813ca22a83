"""Group commit: threads and processes write to one ledger, one transaction at a time.

Records that wait while another thread commits are committed together: under load one
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
from sarguard.audit.records.fields import FaultRef, Header, WriterRef
from sarguard.audit.records.ids import new_name
from sarguard.audit.storage.appender import Appender, Pace, draft
from sarguard.audit.storage.chain_head import ChainHead
from sarguard.audit.storage.database import newest_checkpoint, open_writer, transaction
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import (
    AuditError,
    AuditIntegrityError,
    AuditKeyError,
    AuditRecordError,
    AuditWriteError,
)

T = TypeVar("T")

SeqAndTime = tuple[int, str]
"""The number and time of a record."""


@dataclass(slots=True)
class PendingWrite:
    """Record that one thread wants written, and what became of it."""

    record: Header
    written: SeqAndTime | None = None
    error: Exception | None = None
    finished: bool = False


class GroupCommitWriter:
    """Writer to a ledger's file; threads may share it.

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
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        """Start without a connection or known state: at first, and in a forked child.

        The locks are new as well: a thread of the parent may have held the old ones
        when the process was forked, and would never release them in the child.
        """
        self.ref = WriterRef(instance=new_name("writer"), pid=os.getpid())
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._head: ChainHead | None = None
        # Reentrant: publishing a checkpoint may record that a mirror failed.
        self._lock = threading.RLock()
        # The second lock guards the queue alone, so that threads can queue up while one
        # of them commits. It is only ever held for a moment, and nothing is locked
        # inside it.
        self._queue: list[PendingWrite] = []
        self._queue_lock = threading.Lock()

    def write(self, record: Header) -> SeqAndTime:
        """Write a drafted record; return its number and time once it is durable.

        Raises:
            AuditRecordError: if it does not fit its request.
            AuditWriteError: if it cannot be made durable.
            AuditIntegrityError: if the ledger is not what was written to it.
        """
        pending = PendingWrite(record)
        with self._queue_lock:
            self._queue.append(pending)
        # Whoever gets the lock commits all that has queued up meanwhile; the others
        # then find theirs finished.
        with self._lock:
            if not pending.finished:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        if pending.written is None:
            raise pending.error or AuditWriteError("the record was not written")
        return pending.written

    def record_mirror_failure(self, checkpoint: Checkpoint, error: Exception) -> None:
        """Record that a checkpoint could not be copied to its second place."""
        fault = FaultRef(type=type(error).__name__)
        record = draft("mirror_failed", {"size": checkpoint.size, "fault": fault})
        self.transact(lambda appender: appender.write(record))

    def unsigned(self) -> int:
        """Return how many records follow the newest checkpoint known here."""
        head = self._head
        return 0 if head is None else head.size - head.signed

    def transact(self, action: Callable[[Appender], T]) -> T:
        """Run an action in a transaction of its own, with the lock held.

        Raises:
            AuditWriteError: if it cannot be made durable.
            AuditIntegrityError: if the ledger is not what was written to it.
        """
        with self._lock:
            try:
                result, note = self._run(action)
            except BaseException as error:
                # What was appended in memory is not in the file: read it again.
                self._head = None
                if isinstance(error, (sqlite3.Error, OSError)) and not isinstance(
                    error, AuditError
                ):
                    # After such an error the connection may be in any state.
                    self.close()
                    raise write_error(error, f"the ledger {self.path}") from error
                raise
        # After the commit: a checkpoint that has left cannot be rolled back.
        if note is not None:
            self._published(note)
        return result

    def _run(self, action: Callable[[Appender], T]) -> tuple[T, Checkpoint | None]:
        connection, head = self._ready()
        with transaction(connection, self.timeout):
            # Inside the transaction: until it ends no other process can append.
            head.catch_up(connection)
            self._check_signer(head)
            before = head.signed
            result = action(
                Appender(connection, head, self.ref, self.signer, self.pace)
            )
            note = newest_checkpoint(connection) if head.signed != before else None
        return result, note

    def close(self) -> None:
        """Close the connection; the next write opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._head = None

    def _commit(self, batch: list[PendingWrite]) -> None:
        """Write the records of several threads, and note the result of each."""
        try:
            self.transact(lambda appender: _write_all(appender, batch))
        except Exception as error:
            for pending in batch:
                # The transaction was rolled back, so what looked written is not.
                pending.written, pending.error = None, pending.error or error
        finally:
            for pending in batch:
                pending.finished = True

    def _ready(self) -> tuple[sqlite3.Connection, ChainHead]:
        if self._connection is None:
            self._connection = open_writer(self.path, timeout=self.timeout)
            self._inode = self._found_inode()
            self._head = None
        elif self._found_inode() != self._inode:
            # Written on, the records would go to a file that nobody can open.
            raise AuditIntegrityError(
                f"the file at {self.path} is not the one this process has been "
                "writing to: it was replaced or removed; keep both and verify them"
            )
        if self._head is None:
            self._head = ChainHead()
        return self._connection, self._head

    def _found_inode(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _check_signer(self, head: ChainHead) -> None:
        if not head.size or head.key == str(self.signer.verifier):
            return
        # Another process may have rotated the key since.
        self.signer = self._find_signer()
        found = self.signer.verifier
        if head.key != str(found):
            raise AuditKeyError(
                f"checkpoints of this ledger are signed by {head.key}, "
                f"the key given is {found}: give the ledger its own key"
            )

    def after_fork(self) -> None:
        """Drop a connection that belongs to the parent of a forked process."""
        if self._connection is not None:
            # Closing it here could release the parent's locks on the file.
            _OF_PARENT.append(self._connection)
        self._reset()


def _write_all(appender: Appender, batch: list[PendingWrite]) -> None:
    for pending in batch:
        try:
            pending.written = appender.write(pending.record)
        except AuditRecordError as error:
            pending.error = error
    if appender.sign_is_due():
        appender.sign()


_ALIVE: weakref.WeakSet[GroupCommitWriter] = weakref.WeakSet()
# Kept from the garbage collector, which would close them as well.
_OF_PARENT: list[sqlite3.Connection] = []


def _after_fork() -> None:
    for writer in list(_ALIVE):
        writer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
