from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from sarguard.audit import verify, views
from sarguard.audit.operations.reviews import newest_labels, review, reviews
from sarguard.errors import AuditNotFoundError, AuditRecordError
from tests.audit.filled import ask, ledger


def test_a_later_judgement_names_the_one_before(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy)
        first = review(log, name, "missed", reviewer="ann")
        review(log, name, "correct", reviewer="bob")
        review(log, name, "needs_follow_up", reviewer="ann", note="looked again")
        said = [entry.record for entry in reviews(log, name)]
        assert [s.label for s in said] == ["missed", "correct", "needs_follow_up"]  # type: ignore[attr-defined]
        assert [s.replaces for s in said] == [None, None, first.seq]  # type: ignore[attr-defined]
        assert newest_labels(log) == {
            name: {"ann": "needs_follow_up", "bob": "correct"}
        }


def test_who_wrote_a_judgement_down_is_in_the_record(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy)
        review(log, name, "missed", reviewer="ann")
        review(log, name, "correct", reviewer="dr.lee", actor="mallory")
        own, written = (entry.record for entry in reviews(log, name))
        # A reader of version 1 of the schema takes what it knows.
        assert (own.schema_version, written.schema_version) == (1, 2)
        assert written.actor == "mallory"  # type: ignore[attr-defined]
        row = views.list_row(reviews(log, name)[1])
        assert "correct by dr.lee, written by mallory" in row.detail
    assert verify(log.path).ok


@pytest.mark.parametrize(
    ("label", "outcome", "fits"),
    [
        *(("missed", o, False) for o in ("refused", "blocked", "error_closed")),
        *(("missed", o, True) for o in ("answered", "error_open", "cancelled")),
        *(("over_refusal", o, False) for o in ("answered", "error_open")),
        *(("over_refusal", o, True) for o in ("refused", "blocked", "error_closed")),
        *(("correct", o, True) for o in ("answered", "blocked", "refused")),
    ],
)
def test_a_label_has_to_fit_how_the_request_ended(
    tmp_path: Path, label: str, outcome: str, fits: bool
) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy, outcome=outcome)
        if fits:
            review(log, name, label, reviewer="ann")
        else:
            with pytest.raises(AuditRecordError, match=f"ended as {outcome}"):
                review(log, name, label, reviewer="ann")
        assert len(reviews(log, name)) == fits


def test_what_is_not_there_cannot_be_judged(tmp_path: Path) -> None:
    log, privacy = ledger(tmp_path)
    with log:
        name = ask(log, privacy)
        with pytest.raises(AuditNotFoundError):
            review(log, "req_" + "0" * 26, "correct", reviewer="ann")
        with pytest.raises(AuditRecordError, match="over_refusal"):
            review(log, name, "fine", reviewer="ann")


def test_operational_lines_name_the_record(tmp_path: Path) -> None:
    log, _ = ledger(tmp_path)
    lines: list[dict[str, object]] = []

    def keep(logger: object, method: str, line: dict[str, object]) -> str:
        lines.append(dict(line))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(
        None, processors=[structlog.contextvars.merge_contextvars, keep]
    )
    with log:
        receipt = log.started(entry="generate")
        with receipt.log_context():
            logger.info("decoding")
        logger.info("idle")
    assert lines == [
        {"event": "decoding", "audit_seq": receipt.seq, "audit_id": receipt.audit_id},
        {"event": "idle"},
    ]
