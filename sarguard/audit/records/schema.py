"""The closed, versioned set of records, and the exact bytes they are hashed as.

A record's bytes are made once, hashed, stored and never made again: a verifier
checks the stored bytes. They are JSON in UTF-8 with sorted keys and no spaces; values
that are missing are not written.

A field that is added belongs to a new version of the schema. Records without it keep
the old version, and so their bytes; a reader of the old version refuses the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args

from pydantic import Field, TypeAdapter, ValidationError

from sarguard.audit.records import events, requests
from sarguard.audit.records.fields import SCHEMA_VERSION, Header
from sarguard.audit.records.ids import time_us
from sarguard.audit.records.requests import (
    KINDS_SINCE_VERSION_2,
    SINCE_VERSION_2,
    RequestFinished,
    RequestStarted,
)
from sarguard.errors import AuditRecordError

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
    events.AudioReleased,
]

Record = Annotated[
    requests.RequestStarted | requests.RequestFinished | Event,
    Field(discriminator="kind"),
]
"""Any record; `kind` tells which."""


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
    version = _version_of(model, fields)
    try:
        return model.model_validate({**fields, "schema_version": version})
    except ValidationError as error:
        raise AuditRecordError(f"a {kind} record {_explain(error)}") from error


def canonical(record: Header) -> bytes:
    """Return the bytes that a record is stored and hashed as.

    Raises:
        AuditRecordError: if they exceed `MAX_BYTES`.
    """
    values = record.model_dump(mode="json", exclude_none=True)
    for name in SINCE_VERSION_2.get(type(record), ()):
        # An empty list is written of the fields of version 1 alone.
        if not values.get(name):
            values.pop(name, None)
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
    version = _version_of(type(record), record.__dict__)
    if record.schema_version != version:
        raise AuditRecordError(
            f"a stored record calls itself version {record.schema_version} of the "
            f"schema, its fields are those of version {version}: it was changed"
        )
    return record


def _version_of(model: type[Header], fields: Mapping[str, object]) -> int:
    """Return the lowest version of the schema that knows a record's fields."""
    if model in KINDS_SINCE_VERSION_2:
        return SCHEMA_VERSION
    for name in SINCE_VERSION_2.get(model, ()):
        if fields.get(name):
            return SCHEMA_VERSION
    return 1


Columns = tuple[str, int, str | None, str | None, str | None, str | None]
"""Indexed values of a record: kind, time, request, tenant, policy and outcome."""


def columns(record: Header) -> Columns:
    """Return the indexed values of a record, as the ledger's table holds them.

    Raises:
        ValueError: if its time is one that no clock shows, such as 31 February.
    """
    # Read past pydantic's attribute lookup: verifying does this a million times.
    values = record.__dict__
    policy, outcome = values.get("policy"), values.get("outcome")
    return (
        values["kind"],
        time_us(values["time"]),
        values.get("audit_id"),
        values.get("tenant"),
        None if policy is None else policy.id,
        None if outcome is None else outcome.value,
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record, for exports and other languages."""
    return _ADAPTER.json_schema()


def _explain(error: ValidationError) -> str:
    """Name the first wrong fields, never their values: they may hold content."""
    errors = error.errors(include_input=False, include_url=False)
    named = [
        f"{'.'.join(map(str, each['loc'])) or 'as a whole'}: {each['type']}"
        for each in errors[:3]
    ]
    return f"does not fit the schema ({'; '.join(named)})"
