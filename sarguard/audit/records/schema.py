"""The closed, versioned set of records, and the exact bytes they are hashed as.

A record's bytes are made once, hashed, stored and never made again: a verifier
checks the stored bytes. They are JSON with sorted keys, no spaces, UTF-8 and no
missing values written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import Field, TypeAdapter, ValidationError

from sarguard.audit.records import events, requests
from sarguard.audit.records.header import NO_RECORD, SCHEMA_VERSION, Header
from sarguard.audit.records.ids import time_us
from sarguard.audit.records.requests import RequestFinished, RequestStarted
from sarguard.errors import AuditRecordError

__all__ = [
    "EVENTS",
    "KINDS",
    "MAX_BYTES",
    "NO_RECORD",
    "SCHEMA_VERSION",
    "Header",
    "Record",
    "RequestFinished",
    "RequestStarted",
    "build",
    "canonical",
    "columns",
    "json_schema",
    "parse",
]

MAX_BYTES = 1_000_000
"""The largest record taken, in bytes."""

Event = Union[  # noqa: UP007 - a type alias that pydantic reads at run time
    events.LogOpened,
    events.WriterOpened,
    events.WriterClosed,
    events.LogRecovered,
    events.AuditDegraded,
    events.MirrorFailed,
    events.KeyRotated,
    events.SegmentSealed,
    events.RetentionTombstone,
    events.HoldChanged,
    events.ModelLoaded,
    events.SteeringAttached,
    events.IntegrityFailed,
    events.PolicyLoaded,
    events.PolicyChanged,
    events.PolicyOverridden,
    events.Reviewed,
    events.Accessed,
    events.Exported,
    events.Verified,
    events.ErasureRequested,
    events.Erased,
]

Record = Annotated[
    requests.RequestStarted | requests.RequestFinished | Event,
    Field(discriminator="kind"),
]
"""Any record, told apart by `kind`."""


def _kind_of(model: type[Header]) -> str:
    (kind,) = get_args(model.model_fields["kind"].annotation)
    return str(kind)


EVENTS: dict[str, type[Header]] = {_kind_of(model): model for model in get_args(Event)}
"""Every event by its kind; the keyword arguments of `AuditLog.event` are its fields."""

KINDS: dict[str, type[Header]] = {
    "request_started": RequestStarted,
    "request_finished": RequestFinished,
    **EVENTS,
}
"""Every record by its kind."""

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Record)
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def build(kind: str, fields: Mapping[str, object]) -> Header:
    """Check a record's fields and build it.

    Raises:
        AuditRecordError: if the kind or a field is unknown, or a value is not one
            that the schema takes.
    """
    model = KINDS.get(kind)
    if model is None:
        raise AuditRecordError(
            f"unknown record kind {kind!r}: use one of {', '.join(KINDS)}"
        )
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise AuditRecordError(f"a {kind} record {_explain(error)}") from error


def canonical(record: Header) -> bytes:
    """Return the bytes that a record is stored and hashed as.

    Raises:
        AuditRecordError: if they exceed `MAX_BYTES`.
    """
    values = record.model_dump(mode="json", exclude_none=True)
    data = _ENCODER.encode(values).encode("utf-8")
    if len(data) > MAX_BYTES:
        raise AuditRecordError(
            f"a record of {len(data):,} bytes exceeds {MAX_BYTES:,}: log less content"
        )
    return data


def parse(data: bytes) -> Header:
    """Read a stored record; unknown kinds, fields and versions are errors.

    Raises:
        AuditRecordError: if the bytes are not a record of this schema.
    """
    try:
        record: Header = _ADAPTER.validate_json(data)
    except ValidationError as error:
        raise AuditRecordError(f"a stored record {_explain(error)}") from error
    return record


Columns = tuple[str, int, str | None, str | None, str | None, str | None]
"""Kind, time, request, tenant, policy and outcome: what a record is found by."""


def columns(record: Header) -> Columns:
    """Return what a record is found by, as the ledger's table holds it.

    Raises:
        ValueError: if its time is one that no clock shows, such as 31 February.
    """
    # Read without asking the class: verifying does this for a million records.
    held = record.__dict__
    policy, outcome = held.get("policy"), held.get("outcome")
    return (
        held["kind"],
        time_us(held["time"]),
        held.get("audit_id"),
        held.get("tenant"),
        None if policy is None else policy.id,
        None if outcome is None else outcome.value,
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record, for exports and other languages."""
    return _ADAPTER.json_schema()


def _explain(error: ValidationError) -> str:
    """Name the first fields at fault, never their values: they may hold content."""
    faults = error.errors(include_input=False, include_url=False)
    told = [
        f"{'.'.join(map(str, fault['loc'])) or 'as a whole'}: {fault['type']}"
        for fault in faults[:3]
    ]
    return f"does not fit the schema ({'; '.join(told)})"


State = Literal["recorded", "spooled", "unrecorded"]
"""What became of a record that was handed to the ledger."""
