"""What every record begins with: its place in the chain, its time, its writer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sarguard.audit.records.fields import Count, Fact, Hash, Moment, Writer

SCHEMA_VERSION = 1
"""The version of the record schema that this code writes and reads."""

NO_RECORD = "0" * 64
"""What the first record names as the one before it."""

LogId = Annotated[str, StringConstraints(pattern=r"^log_[0-9A-Z]{26}$")]
"""The name of a ledger; it ties a record to the one ledger it was written to."""


class Header(Fact):
    """Hold a record's place, time and writer; the ledger fills it in."""

    kind: str

    schema_version: Literal[1] = 1
    log: LogId
    seq: Annotated[int, Field(ge=1)]
    """The record's number, from 1; its leaf in the Merkle tree is `seq - 1`."""
    time: Moment
    """The wall clock when the record was written."""
    mono_ns: Count
    """The writer's monotonic clock; comparable within one writer only."""
    writer: Writer
    prev: Hash
    """The leaf hash of the record before this one."""
    spooled: Moment | None = None
    """When the record was made, if it had to wait because the ledger was not
    writable."""
