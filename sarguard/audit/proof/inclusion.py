"""Proofs that one record is in the signed ledger (C2SP tlog-proof).

A proof is a short text: the record's index, the hashes that lead to the root, and the
checkpoint that signs the root. With the record's bytes and the public key it can be
checked offline, for example by the stand-alone verifier.
"""

from __future__ import annotations

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
)
from sarguard.errors import AuditFormatError, AuditNotFoundError

FIRST_LINE = "c2sp.org/tlog-proof@v1"


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

    def verifies(self, record: bytes, key: VerifierKey) -> bool:
        """Return whether a record's bytes are in the ledger that a key signed."""
        leaf = merkle.leaf_hash(record)
        size, root = self.checkpoint.size, self.checkpoint.root
        signed = self.checkpoint.signed_by(key)
        return signed and merkle.verify_inclusion(
            leaf, self.index, size, self.hashes, root
        )


def prove(path: str | Path, seq: int) -> InclusionProof:
    """Prove that a record is in the ledger, against its newest checkpoint.

    Raises:
        AuditNotFoundError: if no checkpoint covers such a record yet.
    """
    with closing(open_reader(Path(path))) as connection:
        checkpoint = newest_checkpoint(connection)
        size = 0 if checkpoint is None else checkpoint.size
        if checkpoint is None or not 0 < seq <= size:
            raise AuditNotFoundError(
                f"no checkpoint covers a record {seq}: the newest covers 1 to {size}; "
                "sign one first"
            )
        hashes = merkle.inclusion_proof(
            seq - 1, size, lambda low, high: subtree(connection, low, high)
        )
    return InclusionProof(seq - 1, tuple(hashes), checkpoint)


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
