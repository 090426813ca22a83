"""Fields that were added to the schema: who writes them, and who reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sarguard.audit import AuditLog, CheckVerdict, Query, export, prove, verify
from sarguard.audit.exports.rows import row
from sarguard.audit.proof import standalone_verifier
from sarguard.audit.records.schema import json_schema, parse
from sarguard.audit.views import list_row
from sarguard.errors import AuditRecordError
from tests.audit.ledgers import ask
from tests.audit.test_failures import held

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CHECKS = (
    CheckVerdict(name="words", version="2", stage="input", verdict="allowed"),
    CheckVerdict(name="topic", version="1", stage="output", verdict="blocked"),
)


def records(log: AuditLog, audit_id: str) -> list[dict[str, Any]]:
    return [json.loads(entry.data) for entry in log.request(audit_id)]


def checked(log: AuditLog, **given: Any) -> str:  # noqa: ANN401
    started = log.started(entry="generate", tenant="ward", **given)
    log.finished(
        str(started.audit_id), outcome="blocked", reason="check", checks=CHECKS
    )
    return str(started.audit_id)


def test_a_record_without_newer_fields_keeps_its_version(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        for record in records(log, ask(log)):
            assert record["schema_version"] == 1
            assert not {"checks", "trace_id", "span_id"} & record.keys()


def test_verdicts_of_checks_are_kept_as_given(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        name = checked(log)
        first, last = records(log, name)
        record: Any = log.request(name)[1].record
    assert (first["schema_version"], last["schema_version"]) == (1, 2)
    assert last["checks"] == [
        {"name": "words", "version": "2", "stage": "input", "verdict": "allowed"},
        {"name": "topic", "version": "1", "stage": "output", "verdict": "blocked"},
    ]
    assert record.checks == CHECKS
    assert "checks" in json_schema()["$defs"]["RequestFinished"]["properties"]


def test_turns_that_left_the_prompt_are_kept(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        for left_out, trimmed in ((0, 0), (2, 0), (0, 6)):
            name = str(log.started(entry="generate").audit_id)
            log.finished(name, outcome="answered", left_out=left_out, trimmed=trimmed)
        ended = [json.loads(e.data) for e in log.entries()]
        shown = [list_row(e).detail for e in log.entries()]
        rows = [row(e) for e in log.entries()]
    ended = [record for record in ended if record["kind"] == "request_finished"]
    assert [r["schema_version"] for r in ended] == [1, 2, 2]
    assert [r.get("left_out") for r in ended] == [None, 2, None]
    assert [r.get("trimmed") for r in ended] == [None, None, 6]
    assert "2 unanswered turns left out" in shown[-3]
    assert "6 old turns left out" in shown[-1]
    assert (rows[-3]["left_out"], rows[-1]["trimmed"]) == (2, 6)


@pytest.mark.parametrize("field", ["stage", "verdict"])
def test_a_verdict_is_one_of_a_closed_set(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        CheckVerdict(**{**CHECKS[0].model_dump(), field: "other"})


def test_both_verifiers_take_both_versions(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.db", tmp_path / "all.jsonl"
    with AuditLog.open(path) as log:
        ask(log)
        name = checked(log, trace_id=TRACE, span_id=SPAN)
        log.checkpoint()
        seq = log.request(name)[1].seq
        (tmp_path / "record.json").write_bytes(log.reader.get(seq).data)
        (tmp_path / "proof").write_text(str(prove(path, seq)))
        key = str(log.verifier)
        export(log, lines, "jsonl", record=False)
    report = verify(path)
    assert report.ok, str(report)
    proof = ["proof", str(tmp_path / "record.json"), str(tmp_path / "proof")]
    assert standalone_verifier.main(["ledger", str(path)]) == 0
    assert standalone_verifier.main(["ledger", str(lines)]) == 0
    assert standalone_verifier.main([*proof, "--key", key]) == 0


@pytest.mark.parametrize(("version", "drop"), [(1, ()), (2, ("checks",)), (3, ())])
def test_a_version_that_does_not_fit_is_refused(
    tmp_path: Path, version: int, drop: tuple[str, ...]
) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        record = records(log, checked(log))[1]
    assert parse(json.dumps(record).encode())
    record = {k: v for k, v in record.items() if k not in drop}
    with pytest.raises(AuditRecordError, match="version"):
        parse(json.dumps({**record, "schema_version": version}).encode())


def test_a_spooled_record_keeps_its_version(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with AuditLog.open(path, on_failure="spool", lock_timeout=0.02) as log:
        with held(path):
            name = checked(log, trace_id=TRACE)
        ask(log)
        first, last = records(log, name)
    assert (first["schema_version"], last["schema_version"]) == (1, 2)
    assert [each["name"] for each in last["checks"]] == ["words", "topic"]
    assert verify(path).ok


def test_reasons_of_older_ledgers_are_read(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        started = log.started(entry="generate")
        log.finished(
            str(started.audit_id), outcome="blocked", reason="transcript_check"
        )
        record: Any = log.request(str(started.audit_id))[1].record
    assert (record.reason, record.checks) == ("transcript_check", ())


def test_a_trace_is_in_both_records(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with AuditLog.open(path) as log:
        started = log.started(entry="generate", trace_id=TRACE, span_id=SPAN)
    # Another process reads it from the first record.
    with AuditLog.open(path) as log:
        log.finished(str(started.audit_id), outcome="answered")
        first, last = records(log, str(started.audit_id))
        assert log.reader.count(Query(containing=TRACE)) == 2
    for record, version in ((first, 1), (last, 2)):
        assert (record["trace_id"], record["span_id"]) == (TRACE, SPAN)
        assert record["schema_version"] == version


def test_a_trace_can_be_given_at_the_end(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        name = str(log.started(entry="generate").audit_id)
        log.finished(name, outcome="answered", trace_id=TRACE, span_id=SPAN)
        first, last = records(log, name)
    assert "trace_id" not in first
    assert (last["trace_id"], last["span_id"]) == (TRACE, SPAN)
