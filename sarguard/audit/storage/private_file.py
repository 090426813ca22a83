"""Files beside the ledger that are readable by their owner only: SQLite databases."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import AuditFormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFile:
    """SQLite file for secrets or sealed content; it is made when first written to."""

    path: Path
    holds: str
    """What the file holds, in words for error messages."""
    application_id: int
    """Number in the file's header that tells it from other databases."""
    tables: str
    """SQL that makes the tables."""

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside a transaction, which is committed at the end.

        Raises:
            AuditFormatError: if the file is damaged or of another kind.
            AuditWriteError: if it cannot be written.
        """
        try:
            create_private(self.path)
            with closing(self.connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                # If the block raises, closing the connection rolls the transaction
                # back.
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise write_error(error, f"{self.holds} in {self.path}") from error

    def connect(self) -> sqlite3.Connection:
        """Return a connection; the caller closes it.

        Raises:
            AuditFormatError: if the file is damaged or of another kind.
        """
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException as error:
            connection.close()
            if "not a database" in str(error) or "malformed" in str(error):
                raise AuditFormatError(
                    f"{self.path} does not hold {self.holds}, or is damaged: "
                    "put the right file there"
                ) from error
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (magic,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and magic != self.application_id:
            raise AuditFormatError(
                f"{self.path} is a database of another kind, not {self.holds}: "
                "name the right file"
            )
        # A write-ahead log would keep a destroyed secret's old page.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if not tables:
            connection.executescript(
                f"PRAGMA application_id = {self.application_id};{self.tables}"
            )


def create_private(path: Path) -> None:
    """Make an empty file that is its owner's alone, where there is none.

    SQLite gives its journal the rights of the file that it finds.

    Raises:
        OSError: It cannot be made.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
