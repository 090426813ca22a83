"""A record as one flat row, with the same columns for every kind."""

from __future__ import annotations

from typing import Any, TypeAlias

from sarguard.audit.storage.query import Entry

Cell: TypeAlias = "str | int | float | bool | None"

COLUMNS: dict[str, tuple[str, type]] = {
    "seq": ("seq", int),
    "time": ("time", str),
    "kind": ("kind", str),
    "audit_id": ("audit_id", str),
    "tenant": ("tenant", str),
    "outcome": ("outcome", str),
    "reason": ("reason", str),
    "rule": ("rule", str),
    "gate_score": ("scores.gate.value", float),
    "gate_threshold": ("scores.gate.threshold", float),
    "entry": ("entry", str),
    "policy": ("policy.id", str),
    "policy_version": ("policy.version", str),
    "policy_digest": ("policy.digest", str),
    "tier": ("policy.tier", str),
    "mode": ("policy.mode", str),
    "model": ("model.id", str),
    "model_revision": ("model.revision", str),
    "alpha": ("dose.alpha", float),
    "steered_positions": ("receipt.steered_positions", int),
    "expected_positions": ("receipt.expected_positions", int),
    "attested": ("receipt.attested", bool),
    "refusal": ("output.refusal", bool),
    "prompt_tokens": ("usage.prompt_tokens", int),
    "audio_tokens": ("usage.audio_tokens", int),
    "output_tokens": ("usage.output_tokens", int),
    "temperature": ("temperature", float),
    "greedy_tokens": ("greedy_tokens", int),
    "reading": ("reading", str),
    "left_out": ("left_out", int),
    "trimmed": ("trimmed", int),
    "first_token_s": ("timings.first_token_s", float),
    "total_s": ("timings.total_s", float),
    "fallback": ("fallback.reason", str),
    "fault": ("fault.type", str),
    "session_mark": ("session", str),
    "actor_mark": ("actor", str),
    "request_id": ("request_id", str),
    "trace_id": ("trace_id", str),
    "label": ("label", str),
    "reviewer": ("reviewer", str),
    "note": ("note", str),
    "leaf_hash": ("", str),
    "record": ("", str),
}
"""Each column, where a record holds it, and its type; `record` is the whole of it.

What is in a list is found by its name.
"""


def row(entry: Entry) -> dict[str, Cell]:
    """Return a record's row; what it does not hold is None."""
    record = entry.values
    found: dict[str, Cell] = {
        name: _find(record, path) for name, (path, _) in COLUMNS.items() if path
    }
    # A judgement is about a request, and shares the column that rows are joined by.
    found["audit_id"] = found["audit_id"] or _find(record, "request")
    found["leaf_hash"] = entry.leaf
    found["record"] = entry.data.decode("utf-8")
    return found


def _find(record: dict[str, Any], path: str) -> Cell:
    value: Any = record
    for part in path.split("."):
        if isinstance(value, list):
            value = {each.get("name"): each for each in value if isinstance(each, dict)}
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value if isinstance(value, (str, int, float, bool)) else None
