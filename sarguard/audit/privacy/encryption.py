"""Content sealed outside the chain, so that destroying its key erases it.

A record holds a commitment to the sealed bytes and the name of their key. Without the
key the content is unreadable for ever; the chain stays as it was.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sarguard.audit.privacy.keyring import Keyring
from sarguard.audit.records.fields import Content
from sarguard.audit.records.ids import new_name, now_us
from sarguard.audit.storage.private_file import PrivateFile
from sarguard.errors import AuditIntegrityError, AuditNotFoundError

ENGINE = "AES-256-GCM/1"
APPLICATION_ID = 0x53415243
"""`SARC`, in the header of the file."""

# Keeps these hashes apart from all others. Salt and nonce have fixed lengths, so the
# bytes that are hashed can be read in one way only.
_DOMAIN = b"sarguard content v1\x00"
_TABLES = """
CREATE TABLE IF NOT EXISTS contents (
  content_id TEXT PRIMARY KEY, key_id TEXT NOT NULL, made INTEGER NOT NULL,
  salt BLOB NOT NULL, nonce BLOB NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_key ON contents (key_id);
CREATE INDEX IF NOT EXISTS by_made ON contents (made);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedContent:
    """Sealed bytes, and what is needed beside their key to open them."""

    content_id: str
    key_id: str
    salt: bytes
    nonce: bytes
    data: bytes

    def commitment(self) -> str:
        """Return the salted hash that the record holds."""
        return sha256(_DOMAIN + self.salt + self.nonce + self.data).hexdigest()


class SealedStore:
    """File of sealed content; it is of no use without the keys."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._file = PrivateFile(
            path=self.path,
            holds="the ledger's sealed content",
            application_id=APPLICATION_ID,
            tables=_TABLES,
        )

    def put(self, sealed: SealedContent) -> None:
        """Keep sealed content, durably.

        Raises:
            AuditWriteError: if it cannot be kept.
        """
        row = (
            *(sealed.content_id, sealed.key_id, now_us()),
            *(sealed.salt, sealed.nonce, sealed.data),
        )
        with self._file.writing() as connection:
            connection.execute("INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?)", row)

    def get(self, content_id: str) -> SealedContent:
        """Return sealed content.

        Raises:
            AuditNotFoundError: if it is not there, erased or never kept.
        """
        row = None
        if self.path.exists():
            with closing(self._file.connect()) as connection:
                row = connection.execute(
                    "SELECT content_id, key_id, salt, nonce, sealed FROM contents "
                    "WHERE content_id = ?",
                    (content_id,),
                ).fetchone()
        if row is None:
            raise AuditNotFoundError(
                f"the content {content_id} is not in {self.path}: it was erased, "
                "or stands elsewhere"
            )
        names = ("content_id", "key_id", "salt", "nonce", "data")
        return SealedContent(**dict(zip(names, row, strict=True)))

    def delete_of(self, key_ids: Sequence[str]) -> int:
        """Delete what some keys sealed; return how many pieces went."""
        return self._delete("key_id = ?", [(key_id,) for key_id in key_ids])

    def delete(self, content_ids: Sequence[str]) -> int:
        """Delete pieces by their names; return how many went."""
        return self._delete("content_id = ?", [(name,) for name in content_ids])

    def delete_before(self, micros: int) -> int:
        """Delete what was made before a time; return how many pieces went."""
        return self._delete("made < ?", [(micros,)])

    def keys_in_use(self) -> set[str]:
        """Return the names of the keys that sealed what is still here."""
        if not self.path.exists():
            return set()
        with closing(self._file.connect()) as connection:
            rows = connection.execute("SELECT DISTINCT key_id FROM contents")
            return {key_id for (key_id,) in rows}

    def _delete(self, where: str, values: Sequence[tuple[object, ...]]) -> int:
        if not self.path.exists() or not values:
            return 0
        with self._file.writing() as connection:
            return sum(
                connection.execute(f"DELETE FROM contents WHERE {where}", row).rowcount
                for row in values
            )


class Sealer:
    """Sealing of content under its session's key, and opening it again."""

    def __init__(self, keyring: Keyring, store: SealedStore) -> None:
        self.keyring = keyring
        self.store = store

    def seal(
        self, part: str, data: bytes, *, tenant: str | None, session: str | None
    ) -> Content:
        """Keep content sealed; return what the record says of it.

        Args:
            part: what it is, such as `input_text`.
            data: the content.
            tenant: whose it is.
            session: pseudonym of the session; without one, the piece has its own key.

        Raises:
            AuditWriteError: if it cannot be kept.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        name, salt, nonce = new_name("content"), os.urandom(32), os.urandom(12)
        # Without a session the piece has a key to itself, and can be erased by itself.
        secret = self.keyring.content_secret(tenant, session or name)
        # A fresh nonce for each piece: a session's key seals many.
        data = AESGCM(secret.value).encrypt(nonce, data, _bound(name, part))
        sealed = SealedContent(
            content_id=name, key_id=secret.key_id, salt=salt, nonce=nonce, data=data
        )
        # Before the record: it must never name content that is not there.
        self.store.put(sealed)
        return Content(
            part=part,
            mode="encrypted",
            engine=ENGINE,
            commitment=sealed.commitment(),
            content_id=name,
            key_id=secret.key_id,
        )

    def unseal(self, content: Content) -> bytes:
        """Return the content of a record.

        Raises:
            AuditNotFoundError: if it was erased, or is in another file.
            AuditIntegrityError: if it is not what the record is committed to.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        name, key_id = content.content_id or "", content.key_id or ""
        sealed = self.store.get(name)
        # The commitment first: it says "changed" also where the key is destroyed.
        if not hmac.compare_digest(sealed.commitment(), content.commitment or ""):
            raise AuditIntegrityError(
                f"the content {name} is not what its record is committed to: "
                "it was changed"
            )
        secret = self.keyring.get(key_id)
        try:
            return AESGCM(secret.value).decrypt(
                sealed.nonce, sealed.data, _bound(name, content.part)
            )
        except InvalidTag as error:
            raise AuditIntegrityError(
                f"the content {name} cannot be opened with the key {key_id}"
            ) from error


def _bound(content_id: str, part: str) -> bytes:
    """Return the associated data that ties sealed bytes to their record."""
    return f"{content_id}\0{part}".encode()
