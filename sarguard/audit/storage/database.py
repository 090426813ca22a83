"""The ledger's file: SQLite with a write-ahead log, every commit flushed to disk.

A file is known by its application id; triggers keep records from being changed by
accident. They do not stop a person with the file in hand: the hashes and
signatures do that.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import random
from typing import TypeVar
from urllib.parse import quote

from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.storage.private_file import create_private
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import AuditFormatError, AuditNotFoundError, AuditWriteError

APPLICATION_ID = 0x53415247
"""`SARG`, in the header of the file."""

FORMAT = 1
"""The version of the tables; not that of the records."""

TILE = 256
"""Records under one stored hash; a tree is rebuilt from these hashes."""

# SQLite keeps these texts as they are written, and a verifier compares them with what
# it finds: their line breaks are part of the format too.
TABLES = {
    "records": """CREATE TABLE records (
  seq INTEGER PRIMARY KEY, record BLOB NOT NULL, kind TEXT NOT NULL,
  time INTEGER NOT NULL, audit_id TEXT, tenant TEXT, policy TEXT, outcome TEXT)""",
    "tiles": "CREATE TABLE tiles (tile INTEGER PRIMARY KEY, root BLOB NOT NULL)",
    "checkpoints": """CREATE TABLE checkpoints (
  size INTEGER PRIMARY KEY, note TEXT NOT NULL)""",
    # Leaf hashes of the records that retention deleted, 32 bytes each.
    "burials": """CREATE TABLE burials (
  first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, leaves BLOB NOT NULL)""",
    # Which spool files are in the ledger, and how many of their lines.
    "spools": """CREATE TABLE spools (
  spool TEXT PRIMARY KEY, lines INTEGER NOT NULL) WITHOUT ROWID""",
}

INDEXES = {
    "by_time": "CREATE INDEX by_time ON records (time)",
    "by_kind": "CREATE INDEX by_kind ON records (kind, time)",
    # Unique: the database itself refuses a second end of a request.
    "by_request": """CREATE UNIQUE INDEX by_request ON records (audit_id, kind)
  WHERE audit_id IS NOT NULL""",
    "by_outcome": """CREATE INDEX by_outcome ON records (outcome, time)
  WHERE outcome IS NOT NULL""",
    "by_policy": """CREATE INDEX by_policy ON records (policy, time)
  WHERE policy IS NOT NULL""",
    "by_tenant": """CREATE INDEX by_tenant ON records (tenant, time)
  WHERE tenant IS NOT NULL""",
}

TRIGGERS = {
    "records_in_order": """CREATE TRIGGER records_in_order BEFORE INSERT ON records
WHEN NEW.seq != (SELECT coalesce(max(seq), 0) + 1 FROM records)
BEGIN SELECT raise(ABORT, 'records are added at the end only'); END""",
    "records_fixed": """CREATE TRIGGER records_fixed BEFORE UPDATE ON records
BEGIN SELECT raise(ABORT, 'records are never changed'); END""",
    "records_kept": """CREATE TRIGGER records_kept BEFORE DELETE ON records
WHEN NOT EXISTS (SELECT 1 FROM burials WHERE OLD.seq BETWEEN first_seq AND last_seq)
BEGIN SELECT raise(ABORT, 'records are deleted by retention only'); END""",
    "checkpoints_fixed": """CREATE TRIGGER checkpoints_fixed BEFORE UPDATE
ON checkpoints BEGIN SELECT raise(ABORT, 'checkpoints are never changed'); END""",
    "checkpoints_kept": """CREATE TRIGGER checkpoints_kept BEFORE DELETE
ON checkpoints BEGIN SELECT raise(ABORT, 'checkpoints are never deleted'); END""",
}

SCHEMA = {**TABLES, **INDEXES, **TRIGGERS}
"""SQL of every table, index and trigger, by name; a verifier compares them."""

T = TypeVar("T")


def open_writer(path: Path, *, timeout: float) -> sqlite3.Connection:
    """Open a ledger's file for writing; make it if there is none.

    Raises:
        AuditFormatError: if the file is damaged, foreign or from a newer version.
        AuditWriteError: if it cannot be written.
    """
    check_magic(path)
    # Records hold words that callers chose. What cannot be made is SQLite's to explain.
    with suppress(OSError):
        create_private(path)
    try:
        # Threads share it, one at a time under the writer's lock; transactions are
        # begun by hand, and waiting for other processes is done below.
        connection = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False
        )
        deadline = time.monotonic() + timeout
        retry_while_locked(lambda: _prepare(connection), deadline)
    except sqlite3.Error as error:
        raise _opening_error(path, error) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a ledger's file for reading; nothing done with it can change a record.

    Raises:
        AuditNotFoundError: if there is no file.
        AuditFormatError: if the file is damaged, foreign or from a newer version.
    """
    if not path.exists():
        raise AuditNotFoundError(f"no ledger at {path}")
    check_magic(path)
    try:
        connection = _connect_to_read(path)
        _check_format(connection)
    except sqlite3.Error as error:
        raise _opening_error(path, error) from error
    return connection


