"""Keys that sign checkpoints: in a file, or behind a caller's own signer."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from pathlib import Path
from typing import Protocol, runtime_checkable

from sarguard.audit.proof.signed_notes import (
    ED25519,
    Checkpoint,
    Signature,
    VerifierKey,
)
from sarguard.audit.records.ids import new_name
from sarguard.errors import AuditKeyError, AuditNotFoundError

# The text form of Go's golang.org/x/mod/sumdb/note: prefix, name, id and base64.
_PREFIX = "PRIVATE+KEY"


@runtime_checkable
class Signer(Protocol):
    """Signer of messages with Ed25519, such as a hardware key or a key service."""

    @property
    def verifier(self) -> VerifierKey:
        """Return the public key."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of an Ed25519 signature."""


class SigningKey:
    """Ed25519 key in memory; its file is readable by its owner only."""

    def __init__(self, name: str, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if len(seed) != 32:
            raise AuditKeyError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = VerifierKey(name, self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        # Without the seed, which must not reach a log.
        return f"SigningKey({self.verifier.name!r}, id={self.verifier.id})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of an Ed25519 signature."""
        return self._private.sign(message)

    @classmethod
    def generate(cls, name: str | None = None) -> SigningKey:
        """Make a new key; its name becomes the origin of the ledger it begins."""
        fresh = new_name("log").removeprefix("log_").lower()
        return cls(name or f"sarguard.audit/{fresh}", os.urandom(32))

    @classmethod
    def load(cls, path: str | Path) -> SigningKey:
        """Read a key file.

        Raises:
            AuditNotFoundError: if there is no such file.
            AuditKeyError: if it does not hold an Ed25519 signing key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise AuditNotFoundError(
                f"no signing key at {path}: put the ledger's key file there, "
                "or name it, with key= in Python or --signing-key on the command line"
            ) from error
        except UnicodeDecodeError as error:
            raise AuditKeyError(f"{path} does not hold a signing key") from error
        return cls._parse(text, path)

    @classmethod
    def _parse(cls, text: str, path: str | Path) -> SigningKey:
        start, _, rest = text.partition(f"{_PREFIX}+")
        # A name may hold no plus sign, base64 may: split from the left.
        name, _, tail = rest.partition("+")
        given, _, data = tail.partition("+")
        try:
            raw = b64decode(data, validate=True)
        except Base64Error as error:
            raise AuditKeyError(f"{path} does not hold a signing key") from error
        if start or raw[:1] != ED25519:
            raise AuditKeyError(f"{path} does not hold an Ed25519 signing key")
        key = cls(name, raw[1:])
        if key.verifier.id != given:
            raise AuditKeyError(f"{path} is damaged: its id does not fit its content")
        return key

    def save(self, path: str | Path) -> None:
        """Write a new key file, mode 0600, durably; never replace one.

        Raises:
            FileExistsError: if there is a file at the path.
        """
        data = b64encode(ED25519 + self._seed).decode()
        text = f"{_PREFIX}+{self.verifier.name}+{self.verifier.id}+{data}\n"
        temporary = Path(f"{path}.{new_name('new')}")
        # Private from its first moment: a chmod afterwards would come too late for
        # some.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # Another process sees the whole file or none, and never loses its own.
            os.link(temporary, path)
        finally:
            temporary.unlink()


def sign_checkpoint(checkpoint: Checkpoint, *signers: Signer) -> Checkpoint:
    """Return a checkpoint with the signatures of some keys."""
    message = checkpoint.body.encode()
    signatures = tuple(
        Signature(signer.verifier.name, signer.verifier.id, signer.sign(message))
        for signer in signers
    )
    return Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root, signatures)
