"""A bounded file for records that the ledger cannot take now, flushed to disk.

The file holds a line for each record: its kind and its fields. Its first line names
it, so that a crash between writing the records and emptying the file does not write
them twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sarguard.audit.records.fields import Header
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.records.schema import build
from sarguard.audit.storage.appender import PLACEHOLDER_HEADER
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import AuditRecordError, AuditWriteError


@dataclass(frozen=True, slots=True)
class SpoolContents:
    """Contents of a spool file: its name, its records, and a torn last line."""

    name: str
    records: tuple[Header, ...]
    torn: bytes = b""


class Spool:
    """File of records that wait for the ledger; each comes back once.

    Args:
        path: the file; best on another volume than the ledger.
        limit: how many records it may hold.
        timeout: seconds to wait for another process that is using it.
    """

    def __init__(self, path: Path, *, limit: int, timeout: float) -> None:
        self.path = path
        self.limit = limit
        self._lock = FileLock(f"{path}.lock", timeout=timeout)

    def add(self, records: Sequence[Header]) -> None:
        """Append records, durably.

        Raises:
            AuditWriteError: if the spool is full or cannot be written either.
        """
        try:
            with self._lock:
                count = self._count()
                if count + len(records) > self.limit:
                    raise AuditWriteError(
                        f"the spool {self.path} holds {count} of {self.limit} records: "
                        "the ledger has been unwritable for too long"
                    )
                self._append(records)
        except Timeout as error:
            raise AuditWriteError(f"the spool {self.path} is in use") from error
        except AuditWriteError:
            raise
        except OSError as error:
            raise write_error(error, f"the spool {self.path}") from error

    def has_records(self) -> bool:
        """Return whether any record waits."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    def lock(self) -> FileLock:
        """Return the lock to hold from reading the file until it is emptied."""
        return self._lock

    def read(self) -> SpoolContents:
        """Return what waits; the lock must be held."""
        data = self.path.read_bytes()
        # A whole line ends with a newline; what follows the last one is torn, or empty.
        *lines, torn = data.split(b"\n")
        if not lines:
            return SpoolContents("", (), torn)
        name = json.loads(lines[0])["spool"]
        records = []
        for place, line in enumerate(lines[1:], 2):
            records.append(_from_line(line, f"{self.path}, line {place}"))
        return SpoolContents(name, tuple(records), torn)

    def empty(self) -> None:
        """Remove the file; the lock must be held."""
        self.path.unlink()

    def _count(self) -> int:
        if not self.has_records():
            return 0
        # Less the first line, which names the spool.
        return max(self.path.read_bytes().count(b"\n") - 1, 0)

    def _append(self, records: Sequence[Header]) -> None:
        lines = [] if self.has_records() else [json.dumps({"spool": new_name("spool")})]
        lines.extend(_to_line(record) for record in records)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        # For its owner only, as the ledger is: it holds the same records.
        handle = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(handle).st_size
            data = "".join(f"{line}\n" for line in lines).encode()
            try:
                if os.write(handle, data) != len(data):
                    raise OSError(f"{self.path} took a part of a record only")
                os.fsync(handle)
            except OSError:
                # A part of a line would make the next record unreadable too.
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def _to_line(record: Header) -> str:
    fields = record.model_dump(
        mode="json", exclude_none=True, exclude=set(PLACEHOLDER_HEADER)
    )
    fields["spooled"] = fields.get("spooled") or time_text(now_us())
    text = json.dumps(fields, sort_keys=True)
    # The hash finds what was changed by accident; the chain begins in the ledger only.
    return json.dumps({"record": text, "sha256": sha256(text.encode()).hexdigest()})


def _from_line(line: bytes, where: str) -> Header:
    stored: dict[str, Any] = json.loads(line)
    text = str(stored["record"])
    if sha256(text.encode()).hexdigest() != stored["sha256"]:
        raise AuditRecordError(f"{where} was changed: it does not fit its hash")
    fields = json.loads(text)
    return build(fields.pop("kind"), {**fields, **PLACEHOLDER_HEADER})