def newest_checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """Return the newest stored checkpoint."""
    found = connection.execute(
        "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1"
    ).fetchone()
    return None if found is None else Checkpoint.parse(found[0])


def last_seq(connection: sqlite3.Connection) -> int:
    """Return the number of the last record; 0 without any."""
    (size,) = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()
    return int(size)


def stored_bytes(value: object) -> bytes:
    """Return a record's bytes; an attacker may have stored a text or a number."""
    if type(value) is bytes:
        return value
    return str(value).encode("utf-8", "replace")


def check_magic(path: Path) -> None:
    """Refuse a file that is not a database, before SQLite touches it.

    Raises:
        AuditFormatError: if the file has content that is not SQLite's.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuditWriteError(
            f"the ledger at {path} cannot be read: {error}"
        ) from error
    if start and start != b"SQLite format 3\x00":
        raise AuditFormatError(
            f"{path} is not a ledger: it does not begin as an SQLite file; "
            "if it was one, restore it from a copy"
        )


@contextmanager
def transaction(connection: sqlite3.Connection, timeout: float) -> Iterator[None]:
    """Hold the ledger's one write lock; commit at the end, or change nothing.

    Raises:
        sqlite3.OperationalError: if the lock is not free within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    # IMMEDIATE: a transaction that begins by reading may be refused the lock when it
    # comes to write, after its reads are out of date.
    retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
    try:
        yield
        # A COMMIT that finds the file busy leaves the transaction open, to be tried
        # again.
        retry_while_locked(lambda: connection.execute("COMMIT"), deadline)
    # An interrupt too must not leave the lock taken. After some errors, such as a full
    # disk, SQLite has rolled back already.
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def retry_while_locked(action: Callable[[], T], deadline: float) -> T:
    """Repeat an action while another process holds the lock.

    SQLite's own waiting sleeps longer at each try, so a writer can starve; short
    random sleeps are fairer.
    """
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            busy = "locked" in str(error) or "busy" in str(error)
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(0.0002 + 0.0015 * random())


def _prepare(connection: sqlite3.Connection) -> None:
    # Before the pragmas: setting a journal mode writes to the file, and a database of
    # another program must not be touched.
    if not _is_empty(connection):
        _check_format(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit is on the disk before a record counts as durable.
    connection.execute("PRAGMA synchronous = FULL")
    # What retention deletes is overwritten, not left in free pages.
    connection.execute("PRAGMA secure_delete = ON")
    # In pages, twice SQLite's default: half as many commits wait for a checkpoint.
    connection.execute("PRAGMA wal_autocheckpoint = 2000")
    # Looked at again under the lock: another process may be making the tables now.
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            _create(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    _check_format(connection)


def _is_empty(connection: sqlite3.Connection) -> bool:
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (magic,) = connection.execute("PRAGMA application_id").fetchone()
    return int(count) == 0 and int(magic) == 0


def _create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA.values():
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def _check_format(connection: sqlite3.Connection) -> None:
    (magic,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if magic != APPLICATION_ID:
        raise AuditFormatError(
            "the file is an SQLite database of another program, not a ledger: "
            "choose another path"
        )
    if version > FORMAT:
        raise AuditFormatError(
            f"the ledger has format {version}, this version of sarguard reads "
            f"up to {FORMAT}: update sarguard"
        )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    # Quoted: a question mark in a path would begin the URI's options.
    uri = f"file:{quote(os.fsencode(path.resolve()))}"
    connection = sqlite3.connect(
        f"{uri}?mode=ro", uri=True, timeout=10, check_same_thread=False
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        # A write-ahead log needs a writable folder. On a read-only medium, with no
        # log left to replay, the file alone is whole.
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise
        connection = sqlite3.connect(
            f"{uri}?immutable=1", uri=True, check_same_thread=False
        )
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("PRAGMA query_only = ON")
    return connection


def _opening_error(
    path: Path, error: sqlite3.Error
) -> AuditFormatError | AuditWriteError:
    text = str(error)
    if "malformed" in text or "not a database" in text or "no such table" in text:
        return AuditFormatError(
            f"the ledger at {path} is damaged ({text}): keep it as it is, "
            "and restore a copy beside it"
        )
    return write_error(error, f"the ledger at {path} cannot be opened")
