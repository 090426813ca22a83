"""Records as CloudEvents 1.0 in JSON, for queues and webhooks."""

from __future__ import annotations

from typing import Any

from sarguard.audit.exports.opentelemetry import trace_context
from sarguard.audit.storage.query import Entry

SPEC_VERSION = "1.0"


def cloud_event(entry: Entry) -> dict[str, Any]:
    """Return a record as a CloudEvent; its id is unique within its source."""
    record = entry.values
    event = {
        "specversion": SPEC_VERSION,
        "id": f"{record['log']}-{entry.seq}",
        "source": f"urn:sarguard:{record['log']}",
        "type": f"dev.sarguard.audit.{record['kind']}.v{record['schema_version']}",
        "time": record["time"],
        "datacontenttype": "application/json",
        "data": record,
        # Names of extensions are lower-case letters and digits, at most twenty.
        "sarguardseq": entry.seq,
        "sarguardleaf": entry.leaf,
    }
    if "audit_id" in record:
        event["subject"] = record["audit_id"]
    trace_id, span_id = trace_context(record)
    if trace_id and span_id:
        # W3C trace context: its version, the ids, and the flag for a sampled trace.
        event["traceparent"] = f"00-{trace_id}-{span_id}-01"
    return event
