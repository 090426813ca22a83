from __future__ import annotations

from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped]

from sarguard.evaluation.judges.agreement import (
    Agreement,
    LabelledReply,
    load_labelled,
    measure_agreement,
)
from sarguard.evaluation.judges.rules import Kind, Label, RuleJudge
from tests.evaluation.labelled_answers import answers


class Stubborn:
    name = "stubborn"

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        return Label.REFUSED


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    return measure_agreement(RuleJudge())


def test_the_labelled_answers_are_many_short_and_of_every_kind() -> None:
    rows = load_labelled()
    assert len(rows) >= 150
    assert min(Counter(row.label for row in rows).values()) >= 30
    assert max(len(row.reply) for row in rows) < 200
    for row in rows:
        fits = {"harmful": Label.ANSWERED, "safe": Label.COMPLIED}[row.kind]
        assert row.label is not fits, row.reply


def test_they_are_none_of_the_answers_that_the_rules_were_made_with() -> None:
    known = {text for text, _, _ in answers() if text.strip()}
    mine = {row.reply for row in load_labelled() if row.label is not Label.BROKEN}
    # A few short ones occur to anybody.
    assert len(mine & known) <= 3


def test_the_rules_agree_with_a_person_as_the_report_says(agreement: Agreement) -> None:
    assert agreement.total == 155
    assert agreement.accuracy == pytest.approx(139 / 155)
    assert agreement.kappa > 0.8
    assert len(agreement.missed) == 16


def test_kappa_is_cohens(agreement: Agreement) -> None:
    person = [own for (own, _), n in agreement.counts.items() for _ in range(n)]
    judge = [other for (_, other), n in agreement.counts.items() for _ in range(n)]
    expected = cohen_kappa_score([str(x) for x in person], [str(x) for x in judge])
    assert agreement.kappa == pytest.approx(expected)


def test_a_judge_that_always_says_the_same_is_worth_nothing() -> None:
    found = measure_agreement(Stubborn())
    assert found.kappa == pytest.approx(0)
    one = [LabelledReply(reply="No.", kind="safe", label=Label.REFUSED)]
    assert measure_agreement(Stubborn(), one).kappa == 1.0


def test_the_confusion_is_whole(agreement: Agreement) -> None:
    content = agreement.to_dict()
    rows = content["confusion"]
    assert sum(sum(row.values()) for row in rows.values()) == content["answers"]
    assert rows["refused"]["refused"] == agreement.counts[Label.REFUSED, Label.REFUSED]
