"""Finished requests as spans of OpenTelemetry's GenAI conventions.

The conventions are still in development, and there are none for guards: what they do
not name is under `sarguard.`. The result is OTLP in JSON, one request a
line, as a collector's file receiver reads it; no content is ever in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

from sarguard.audit.records.ids import time_us
from sarguard.audit.storage.query import Entry

_FINISH = {"stop": "stop", "length": "length", "error": "error"}
_FINISH_BY_OUTCOME = {
    "blocked": "content_filter",
    "over_limit": "error",
    "error_closed": "error",
}
_ERRORS = {"error_closed", "error_open", "timeout", "cancelled"}
# A SpanKind and two StatusCodes of OTLP.
_INTERNAL, _OK, _ERROR = 1, 1, 2
_TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile("(?!0{16})[0-9a-f]{16}")


def spans(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """Yield an OTLP document for each finished request, in the order given."""
    started: dict[str, dict[str, Any]] = {}
    for entry in entries:
        record = entry.values
        if record["kind"] == "request_started":
            started[record["audit_id"]] = record
        elif record["kind"] == "request_finished":
            start = started.pop(record["audit_id"], {})
            yield _document(span(start, record, entry.seq))


def span(start: dict[str, Any], end: dict[str, Any], seq: int) -> dict[str, Any]:
    """Return one request's span.

    Args:
        start: its first record; empty where that is not at hand.
        end: its last record.
        seq: the last record's number.
    """
    ended = time_us(end["time"])
    seconds = end.get("timings", {}).get("total_s", 0)
    began = time_us(start["time"]) if start else ended - int(seconds * 1_000_000)
    # Without a trace of its own a request gets ids that every export makes the same.
    digest = sha256(end["audit_id"].encode()).hexdigest()
    trace_id, parent_id = trace_context({**start, **end})
    attributes = _attributes(start, end, seq)
    failed = end["outcome"] in _ERRORS
    found = {
        "traceId": trace_id or digest[:32],
        "spanId": digest[32:48],
        "name": f"chat {attributes.get('gen_ai.request.model', 'unknown')}",
        "kind": _INTERNAL,
        "startTimeUnixNano": str(began * 1000),
        "endTimeUnixNano": str(ended * 1000),
        "attributes": [_attribute(k, v) for k, v in attributes.items()],
        "status": {"code": _ERROR if failed else _OK},
    }
    if parent_id:
        found["parentSpanId"] = parent_id
    return found


def trace_context(record: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return a record's trace and span ids, as far as they are W3C trace context.

    A ledger takes any name, but a collector refuses ids that are not hexadecimal or are
    all zeros. Without a trace there is no span of it.
    """
    trace_id, span_id = record.get("trace_id", ""), record.get("span_id", "")
    if not _TRACE_ID.fullmatch(trace_id):
        return None, None
    return trace_id, span_id if _SPAN_ID.fullmatch(span_id) else None


def _attributes(
    start: dict[str, Any], end: dict[str, Any], seq: int
) -> dict[str, object]:
    model, policy = start.get("model", {}), end.get("policy", {})
    usage, receipt = end.get("usage", {}), end.get("receipt", {})
    outcome = end["outcome"]
    found: dict[str, object] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sarguard",
        "gen_ai.request.model": model.get("id"),
        "gen_ai.response.id": end["audit_id"],
        "gen_ai.response.finish_reasons": [_finish(end)],
        "gen_ai.response.time_to_first_chunk": end.get("timings", {}).get(
            "first_token_s"
        ),
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        "gen_ai.request.temperature": end.get("temperature"),
        "gen_ai.usage.audio.input_tokens": usage.get("audio_tokens"),
        "gen_ai.conversation.id": end.get("session"),
        "error.type": _error_type(end) if outcome in _ERRORS else None,
        "sarguard.audit.seq": seq,
        "sarguard.audit.id": end["audit_id"],
        "sarguard.outcome": outcome,
        "sarguard.reason": end.get("reason"),
        "sarguard.tenant": end.get("tenant"),
        "sarguard.policy.id": policy.get("id"),
        "sarguard.policy.version": policy.get("version"),
        "sarguard.policy.digest": policy.get("digest"),
        "sarguard.policy.tier": policy.get("tier"),
        "sarguard.steering.alpha": end.get("dose", {}).get("alpha"),
        "sarguard.steering.positions": receipt.get("steered_positions"),
        "sarguard.steering.attested": receipt.get("attested"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _finish(end: dict[str, Any]) -> str:
    by_outcome = _FINISH_BY_OUTCOME.get(end["outcome"])
    reason = end.get("output", {}).get("finish_reason", "")
    return by_outcome or _FINISH.get(reason, "error" if reason else "stop")


def _error_type(end: dict[str, Any]) -> str:
    return str(end.get("fault", {}).get("type") or end["outcome"])


def _attribute(name: str, value: object) -> dict[str, Any]:
    return {"key": name, "value": _value(value)}


def _value(value: object) -> dict[str, Any]:
    # First, as a bool is an int in Python. OTLP's JSON writes 64-bit integers as text.
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(part) for part in value]}}
    return {"stringValue": str(value)}


def _document(found: dict[str, Any]) -> dict[str, Any]:
    service = [_attribute("service.name", "sarguard")]
    scope = {"scope": {"name": "sarguard.audit"}, "spans": [found]}
    return {
        "resourceSpans": [{"resource": {"attributes": service}, "scopeSpans": [scope]}]
    }
