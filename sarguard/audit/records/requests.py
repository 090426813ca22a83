"""The two records of a request: one before its first token, one at its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from sarguard.audit.records.events import AudioReleased, Reviewed
from sarguard.audit.records.fields import (
    AppliedDose,
    CheckVerdict,
    Code,
    Content,
    Count,
    Durations,
    FallbackRef,
    FaultRef,
    Header,
    InputDescription,
    ModelRef,
    Name,
    Number,
    OutputDescription,
    PolicyRef,
    Pseudonym,
    Score,
    SteeringReceipt,
    SteeringRef,
    TokenCounts,
)
from sarguard.types import Outcome

AuditId = Annotated[str, StringConstraints(pattern=r"^req_[0-9A-Z]{26}$")]
"""The name of a request, made by the ledger."""


class RequestRecord(Header):
    """What both records of a request share, so that each can be found alone."""

    audit_id: AuditId
    tenant: Name | None = None
    session: Pseudonym | None = None
    """HMAC of the caller's session."""
    actor: Pseudonym | None = None
    """HMAC of the person or agent who asked."""
    mark_key: Name | None = None
    """The key under which this record's HMACs were made."""
    policy: PolicyRef | None = None
    """None only where a request fails before its policy is known."""
    trace_id: Name | None = None
    """Trace that the request belongs to: 32 hexadecimal digits in W3C trace context."""
    span_id: Name | None = None
    """Span of that trace that the request came from: 16 hexadecimal digits."""


class RequestStarted(RequestRecord):
    """Record that a request came in; it is written before the first token."""

    kind: Literal["request_started"] = "request_started"
    entry: Code
    """The way in: `generate`, `stream`, `batch`, `agenerate`, `astream`, `cli` ..."""
    request_id: Name | None = None
    """The caller's own name for the request."""
    parent: Name | None = None
    locale: Name | None = None
    model: ModelRef | None = None
    steering: SteeringRef | None = None
    input: InputDescription | None = None
    content: tuple[Content, ...] = ()


class RequestFinished(RequestRecord):
    """Record of how a request ended; no answer leaves without it."""

    kind: Literal["request_finished"] = "request_finished"
    outcome: Outcome
    reason: Code | None = None
    """Why: `limit`, `score` or `check` (`transcript_check` in older ledgers) for what
    was blocked, `kept_verdict` for what was asked again in its session, `would_block`
    and `shadow_bare` in shadow mode, `cut_short` where an answer ended before it could
    be told from a refusal, `fault`."""
    rule: Name | None = None
    checks: tuple[CheckVerdict, ...] = ()
    """Not written where it is empty."""
    temperature: Number = 0.0
    """The temperature that the answer was sampled at; not written where it is 0."""
    greedy_tokens: Count = 0
    """Tokens at the beginning of a sampled answer that were chosen greedily; not
    written where it is 0."""
    reading: Code | None = None
    """What of the request scored highest, such as `clip`, `text` or `window`; not
    written where nothing was scored."""
    left_out: Count = 0
    """Turns of the history that the model was not given, as they were not answered.
    Not written where it is 0."""
    trimmed: Count = 0
    """Turns of the history that the model was not given, as it was too long. Not
    written where it is 0."""
    scores: tuple[Score, ...] = ()
    dose: AppliedDose | None = None
    receipt: SteeringReceipt | None = None
    output: OutputDescription | None = None
    said_before: OutputDescription | None = None
    """What had gone out in pieces before the output took its place, as after a fault in
    mid-answer; not written where that was nothing."""
    usage: TokenCounts | None = None
    timings: Durations | None = None
    fallback: FallbackRef | None = None
    fault: FaultRef | None = None
    content: tuple[Content, ...] = ()


SINCE_VERSION_2: dict[type[Header], tuple[str, ...]] = {
    RequestFinished: (
        *("checks", "greedy_tokens", "left_out", "reading", "said_before"),
        *("span_id", "temperature", "trace_id", "trimmed"),
    ),
    Reviewed: ("actor",),
}
"""Fields that version 1 of the schema does not know, by record."""

KINDS_SINCE_VERSION_2: frozenset[type[Header]] = frozenset({AudioReleased})
"""Records that version 1 of the schema does not know."""
