"""Keep records that the ledger could not take, until it can: bounded, fsynced.

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

from sarguard.audit.records.header import Header
from sarguard.audit.records.ids import new_name, now_us, time_text
from sarguard.audit.records.schema import build
from sarguard.audit.storage.write_errors import write_error
from sarguard.errors import AuditRecordError, AuditWriteError


@dataclass(frozen=True, slots=True)
class Waiting:
    """Hold what a spool file holds: its name, its records, and what was torn."""

    name: str
    records: tuple[Header, ...]
    torn: bytes = b""


class Spool:
    """Append records to a file, and give them back once.

    Args:
        path: the file; best on another volume than the ledger.
        limit: the most records it may hold.
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
                held = self._count()
                if held + len(records) > self.limit:
                    raise AuditWriteError(
                        f"the spool {self.path} holds {held} of {self.limit} records: "
                        "the ledger has been unwritable for too long"
                    )
                self._append(records)
        except Timeout as error:
            raise AuditWriteError(f"the spool {self.path} is in use") from error
        except AuditWriteError:
            raise
        except OSError as error:
            raise write_error(error, f"the spool {self.path}") from error

    def waits(self) -> bool:
        """Tell whether there is anything to take."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    def lock(self) -> FileLock:
        """Return the lock that holds the file still from reading to emptying it."""
        return self._lock

    def read(self) -> Waiting:
        """Return what waits; the lock must be held."""
        data = self.path.read_bytes()
        *lines, torn = data.split(b"\n")
        if not lines:
            return Waiting("", (), torn)
        name = json.loads(lines[0])["spool"]
        records = []
        for place, line in enumerate(lines[1:], 2):
            records.append(_thaw(line, f"{self.path}, line {place}"))
        return Waiting(name, tuple(records), torn)

    def empty(self) -> None:
        """Remove the file; the lock must be held."""
        self.path.unlink()

    def _count(self) -> int:
        if not self.waits():
            return 0
        return max(self.path.read_bytes().count(b"\n") - 1, 0)

    def _append(self, records: Sequence[Header]) -> None:
        lines = [] if self.waits() else [json.dumps({"spool": new_name("spool")})]
        lines.extend(_freeze(record) for record in records)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        handle = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(handle).st_size
            data = "".join(f"{line}\n" for line in lines).encode()
            try:
                if os.write(handle, data) != len(data):
                    raise OSError(f"{self.path} took a part of a record only")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


_PLACE = {"log", "seq", "time", "mono_ns", "writer", "prev"}


def _freeze(record: Header) -> str:
    fields = record.model_dump(mode="json", exclude_none=True, exclude=_PLACE)
    fields["spooled"] = fields.get("spooled") or time_text(now_us())
    text = json.dumps(fields, sort_keys=True)
    return json.dumps({"record": text, "sha256": sha256(text.encode()).hexdigest()})


def _thaw(line: bytes, where: str) -> Header:
    from sarguard.audit.storage.appender import BLANK

    held: dict[str, Any] = json.loads(line)
    text = str(held["record"])
    if sha256(text.encode()).hexdigest() != held["sha256"]:
        raise AuditRecordError(f"{where} was changed: it does not fit its hash")
    fields = json.loads(text)
    return build(fields.pop("kind"), {**fields, **BLANK})
