"""The secrets of pseudonyms and of sealed content, in a file of their own.

The file is readable by its owner only. A copy of the ledger, or of sealed content, does
not tell what was said without it. Once a secret is destroyed, nothing can tell: copies
of this file have to be destroyed with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.records.ids import new_name, now_us
from sarguard.audit.storage.private_file import PrivateFile
from sarguard.errors import AuditNotFoundError

APPLICATION_ID = 0x5341524B
"""`SARK`, in the header of the file."""

Purpose = Literal["mark", "content"]

_TABLES = """
CREATE TABLE IF NOT EXISTS secrets (
  key_id TEXT PRIMARY KEY, purpose TEXT NOT NULL, tenant TEXT NOT NULL,
  session TEXT NOT NULL, made INTEGER NOT NULL, secret BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS destroyed (
  key_id TEXT PRIMARY KEY, purpose TEXT NOT NULL, tenant TEXT NOT NULL,
  session TEXT NOT NULL, made INTEGER NOT NULL, destroyed INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One secret, and what it is for."""

    key_id: str
    purpose: Purpose
    tenant: str | None
    session: str | None
    """Pseudonym of the session whose content it seals."""
    made: int
    """When, in microseconds since 1970."""
    # Logs and tracebacks print what has a repr.
    value: bytes = field(repr=False)


class Keyring:
    """File of secrets; threads and processes may share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._file = PrivateFile(
            path=self.path,
            holds="the ledger's keys",
            application_id=APPLICATION_ID,
            tables=_TABLES,
        )
        # Guards the two below. The file has SQLite's own lock, which is not taken under
        # it.
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], Secret] = {}
        self._version = b""

    def __repr__(self) -> str:
        return f"Keyring({str(self.path)!r})"

    def pseudonyms(self, tenant: str | None = None) -> Pseudonyms:
        """Return a tenant's pseudonyms; the first use makes the secret.

        Raises:
            AuditWriteError: if a new secret cannot be kept.
        """
        return _pseudonyms(self._current("mark", tenant, None))

    def all_pseudonyms(
        self, tenant: str | None = None, *, every: bool = False
    ) -> list[tuple[str | None, Pseudonyms]]:
        """Return tenants and their pseudonyms, one pair for each secret, oldest first.

        Args:
            tenant: the tenant; it is ignored with `every`.
            every: return those of all tenants.
        """
        return [
            (secret.tenant, _pseudonyms(secret))
            for secret in self.secrets()
            if secret.purpose == "mark" and (every or secret.tenant == tenant)
        ]

    def content_secret(self, tenant: str | None, session: str) -> Secret:
        """Return the secret that seals a session's content; make it if needed."""
        return self._current("content", tenant, session)

    def rotate(self, tenant: str | None = None) -> Pseudonyms:
        """Make a new secret for a tenant; the old ones still serve look-ups."""
        with self._file.writing() as connection:
            return _pseudonyms(_make(connection, "mark", tenant, None))

    def secrets(self) -> list[Secret]:
        """Return every secret, oldest first."""
        if not self.path.exists():
            return []
        with closing(self._file.connect()) as connection:
            return [
                _secret(row)
                for row in connection.execute(f"{_SELECT} ORDER BY made, rowid")
            ]

    def get(self, key_id: str) -> Secret:
        """Return one secret.

        Raises:
            AuditNotFoundError: if it was destroyed, or was never in this file.
        """
        for secret in self.secrets():
            if secret.key_id == key_id:
                return secret
        state = "was destroyed" if self.was_destroyed(key_id) else "is not"
        raise AuditNotFoundError(f"the key {key_id} {state} in {self.path}")

    def was_destroyed(self, key_id: str) -> bool:
        """Return whether a secret was destroyed here."""
        if not self.path.exists():
            return False
        with closing(self._file.connect()) as connection:
            found = connection.execute(
                "SELECT 1 FROM destroyed WHERE key_id = ?", (key_id,)
            )
            return found.fetchone() is not None

    def destroy(self, key_ids: Sequence[str]) -> None:
        """Destroy secrets, overwriting their bytes; their names stay.

        Raises:
            AuditWriteError: if the file cannot be written.
        """
        with self._file.writing() as connection:
            for key_id in key_ids:
                connection.execute(
                    # The name stays, so that a look-up can tell a key that was
                    # destroyed from one that is lost.
                    "INSERT OR IGNORE INTO destroyed SELECT key_id, purpose, tenant, "
                    "session, made, ? FROM secrets WHERE key_id = ?",
                    (now_us(), key_id),
                )
                connection.execute("DELETE FROM secrets WHERE key_id = ?", (key_id,))

    def _current(
        self, purpose: Purpose, tenant: str | None, session: str | None
    ) -> Secret:
        name = (purpose, tenant or "", session or "")
        # Every request needs a secret: it is kept in memory until the file changes.
        with self._lock:
            version = self._found_version()
            if version != self._version:
                self._known, self._version = {}, version
            if name in self._known:
                return self._known[name]
        # Looked for again under the file's lock: another process may have made it.
        with self._file.writing() as connection:
            secret = _newest(connection, name) or _make(
                connection, purpose, tenant, session
            )
        with self._lock:
            # If another process destroyed it meanwhile, the file's version differs,
            # and the next call reads it again.
            self._known[name] = secret
        return secret

    def _found_version(self) -> bytes:
        """Return SQLite's change counter, bytes 24 to 27 of the file's header."""
        try:
            with self.path.open("rb") as file:
                # Every commit changes it, as the file has a rollback journal: with a
                # write-ahead log SQLite need not count.
                return file.read(28)[24:]
        except FileNotFoundError:
            return b""


_SELECT = "SELECT key_id, purpose, tenant, session, made, secret FROM secrets"


def _newest(
    connection: sqlite3.Connection, name: tuple[str, str, str]
) -> Secret | None:
    row = connection.execute(
        f"{_SELECT} WHERE purpose = ? AND tenant = ? AND session = ? "
        # Two secrets may be made within a microsecond: the later row is the newer.
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
        # 256 bits, for HMAC-SHA256 and AES-256 alike.
        value=os.urandom(32),
    )
    owner = (tenant or "", session or "")
    row = (secret.key_id, purpose, *owner, secret.made, secret.value)
    connection.execute("INSERT INTO secrets VALUES (?, ?, ?, ?, ?, ?)", row)
    return secret


def _pseudonyms(secret: Secret) -> Pseudonyms:
    return Pseudonyms(key_id=secret.key_id, secret=secret.value)


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
