"""Let operational log lines name the ledger's record, so that the two can be joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.contextvars import bound_contextvars

from sarguard.audit.storage.recorder import Receipt


@contextmanager
def joined(receipt: Receipt) -> Iterator[None]:
    """Give every structlog line inside the block the record's number and request.

    They appear as `audit_seq` and `audit_id` wherever the application's processors
    hold `structlog.contextvars.merge_contextvars`, as structlog's own defaults do.
    Nothing is configured here.
    """
    names = {"audit_seq": receipt.seq, "audit_id": receipt.audit_id}
    given = {name: value for name, value in names.items() if value is not None}
    with bound_contextvars(**given):
        yield
