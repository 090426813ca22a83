"""Evidence: what an auditor needs to check records without trusting the operator.

The archive holds the records as they were hashed, a proof for each, the signed
checkpoint, the public key, the policies, a verifier that needs nothing but Python,
and a page that says in plain words what to do and what is not proven.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from sarguard.audit.log import AuditLog
from sarguard.audit.proof.inclusion import check_signature, prove_record
from sarguard.audit.proof.report import NEVER_PROVEN
from sarguard.audit.proof.signed_notes import Checkpoint
from sarguard.audit.records.schema import json_schema
from sarguard.audit.storage.query import Entry, Query
from sarguard.errors import AuditNotFoundError

_FIXED = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the archive, so that equal evidence is equal bytes."""

README = """\
EVIDENCE FROM A SARGUARD LEDGER

What this is
  {count} of the {size} records of the ledger {origin},
  exactly as they were written, with a proof for each that it stands in the ledger
  that the signed checkpoint describes.

How to check it (Python 3.8 or newer, nothing else; no network)
  1. Get the operator's public key from somewhere else than this archive, for example
     from a contract or a web page. The key in PUBLIC_KEY.txt is here for comparison.
  2. Unpack the archive, open a terminal in its folder, and run for any record:
       python verify.py proof records/{example}.json proofs/{example}.tlog-proof \\
         --key PUBLIC_KEY.txt
  3. "VALID" means that the record is, byte for byte, in the ledger that was signed.

What is in it
  records.jsonl    the records, one a line, in order
  records/         the same records, one a file, as the verifier wants them
  proofs/          a proof for each (C2SP tlog-proof)
  checkpoint.txt   the signed size and root of the whole ledger (C2SP tlog-checkpoint)
  PUBLIC_KEY.txt   the key that signed it
  policies/        the policies that the records speak of, where the ledger holds them
  schema.json      what each field means (JSON Schema)
  verify.py        the verifier; read it, it is short
  SHA256SUMS       the digest of each file here

What is not proven
  - that no other records exist: this may be a part of the ledger, chosen by whoever
    exported it. Ask for the whole ledger, or for the numbers that are missing
{not_proven}

This is an export of evidence, not a legal determination.
"""


def write_evidence(log: AuditLog, entries: Iterable[Entry], path: Path) -> int:
    """Write the archive; return how many records are in it.

    Records that no checkpoint covers yet are not in it: sign one first.

    Raises:
        AuditNotFoundError: if no checkpoint was ever signed, or no record is left.
        AuditIntegrityError: if a record, or the checkpoint, is not what was signed.
    """
    checkpoint = log.reader.checkpoint()
    if checkpoint is None:
        raise AuditNotFoundError(f"no checkpoint was signed in {log.path}")
    covered = (entry for entry in entries if entry.seq <= checkpoint.size)
    records = sorted(covered, key=lambda entry: entry.seq)
    if not records:
        raise AuditNotFoundError("there is no record to export under a checkpoint")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        bundle = _Bundle(archive)
        _add_records(bundle, log, records, checkpoint)
        _add_context(bundle, log, records, checkpoint)
        bundle.close()
    return len(records)


class _Bundle:
    """Archive of files, with their digests at the end."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.sums: list[str] = []

    def add(self, name: str, data: bytes | str) -> None:
        raw = data.encode("utf-8") if isinstance(data, str) else data
        self.sums.append(f"{sha256(raw).hexdigest()}  {name}\n")
        self._write(name, raw)

    def close(self) -> None:
        self._write("SHA256SUMS", "".join(self.sums).encode())

    def _write(self, name: str, raw: bytes) -> None:
        info = zipfile.ZipInfo(name, _FIXED)
        info.compress_type = zipfile.ZIP_DEFLATED
        # A zip keeps Unix permissions in the upper 16 bits.
        info.external_attr = 0o644 << 16
        self.archive.writestr(info, raw)


def _add_records(
    bundle: _Bundle, log: AuditLog, records: list[Entry], checkpoint: Checkpoint
) -> None:
    bundle.add("records.jsonl", b"".join(entry.data + b"\n" for entry in records))
    with closing(log.reader.connect()) as connection:
        for entry in records:
            proof = prove_record(connection, entry.seq, checkpoint)
            bundle.add(f"records/{entry.seq}.json", entry.data)
            bundle.add(f"proofs/{entry.seq}.tlog-proof", str(proof))


def _add_context(
    bundle: _Bundle, log: AuditLog, records: list[Entry], checkpoint: Checkpoint
) -> None:
    bundle.add("checkpoint.txt", str(checkpoint))
    with closing(log.reader.connect()) as connection:
        key = check_signature(connection, checkpoint)
    bundle.add("PUBLIC_KEY.txt", f"{key}\n")
    for name, body in _policies(log, records).items():
        bundle.add(f"policies/{name}.json", body)
    bundle.add("schema.json", json.dumps(json_schema(), indent=1, sort_keys=True))
    verifier = files("sarguard.audit.proof").joinpath("standalone_verifier.py")
    bundle.add("verify.py", verifier.read_bytes())
    bundle.add(
        "README.txt",
        README.format(
            count=len(records),
            size=checkpoint.size,
            origin=checkpoint.origin,
            example=records[0].seq,
            not_proven="\n".join(f"  - {text}" for text in NEVER_PROVEN),
        ),
    )


def _policies(log: AuditLog, records: list[Entry]) -> dict[str, str]:
    """Return the bodies of the policies that records name, by digest."""
    named = [entry.values.get("policy") for entry in records]
    wanted = {policy["digest"] for policy in named if policy}
    found: dict[str, str] = {}
    for kind in ("policy_loaded", "policy_changed"):
        for entry in log.search(Query(kind=kind), limit=None):
            record = entry.values
            digest = record["policy"]["digest"]
            if digest in wanted and record.get("body"):
                found[digest.replace(":", "-").replace("/", "-")] = record["body"]
    return found
