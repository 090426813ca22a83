"""Proofs that one record is in the signed ledger (C2SP tlog-proof).

A proof is a short text: the record's index, the hashes that lead to the root, and the
checkpoint that signs the root. With the record's bytes and the public key it can be
checked offline, for example by the stand-alone verifier.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sarguard.audit.proof import merkle
from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey
from sarguard.audit.storage.chain_head import subtree
from sarguard.audit.storage.database import (
    last_seq,
    newest_checkpoint,
    open_reader,
    stored_bytes,
)
from sarguard.errors import (
    AuditFormatError,
    AuditIntegrityError,
    AuditNotFoundError,
)

FIRST_LINE = "c2sp.org/tlog-proof@v1"
_KEY_FIELDS = (
    ("key_rotated", "new_key"),
    ("segment_sealed", "key"),
    ("log_opened", "key"),
)
"""Kinds of record that name a key, and where."""


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Hashes that lead from one record to a signed root."""

    index: int
    """The leaf's index: the record's number less one."""
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint

    def __str__(self) -> str:
        hashes = "".join(f"{b64encode(step).decode()}\n" for step in self.hashes)
        return f"{FIRST_LINE}\nindex {self.index}\n{hashes}\n{self.checkpoint}"

    @classmethod
    def parse(cls, text: str) -> InclusionProof:
        """Read a proof.

        Raises:
            AuditFormatError: if the text is not one.
        """
        # The first empty line: a checkpoint has one of its own before its signatures.
        head, _, note = text.partition("\n\n")
        # The format allows extra lines, which a reader passes over.
        lines = [line for line in head.split("\n") if not line.startswith("extra ")]
        try:
            first, index, *hashes = lines
            word, number = index.split(" ")
            steps = tuple(b64decode(line, validate=True) for line in hashes)
            place = int(number)
        except (ValueError, Base64Error) as error:
            raise AuditFormatError(f"not a proof: {text[:60]!r}") from error
        if first != FIRST_LINE or word != "index":
            raise AuditFormatError(f"not a proof: {text[:60]!r}")
        return cls(place, steps, Checkpoint.parse(note))

    def leads_from(self, record: bytes) -> bool:
        """Return whether it leads from a record's bytes to the checkpoint's root."""
        leaf = merkle.leaf_hash(record)
        size, root = self.checkpoint.size, self.checkpoint.root
        return merkle.verify_inclusion(leaf, self.index, size, self.hashes, root)

    def verifies(self, record: bytes, key: VerifierKey) -> bool:
        """Return whether a record's bytes are in the ledger that a key signed."""
        return self.checkpoint.signed_by(key) and self.leads_from(record)


def prove(path: str | Path, seq: int) -> InclusionProof:
    """Prove that a record is in the ledger, against its newest checkpoint.

    Raises:
        AuditNotFoundError: if no checkpoint covers such a record yet.
        AuditIntegrityError: if the record, or the checkpoint, is not what was signed.
    """
    with closing(open_reader(Path(path))) as connection:
        checkpoint = newest_checkpoint(connection)
        size = 0 if checkpoint is None else checkpoint.size
        if checkpoint is None or not 0 < seq <= size:
            raise AuditNotFoundError(
                f"no checkpoint covers a record {seq}: the newest covers 1 to {size}; "
                "sign one first"
            )
        check_signature(connection, checkpoint)
        return prove_record(connection, seq, checkpoint)


def prove_record(
    connection: sqlite3.Connection, seq: int, checkpoint: Checkpoint
) -> InclusionProof:
    """Prove that a record is under a checkpoint, having tried the proof.

    Raises:
        AuditNotFoundError: if retention deleted it.
        AuditIntegrityError: if the record is missing, or is not what was signed.
    """
    hashes = merkle.inclusion_proof(
        seq - 1, checkpoint.size, lambda low, high: subtree(connection, low, high)
    )
    proof = InclusionProof(seq - 1, tuple(hashes), checkpoint)
    found = connection.execute(
        "SELECT record FROM records WHERE seq = ?", (seq,)
    ).fetchone()
    if found is None and _is_buried(connection, seq):
        raise AuditNotFoundError(
            f"record {seq} was deleted when its retention ended: only its hash is left"
        )
    if found is None or not proof.leads_from(stored_bytes(found[0])):
        state = "is missing" if found is None else "cannot be proven"
        raise AuditIntegrityError(
            f"record {seq} {state}: the ledger's records do not lead to its checkpoint "
            f"of {checkpoint.size}, so this one or another is not what was signed. Do "
            "not rely on it, keep the file as it is, and run `sarguard audit verify`"
        )
    return proof


def _is_buried(connection: sqlite3.Connection, seq: int) -> bool:
    found = connection.execute(
        "SELECT 1 FROM burials WHERE first_seq <= ? AND last_seq >= ?", (seq, seq)
    ).fetchone()
    return found is not None


def check_signature(connection: sqlite3.Connection, checkpoint: Checkpoint) -> str:
    """Return the key that signed a checkpoint, as the ledger's own records name it.

    Raises:
        AuditIntegrityError: if no key that the ledger names signed it.
    """
    for kind, name in _KEY_FIELDS:
        for (data,) in connection.execute(
            "SELECT record FROM records WHERE kind = ? ORDER BY seq DESC", (kind,)
        ):
            key = str(json.loads(stored_bytes(data)).get(name))
            # The id of a signature line is a hash of the key: it finds the key itself.
            named = any(s.key_id in key.split("+") for s in checkpoint.signatures)
            if named and checkpoint.signed_by(VerifierKey.parse(key)):
                return key
    raise AuditIntegrityError(
        f"no key that the ledger names signed its checkpoint of {checkpoint.size} "
        "records: keep the file as it is, and run `sarguard audit verify`"
    )


def prove_consistency(path: str | Path, old: int, new: int) -> list[bytes]:
    """Prove that the ledger of one size grew from that of a smaller one.

    Raises:
        AuditNotFoundError: if the ledger was never that long.
    """
    with closing(open_reader(Path(path))) as connection:
        size = last_seq(connection)
        if not 0 < old <= new <= size:
            raise AuditNotFoundError(
                f"no growth from {old} to {new} records: the ledger has {size}"
            )
        return merkle.consistency_proof(
            old, new, lambda low, high: subtree(connection, low, high)
        )
