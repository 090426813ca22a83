"""Two judges of one run: compared with figures worked out by hand."""

from __future__ import annotations

import pytest

from sarguard.evaluation.judges.rules import Label
from sarguard.evaluation.report import Report, to_html, to_markdown
from sarguard.evaluation.run.run_log import AnswerRecord
from sarguard.evaluation.stats.judge_comparison import JudgeComparison, compare_judges
from sarguard.evaluation.stats.summary import summarise
from tests.evaluation.made_up import record


def rows() -> list[AnswerRecord]:
    said = [
        ("bare", "a", Label.REFUSED, Label.REFUSED),
        ("bare", "b", Label.REFUSED, Label.DODGED),
        ("bare", "c", Label.COMPLIED, Label.COMPLIED),
        ("bare", "d", Label.DODGED, Label.REFUSED),
        ("ablated 0.1", "a", Label.REFUSED, Label.REFUSED),
        ("ablated 0.1", "b", Label.BROKEN, Label.BROKEN),
    ]
    found = [record(arm, item, one, second_label=two) for arm, item, one, two in said]
    found.append(
        record("bare", "s", Label.ANSWERED, suite="safe", second_label=Label.REFUSED)
    )
    # Nothing was decoded, so no judge was asked; it is withheld all the same.
    found.append(record("ablated 0.1", "c", Label.REFUSED, blocked=True))
    return found


@pytest.fixture
def found() -> JudgeComparison:
    return compare_judges(rows(), first="rules", second="wise")


def test_labels_are_counted_once_an_answer(found: JudgeComparison) -> None:
    both = found.agreement
    assert (both.against, both.judge, both.total) == ("rules", "wise", 7)
    assert both.accuracy == pytest.approx(4 / 7)
    assert both.counts[Label.REFUSED, Label.DODGED] == 1
    assert both.counts[Label.DODGED, Label.REFUSED] == 1


def test_every_arm_has_both_judges_rates(found: JudgeComparison) -> None:
    bare, ablated = found.arms
    assert (bare.answers, bare.same) == (5, pytest.approx(2 / 5))
    assert bare.harmful_refused == (0.5, 0.5)
    assert bare.benign_refused == (0.0, 1.0)
    assert (ablated.answers, ablated.same) == (2, 1.0)
    assert ablated.harmful_refused == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert ablated.benign_refused == (None, None)


def test_the_report_says_how_far_they_agree(found: JudgeComparison) -> None:
    records = rows()
    report = Report(
        facts={"title": "Two"},
        summary=summarise(records),
        findings=(),
        doses=(),
        second_judge=found,
    )
    words = to_markdown(report)
    assert "## Two judges, by label" in words
    assert "Same label on 57% of 7 answers" in words
    assert "| bare | 5 | 40 | 50 / 50 | 0 / 100 |" in words
    assert "| ablated 0.1 | 2 | 100 | 67 / 67 | - / - |" in words
    assert "Two judges, by arm" in to_html(report)
    second = report.to_dict()["second_judge"]
    assert (second["judge"], second["against"]) == ("wise", "rules")
    assert second["arms"][1]["benign_refused"] == (None, None)


def test_a_report_of_one_judge_names_no_second() -> None:
    report = Report(
        facts={"title": "One"}, summary=summarise(rows()), findings=(), doses=()
    )
    assert "second_judge" not in report.to_dict()
    assert "Two judges" not in to_markdown(report)
