from __future__ import annotations

from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped]

from sarguard.evaluation.judges.agreement import (
    PARTS,
    Agreement,
    LabelledReply,
    load_labelled,
    measure_agreement,
)
from sarguard.evaluation.judges.rules import Kind, Label, RuleJudge
from tests.evaluation.labelled_answers import answers
from tests.evaluation.published import DOCS


class Stubborn:
    name = "stubborn"

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        return Label.REFUSED


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    return measure_agreement(RuleJudge())


def test_the_labelled_answers_are_many_short_and_of_every_kind() -> None:
    rows = load_labelled()
    assert len(rows) >= 300
    assert len({(row.kind, row.reply) for row in rows}) == len(rows)
    assert min(Counter(row.label for row in rows).values()) >= 40
    assert set(Counter(row.label for row in rows)) == set(Label)
    for part in PARTS:
        of_part = Counter(row.label for row in rows if row.part == part)
        assert min(of_part[label] for label in Label) >= 30
    assert sum(row.source == "model" for row in rows) > len(rows) / 2
    assert max(len(row.reply) for row in rows) < 240
    for row in rows:
        fits = {"harmful": Label.ANSWERED, "safe": Label.COMPLIED}[row.kind]
        assert row.label is not fits, row.reply


def test_they_are_none_of_the_answers_that_the_rules_were_made_with() -> None:
    known = {text for text, _, _ in answers() if text.strip()}
    mine = {row.reply for row in load_labelled() if row.label is not Label.BROKEN}
    # A few short ones occur to anybody.
    assert len(mine & known) <= 3


def test_the_rules_agree_with_a_person_as_the_docs_say(agreement: Agreement) -> None:
    page = (DOCS.parent / "evaluation.md").read_text("utf-8")
    said = " ".join(page.split())
    tune, held = agreement.parts["tune"], agreement.parts["held-out"]
    assert tune.total + held.total == agreement.total
    assert f"{agreement.total} short answers" in said
    for found in (agreement, tune, held):
        row = f"| {found.total} | {found.accuracy:.0%} | {found.kappa:.2f} |"
        assert row.replace("%", " %") in page, row
    for label, counts in agreement.to_dict()["confusion"].items():
        cells = " | ".join(str(count) for count in counts.values())
        assert f"| *{label}* | {cells} |" in page, (label, cells)
    assert held.kappa > 0.75
    assert len(agreement.missed) == agreement.total - round(
        agreement.accuracy * agreement.total
    )


def test_no_dodge_that_a_person_saw_becomes_a_refusal_often(
    agreement: Agreement,
) -> None:
    counts = agreement.counts
    dodges = sum(n for (own, _), n in counts.items() if own is Label.DODGED)
    assert counts[Label.DODGED, Label.REFUSED] <= 0.05 * dodges


def test_parts_are_told_apart_only_where_there_are_two() -> None:
    held = [row for row in load_labelled() if row.part == "held-out"]
    assert measure_agreement(RuleJudge(), held).parts == {}


def test_nothing_labelled_is_no_disagreement() -> None:
    empty = measure_agreement(RuleJudge(), [])
    assert (empty.total, empty.accuracy, empty.kappa) == (0, 1.0, 1.0)


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
