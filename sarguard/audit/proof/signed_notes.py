"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint).

A checkpoint's text is the ledger's origin, its size and its root; a signature line
follows for each key. Common tools for transparency logs can read them.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from sarguard.errors import AuditFormatError, AuditKeyError

ED25519 = b"\x01"
"""The algorithm byte of an Ed25519 key in a signed note."""

# The dash is U+2014, as the format has it.
_SIGNATURE = re.compile(r"^— ([^\s+]+) ([A-Za-z0-9+/=]+)$")

_CHECKPOINT = re.compile(
    r"^[^\n]+\n\d+\n[A-Za-z0-9+/=]+\n\n(?:— [^\n]+\n)+", re.MULTILINE
)


@lru_cache(maxsize=256)
def key_hash(name: str, public: bytes) -> bytes:
    """Return the four bytes that name an Ed25519 key in a signature line."""
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Public key; its text form is what third parties are given."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or re.search(r"[\s+]", self.name):
            raise AuditKeyError(
                f"key name {self.name!r} is empty, or holds a space or a plus sign"
            )
        if len(self.public) != 32:
            raise AuditKeyError(
                f"an Ed25519 public key has 32 bytes, not {len(self.public)}"
            )

    def __str__(self) -> str:
        data = b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{self.id}+{data}"

    @property
    def id(self) -> str:
        """Return the key's id: eight hexadecimal digits."""
        return key_hash(self.name, self.public).hex()

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key: `name+id+base64`.

        Raises:
            AuditKeyError: if the text is not an Ed25519 verifier key.
        """
        name, _, rest = text.strip().partition("+")
        given, _, data = rest.partition("+")
        try:
            raw = b64decode(data, validate=True)
        except Base64Error as error:
            raise AuditKeyError(
                f"not a verifier key: {text.strip()[:80]!r}; "
                "it looks like name+0123abcd+base64"
            ) from error
        if raw[:1] != ED25519:
            raise AuditKeyError("the verifier key is not an Ed25519 key")
        key = cls(name, raw[1:])
        if key.id != given:
            raise AuditKeyError(
                f"the verifier key's id is {given!r}, its content has {key.id}: "
                "it was copied wrongly or changed"
            )
        return key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether a signature over a message is this key's."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the signer's name, the key's id and the signature."""

    name: str
    key_id: str
    data: bytes

    def __str__(self) -> str:
        blob = b64encode(bytes.fromhex(self.key_id) + self.data).decode()
        return f"— {self.name} {blob}\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Signed statement of the ledger's size and root."""

    origin: str
    size: int
    root: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def body(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    def __str__(self) -> str:
        return f"{self.body}\n{''.join(map(str, self.signatures))}"

    def signed_by(self, key: VerifierKey) -> bool:
        """Return whether one of the signatures is that of a key."""
        message = self.body.encode()
        return any(
            key.verifies(message, signature.data)
            for signature in self.signatures
            # Four bytes of an id may be those of another key: they choose which lines
            # to try, and the signature decides.
            if (signature.name, signature.key_id) == (key.name, key.id)
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a signed checkpoint.

        Raises:
            AuditFormatError: if the text has another form.
        """
        body, blank, tail = text.partition("\n\n")
        lines = body.split("\n")
        # No leading zeros: `body` writes the text again, and has to give what was
        # signed.
        if not blank or len(lines) != 3 or not re.fullmatch(r"0|[1-9]\d*", lines[1]):
            raise AuditFormatError(f"not a signed checkpoint: {text[:80]!r}")
        return cls(
            lines[0],
            int(lines[1]),
            _unbase64(lines[2], 32),
            tuple(_signatures(tail.rstrip("\n").split("\n"))),
        )


def parse_many(text: str) -> list[Checkpoint]:
    """Read the checkpoints in a text, one after the other.

    What a crash cut off is passed over: without a signature it proves nothing.
    """
    found = []
    for match in _CHECKPOINT.finditer(text):
        with suppress(AuditFormatError):
            found.append(Checkpoint.parse(match[0]))
    return [checkpoint for checkpoint in found if checkpoint.signatures]


def _unbase64(text: str, length: int) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except Base64Error as error:
        raise AuditFormatError(f"not base64: {text[:80]!r}") from error
    if len(data) != length:
        raise AuditFormatError(f"{len(data)} bytes where {length} belong")
    return data


def _signatures(lines: Iterable[str]) -> Iterator[Signature]:
    for line in lines:
        match = _SIGNATURE.match(line)
        if match is None:
            raise AuditFormatError(f"not a signature line: {line[:80]!r}")
        try:
            blob = b64decode(match[2], validate=True)
        except Base64Error as error:
            raise AuditFormatError(f"not a signature line: {line[:80]!r}") from error
        # Lines of other algorithms are passed over, as the format asks for.
        if len(blob) == 4 + 64:
            yield Signature(match[1], blob[:4].hex(), blob[4:])
