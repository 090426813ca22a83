"""Keep the secrets of marks and of sealed content, and destroy them for good.

The secrets stand in a file of their own, readable by its owner only. Without it a
copy of the ledger, or of sealed content, tells nobody what was said; with a secret
destroyed, nobody can ever tell. Copies of this file must be destroyed with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sarguard.audit.privacy.pseudonyms import Marks
from sarguard.audit.records.ids import new_name, now_us
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import AuditFormatError, AuditNotFoundError

APPLICATION_ID = 0x5341524B
"""`SARK`, in the header of the file."""

Purpose = Literal["mark", "content"]

_TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE IF NOT EXISTS secrets (
  key_id TEXT PRIMARY KEY, purpose TEXT NOT NULL, tenant TEXT NOT NULL,
  session TEXT NOT NULL, made INTEGER NOT NULL, secret BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS destroyed (
  key_id TEXT PRIMARY KEY, purpose TEXT NOT NULL, tenant TEXT NOT NULL,
  session TEXT NOT NULL, made INTEGER NOT NULL, destroyed INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Hold a secret and what it is for."""

    key_id: str
    purpose: Purpose
    tenant: str | None
    session: str | None
    """Mark of the session whose content it seals."""
    made: int
    """When, in microseconds since 1970."""
    value: bytes = field(repr=False)


class Keyring:
    """Hold one file of secrets; threads and processes may share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], Secret] = {}
        self._version = b""

    def __repr__(self) -> str:
        return f"Keyring({str(self.path)!r})"

    def marks(self, tenant: str | None = None) -> Marks:
        """Return what makes a tenant's marks; its first use makes its secret.

        Raises:
            AuditWriteError: if a new secret cannot be kept.
        """
        secret = self._current("mark", tenant, None)
        return Marks(key_id=secret.key_id, secret=secret.value)

    def all_marks(
        self, tenant: str | None = None, *, every: bool = False
    ) -> list[tuple[str | None, Marks]]:
        """Return a tenant's marks under each secret it has had, oldest first.

        Args:
            tenant: whose; with `every`, it is not asked for.
            every: return those of all tenants.
        """
        return [
            (secret.tenant, Marks(key_id=secret.key_id, secret=secret.value))
            for secret in self.secrets()
            if secret.purpose == "mark" and (every or secret.tenant == tenant)
        ]

    def content_secret(self, tenant: str | None, session: str) -> Secret:
        """Return the secret that seals a session's content; make it if needed."""
        return self._current("content", tenant, session)

    def rotate(self, tenant: str | None = None) -> Marks:
        """Give a tenant a new secret for marks; the old ones still serve to look up."""
        with self._writing() as connection:
            secret = _make(connection, "mark", tenant, None)
        return Marks(key_id=secret.key_id, secret=secret.value)

    def secrets(self) -> list[Secret]:
        """Return every secret, oldest first."""
        if not self.path.exists():
            return []
        with closing(self._connect()) as connection:
            return [
                _secret(row)
                for row in connection.execute(f"{_SELECT} ORDER BY made, rowid")
            ]

    def get(self, key_id: str) -> Secret:
        """Return one secret.

        Raises:
            AuditNotFoundError: if it was destroyed, or never stood in this file.
        """
        for secret in self.secrets():
            if secret.key_id == key_id:
                return secret
        what = "was destroyed" if self.was_destroyed(key_id) else "is not"
        raise AuditNotFoundError(f"the key {key_id} {what} in {self.path}")

    def was_destroyed(self, key_id: str) -> bool:
        """Tell whether a secret was destroyed here."""
        if not self.path.exists():
            return False
        with closing(self._connect()) as connection:
            found = connection.execute(
                "SELECT 1 FROM destroyed WHERE key_id = ?", (key_id,)
            )
            return found.fetchone() is not None

    def destroy(self, key_ids: Sequence[str]) -> None:
        """Destroy secrets, overwriting their bytes; their names stay.

        Raises:
            AuditWriteError: if the file cannot be written.
        """
        with self._writing() as connection:
            for key_id in key_ids:
                connection.execute(
                    "INSERT OR IGNORE INTO destroyed SELECT key_id, purpose, tenant, "
                    "session, made, ? FROM secrets WHERE key_id = ?",
                    (now_us(), key_id),
                )
                connection.execute("DELETE FROM secrets WHERE key_id = ?", (key_id,))

    def _current(
        self, purpose: Purpose, tenant: str | None, session: str | None
    ) -> Secret:
        name = (purpose, tenant or "", session or "")
        with self._lock:
            version = self._found_version()
            if version != self._version:
                self._known, self._version = {}, version
            if name in self._known:
                return self._known[name]
        with self._writing() as connection:
            secret = _newest(connection, name) or _make(
                connection, purpose, tenant, session
            )
        with self._lock:
            # A secret that another process destroyed meanwhile is asked for again:
            # the file's version has moved on.
            self._known[name] = secret
        return secret

    def _found_version(self) -> bytes:
        """Return SQLite's change counter: it grows with every transaction."""
        try:
            with self.path.open("rb") as file:
                return file.read(28)[24:]
        except FileNotFoundError:
            return b""

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._create()
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise write_error(error, f"the keys in {self.path}") from error

    def _create(self) -> None:
        if self.path.exists():
            return
        # SQLite gives its journal the rights of the file that it finds.
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(handle)

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            _prepare(connection, self.path)
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error) or "malformed" in str(error):
                raise AuditFormatError(
                    f"{self.path} does not hold the ledger's keys, or is damaged: "
                    "put the right file there"
                ) from error
            raise
        return connection


_SELECT = "SELECT key_id, purpose, tenant, session, made, secret FROM secrets"


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and mark != APPLICATION_ID:
        raise AuditFormatError(
            f"{path} is a database of another kind, not the ledger's keys: "
            "name the right file"
        )
    # A write-ahead log would keep a destroyed secret's old page.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    if not tables:
        connection.executescript(_TABLES)


def _newest(
    connection: sqlite3.Connection, name: tuple[str, str, str]
) -> Secret | None:
    row = connection.execute(
        f"{_SELECT} WHERE purpose = ? AND tenant = ? AND session = ? "
        "ORDER BY made DESC, rowid DESC LIMIT 1",
        name,
    ).fetchone()
    return None if row is None else _secret(row)


def _make(
    connection: sqlite3.Connection,
    purpose: Purpose,
    tenant: str | None,
    session: str | None,
) -> Secret:
    secret = Secret(
        key_id=new_name(purpose[:4]),
        purpose=purpose,
        tenant=tenant,
        session=session,
        made=now_us(),
        value=os.urandom(32),
    )
    owner = (tenant or "", session or "")
    row = (secret.key_id, purpose, *owner, secret.made, secret.value)
    connection.execute("INSERT INTO secrets VALUES (?, ?, ?, ?, ?, ?)", row)
    return secret


def _secret(row: tuple[str, Purpose, str, str, int, bytes]) -> Secret:
    key_id, purpose, tenant, session, made, value = row
    return Secret(
        key_id=key_id,
        purpose=purpose,
        tenant=tenant or None,
        session=session or None,
        made=made,
        value=bytes(value),
    )
