"""What a screen shows of records, and what the package exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sarguard.audit import CheckVerdict, Query, views
from sarguard.audit.operations.erasure import erase
from sarguard.audit.operations.reviews import review
from sarguard.errors import AuditNotFoundError, AuditRecordError
from tests.audit.filled import SECRET_ANSWER, SECRET_WORDS, ask, ledger


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, sarguard.audit, sarguard.audit.wording, sarguard.audit.exports\n"
        "heavy = ('torch', 'numpy', 'pydantic', 'sqlite3', 'structlog')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_row_tells_who_what_and_why(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(
            log,
            privacy,
            outcome="blocked",
            tenant="acme\x1b",
            reason="check",
            checks=[
                CheckVerdict(name="a", version="1", stage="input", verdict="allowed"),
                CheckVerdict(name="b", version="1", stage="output", verdict="blocked"),
            ],
        )
        row = views.list_row(log.request(name)[1])
        page = views.record_page(log.request(name)[1])
    assert (row.kind, row.outcome, row.request) == ("request ended", "blocked", name)
    assert row.detail == (
        "acme\ufffd, clinic/strict, check, check b: blocked, guard proven on 8 of 8 "
        "positions"
    )
    lines = dict(page.lines)
    assert page.title.startswith(f"record {row.seq}: request ended, 20")
    assert lines["checks 2 name"] == "b"
    assert lines["checks 2 stage"] == "output"
    assert lines["checks 2 verdict"] == "blocked"
    assert lines["receipt attested"] == "yes"
    assert json.dumps(lines), "a page is plain data"


def test_records_are_found_by_number_and_by_name(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy)
        review(log, name, "missed", reviewer="ann")
        found = views.records_of(log, name)
        assert [entry.seq for entry in found] == [2, 3, 4]
        assert views.records_of(log, "3") == [log.reader.get(3)]
        assert views.request_of(log, "3") == views.request_of(log, name) == name
        with pytest.raises(AuditRecordError, match="not about a request"):
            views.request_of(log, "1")
        with pytest.raises(AuditNotFoundError, match="give a number"):
            views.records_of(log, "req_nobody")
        assert [e.seq for e in views.find(log, [Query(kind="reviewed"), Query()])][
            :2
        ] == [4, 4]
        (request,) = views.progress(log, found[:1])
        assert (request.records, request.finished) == (2, True)
        log.started(entry="generate")
        (request,) = views.progress(log, [log.reader.get(5)])
        assert (request.records, request.finished) == (1, False)
        counts = views.statistics(log, [Query()])
    assert (counts["started"], counts["ended"], counts["open"]) == (2, 1, 1)
    assert counts["labels"] == {"missed": 1}


def test_counts_obey_the_filters_of_lists(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        blocked = ask(log, privacy, outcome="blocked", tenant="acme")
        answered = ask(log, privacy, seed=1, tenant="desk")
        log.started(entry="generate", tenant="desk")
        review(log, blocked, "over_refusal", reviewer="ann")
        review(log, blocked, "correct", reviewer="bob")
        review(log, answered, "correct", reviewer="ann")
        review(log, answered, "correct", reviewer="bob")
        (begun, *_) = (e.seq for e in log.request(answered))

        def counted(*queries: Query) -> tuple[int, int, int, dict[str, int], int]:
            found = views.statistics(log, queries)
            assert found["ended"] == sum(found["outcome"].values())
            assert sum(found["labels"].values()) == 2 * found["reviewed"]
            names = ("ended", "open", "reviewed", "labels", "disagreements")
            return tuple(found[name] for name in names)  # type: ignore[return-value]

        both = {"correct": 3, "over_refusal": 1}
        assert counted(Query()) == (2, 1, 2, both, 1)
        assert counted(Query(tenant="nobody")) == (0, 0, 0, {}, 0)
        assert counted(Query(since="2100-01-01")) == (0, 0, 0, {}, 0)
        assert counted(Query(tenant="desk")) == (1, 1, 1, {"correct": 2}, 0)
        assert counted(Query(outcome="answered")) == (1, 0, 1, {"correct": 2}, 0)
        assert counted(Query(first_seq=begun)) == (1, 1, 1, {"correct": 2}, 0)
        assert counted(Query(audit_id=blocked))[2:] == (
            1,
            {"correct": 1, "over_refusal": 1},
            1,
        )
        outcomes = [Query(outcome="blocked"), Query(outcome="answered")]
        assert counted(*outcomes) == (2, 0, 2, both, 1)


def test_content_is_opened_as_far_as_it_can_be(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path, content="encrypted")
    with log:
        entries = log.request(ask(log, privacy))
        assert [c.data for c in views.contents(entries)] == [None] * 3
        text, sound, answer = views.contents(entries, privacy.sealer)
        assert (text.part, text.text) == ("input_text", SECRET_WORDS)
        assert (sound.text, (sound.data or b"")[:4]) == (None, b"fLaC")
        assert answer.text == SECRET_ANSWER
        erase(log, privacy.sealer, whole_tenant=True)
        gone = views.contents(entries, privacy.sealer)
    assert all(each.data is None and "erased" in each.problem for each in gone)
