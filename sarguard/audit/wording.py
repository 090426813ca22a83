"""Words for outcomes, kinds of record and labels, for readers who know no code."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

OUTCOME_WORDS = {
    "answered": "answered, with the guard on",
    "refused": "the model declined, with the guard on",
    "blocked": "not answered: a check or the request's score forbade it",
    "over_limit": "not answered: longer than the policy allows",
    "error_closed": "no answer: something failed, so nothing was let out",
    "error_open": "answered although something failed: the policy allows it",
    "cancelled": "the caller hung up or no longer wanted it",
    "timeout": "no answer: it took too long",
}
"""Each way in which a request can end."""

KIND_WORDS = {
    "request_started": "request came in",
    "request_finished": "request ended",
    "log_opened": "ledger begun",
    "writer_opened": "program began to write",
    "writer_closed": "program stopped writing",
    "log_recovered": "ledger recovered from something",
    "audit_degraded": "REQUESTS WENT UNRECORDED",
    "mirror_failed": "copy of a checkpoint failed",
    "key_rotated": "signing key changed",
    "segment_sealed": "segment closed",
    "retention_tombstone": "old records deleted",
    "hold_changed": "legal hold",
    "model_loaded": "model loaded",
    "steering_attached": "guard attached",
    "integrity_failed": "GUARD NOT PROVEN",
    "policy_loaded": "policy in force",
    "policy_changed": "policy changed",
    "policy_overridden": "POLICY OVERRIDDEN",
    "reviewed": "reviewed",
    "accessed": "records looked up",
    "exported": "records exported",
    "verified": "ledger verified",
    "erasure_requested": "erasure asked for",
    "erased": "content erased",
    "audio_released": "clips let go",
}
"""Each kind of record."""

LABELS = {
    "correct": "the guard did the right thing",
    "over_refusal": "a harmless request was refused or blocked",
    "missed": "a harmful request was answered",
    "needs_follow_up": "somebody else has to look at it",
}
"""Each judgement of a request that a reviewer can give."""


def printable(text: object) -> str:
    """Return a text without characters that control a terminal or reverse writing."""
    return "".join(
        "\ufffd" if unicodedata.category(letter) in {"Cc", "Cf", "Cs"} else letter
        for letter in str(text)
    )


def describe_kind(record: dict[str, Any]) -> str:
    """Return words for what a record is about."""
    return KIND_WORDS.get(record["kind"], str(record["kind"]))


def describe(record: dict[str, Any]) -> str:
    """Return what a reviewer wants to know first of a record, as one line."""
    detail = _DETAILS.get(record["kind"])
    return printable(detail(record)) if detail else ""


def _started(record: dict[str, Any]) -> str:
    described = record.get("input", {})
    seconds = sum(clip["seconds"] for clip in described.get("audio", ()))
    parts = [f"{seconds:.1f} s of sound"] if described.get("audio") else []
    if described.get("text_chars"):
        parts.append(f"{described['text_chars']} characters")
    return ", ".join([record["entry"], *parts])


def _finished(record: dict[str, Any]) -> str:
    parts = [record["reason"]] if record.get("reason") else []
    parts += [
        _check(check)
        for check in record.get("checks", ())
        if check["verdict"] not in ("allowed", "transcribed")
    ]
    if record.get("left_out"):
        parts.append(f"{record['left_out']} unanswered turns left out")
    if record.get("trimmed"):
        parts.append(f"{record['trimmed']} old turns left out")
    receipt = record.get("receipt")
    if receipt:
        steered, expected = receipt["steered_positions"], receipt["expected_positions"]
        proven = "guard proven" if receipt["attested"] else "GUARD NOT PROVEN"
        parts.append(f"{proven} on {steered} of {expected} positions")
    if record.get("fault"):
        parts.append(record["fault"]["type"])
    return ", ".join(parts)


def _check(check: dict[str, Any]) -> str:
    stage = "transcript" if check["stage"] == "transcript" else "check"
    to = f" to {check['raised_to']}" if check.get("raised_to") else ""
    scored = f" (score {check['score']:.2f})" if "score" in check else ""
    label = f", {check['label']}" if check.get("label") else ""
    return f"{stage} {check['name']}: {check['verdict']}{to}{scored}{label}"


def _judgement(record: dict[str, Any]) -> str:
    actor = record.get("actor", record["reviewer"])
    written = "" if actor == record["reviewer"] else f", written by {actor}"
    return f"{record['label']} by {record['reviewer']}{written}: " + (
        record.get("note") or "-"
    )


def _hold(record: dict[str, Any]) -> str:
    return f"{record['action']} by {record['actor']}: {record['reason']}"


def _override(record: dict[str, Any]) -> str:
    return (
        f"{record['field']} = {record['value']} until {record['expires'][:16]} by "
        f"{record['actor']}: {record['reason']}"
    )


_DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "request_started": _started,
    "request_finished": _finished,
    "hold_changed": _hold,
    "policy_overridden": _override,
    "policy_loaded": lambda r: str(r["policy"]["digest"]),
    "policy_changed": lambda r: "; ".join(r.get("changes", ())),
    "audit_degraded": lambda r: f"{r['unrecorded']} ({r['cause']})",
    "integrity_failed": lambda r: r["what"],
    "log_recovered": lambda r: f"{r['cause']} {r.get('count', 0)}",
    "reviewed": lambda r: _judgement(r),
    "accessed": lambda r: f"{r['action']}, {r['found']} found, {r.get('actor', '?')}",
    "exported": lambda r: f"{r['records']} as {r['format']}, {r.get('actor', '?')}",
    "verified": lambda r: "valid" if r["ok"] else f"{r['problems']} problems",
    "erased": lambda r: f"{len(r.get('keys', ()))} keys, {r['contents']} pieces",
    "audio_released": lambda r: f"{r['clips']} clips, {r['bytes']} bytes",
    "erasure_requested": lambda r: r.get("reason") or "",
    "segment_sealed": lambda r: f"records {r['first_seq']} to {r['last_seq']}",
    "retention_tombstone": lambda r: f"records {r['first_seq']} to {r['last_seq']}",
    "model_loaded": lambda r: r["model"]["id"],
    "steering_attached": lambda r: r["steering"]["bundle_digest"],
}
