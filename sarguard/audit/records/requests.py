"""The two records of a request: one before its first token, one at its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from sarguard.audit.records.fields import (
    Code,
    Content,
    Dose,
    FallbackFact,
    FaultFact,
    InputFact,
    Mark,
    ModelRef,
    Name,
    OutputFact,
    PolicyRef,
    Score,
    SteeringReceipt,
    SteeringRef,
    TimingsFact,
    UsageFact,
)
from sarguard.audit.records.header import Header
from sarguard.types import Outcome

AuditId = Annotated[str, StringConstraints(pattern=r"^req_[0-9A-Z]{26}$")]
"""The name of a request, made by the ledger."""


class RequestRecord(Header):
    """Hold what both records of a request share, so that each is found alone."""

    audit_id: AuditId
    tenant: Name | None = None
    session: Mark | None = None
    """HMAC of the caller's session."""
    actor: Mark | None = None
    """HMAC of the person or agent who asked."""
    mark_key: Name | None = None
    """The key under which this record's HMACs were made."""
    policy: PolicyRef | None = None
    """None only where a request fails before its policy is known."""


class RequestStarted(RequestRecord):
    """Record that a request came in; it stands before the first token."""

    kind: Literal["request_started"] = "request_started"
    entry: Code
    """The way in: `generate`, `stream`, `batch`, `agenerate`, `astream`, `cli` ..."""
    request_id: Name | None = None
    """The caller's own name for the request."""
    parent: Name | None = None
    trace_id: Name | None = None
    span_id: Name | None = None
    locale: Name | None = None
    model: ModelRef | None = None
    steering: SteeringRef | None = None
    input: InputFact | None = None
    content: tuple[Content, ...] = ()


class RequestFinished(RequestRecord):
    """Record how a request ended; no answer leaves without it."""

    kind: Literal["request_finished"] = "request_finished"
    outcome: Outcome
    reason: Code | None = None
    rule: Name | None = None
    scores: tuple[Score, ...] = ()
    dose: Dose | None = None
    receipt: SteeringReceipt | None = None
    output: OutputFact | None = None
    usage: UsageFact | None = None
    timings: TimingsFact | None = None
    fallback: FallbackFact | None = None
    fault: FaultFact | None = None
    content: tuple[Content, ...] = ()
