"""Records as OCSF events, for security monitoring.

A finished request is an API Activity (class 6003) with the profiles
`security_control` and `ai_operation`, the latter of a version of the schema that is
still in development. A steering fault is a Detection Finding (2004). Other records
have no counterpart and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sarguard.audit.records.ids import time_us
from sarguard.audit.storage.query import Entry

VERSION = "1.9.0-dev"

# The numbers are those of OCSF's action_id, disposition_id and status_id.
_ACTIONS = {  # outcome: action, disposition, status
    "answered": (1, 1, 1),
    "refused": (4, 11, 1),
    "blocked": (2, 2, 1),
    "over_limit": (2, 2, 1),
    "error_closed": (2, 27, 2),
    "error_open": (1, 27, 2),
    "cancelled": (3, 17, 2),
    "timeout": (2, 27, 2),
}
_ACTION_NAMES = {1: "Allowed", 2: "Denied", 3: "Observed", 4: "Modified"}
_DISPOSITIONS = {1: "Allowed", 2: "Blocked", 11: "Corrected", 17: "Logged", 27: "Error"}
_STATUS = {1: "Success", 2: "Failure"}


def events(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """Yield an event for each record that has a counterpart."""
    started: dict[str, dict[str, Any]] = {}
    for entry in entries:
        record = entry.values
        if record["kind"] == "request_started":
            started[record["audit_id"]] = record
        elif record["kind"] == "request_finished":
            start = started.pop(record["audit_id"], {})
            yield _activity(start, record, entry)
        elif record["kind"] == "integrity_failed":
            yield _finding(record, entry)


def _activity(
    start: dict[str, Any], end: dict[str, Any], entry: Entry
) -> dict[str, Any]:
    action, disposition, status = _ACTIONS[end["outcome"]]
    event: dict[str, Any] = {
        **_base(6003, 6, "API Activity", 99, end, entry),
        "activity_name": "Inference",
        "action_id": action,
        "action": _ACTION_NAMES[action],
        "disposition_id": disposition,
        "disposition": _DISPOSITIONS[disposition],
        "status_id": status,
        "status": _STATUS[status],
        "api": {"operation": start.get("entry", "generate")},
        "actor": {"user": {"uid": end.get("actor") or end.get("session") or "unknown"}},
        "src_endpoint": {"name": "unknown"},
        "ai_model": _model(start),
        "message_context": _context(end),
        "unmapped": _unmapped(end, entry),
    }
    if "timings" in end and "total_s" in end["timings"]:
        event["duration"] = round(end["timings"]["total_s"] * 1000)
    return event


def _finding(record: dict[str, Any], entry: Entry) -> dict[str, Any]:
    found = {"title": f"Steering fault: {record['what']}"}
    found["uid"] = f"{record['log']}-{entry.seq}"
    return {
        **_base(2004, 2, "Detection Finding", 1, record, entry),
        "activity_name": "Create",
        "severity_id": 4,
        "severity": "High",
        "finding_info": found,
        "unmapped": _unmapped(record, entry),
    }


def _base(
    class_uid: int,
    category: int,
    name: str,
    activity: int,
    record: dict[str, Any],
    entry: Entry,
) -> dict[str, Any]:
    profiles = ["security_control", "ai_operation"] if class_uid == 6003 else []
    return {
        "class_uid": class_uid,
        "class_name": name,
        "category_uid": category,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": 1,
        "severity": "Informational",
        "time": time_us(record["time"]) // 1000,
        "metadata": {
            "version": VERSION,
            "product": {"name": "sarguard", "vendor_name": "sarguard"},
            "profiles": profiles,
            "uid": f"{record['log']}-{entry.seq}",
            "sequence": entry.seq,
        },
    }


def _model(start: dict[str, Any]) -> dict[str, Any]:
    model = start.get("model", {})
    found = {
        "ai_provider": "sarguard",
        "name": model.get("id", "unknown"),
        "version": model.get("revision"),
        "uid": model.get("weights_digest"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _context(end: dict[str, Any]) -> dict[str, Any]:
    usage = end.get("usage", {})
    found = {
        "uid": end["audit_id"],
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("output_tokens"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _unmapped(record: dict[str, Any], entry: Entry) -> dict[str, Any]:
    policy = record.get("policy", {})
    found = {
        "outcome": record.get("outcome"),
        "reason": record.get("reason"),
        "tenant": record.get("tenant"),
        "policy_id": policy.get("id"),
        "policy_digest": policy.get("digest"),
        "leaf_hash": entry.leaf,
    }
    return {name: value for name, value in found.items() if value is not None}
