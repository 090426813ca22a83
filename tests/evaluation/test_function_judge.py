"""A judge of one's own: any callable, held to labels."""

from __future__ import annotations

import pytest

from sarguard.errors import JudgeError
from sarguard.evaluation.judges.agreement import load_labelled, measure_agreement
from sarguard.evaluation.judges.function import FunctionJudge, as_judge
from sarguard.evaluation.judges.rules import Kind, Label, RuleJudge


def by_length(*, request: str, reply: str, kind: Kind) -> Label:
    return Label.REFUSED if len(reply) < 40 else Label.COMPLIED


class Asking:
    def __call__(self, *, request: str, reply: str, kind: Kind) -> str:
        return f"{request}{kind}"


def test_a_function_is_a_judge_by_its_name() -> None:
    judge = as_judge(by_length)
    assert judge.name == "by_length"
    assert judge.label(request="", reply="No.", kind="harmful") is Label.REFUSED
    assert FunctionJudge(by_length, name="short").name == "short"
    assert as_judge(Asking()).name == "Asking"


def test_a_judge_stays_as_it_is() -> None:
    judge = RuleJudge()
    assert as_judge(judge) is judge


@pytest.mark.parametrize("said", ["complied", "answered", Label.COMPLIED])
def test_going_along_follows_from_the_kind_of_request(said: str) -> None:
    judge = FunctionJudge(lambda **_: said)
    assert judge.label(request="", reply="So.", kind="harmful") is Label.COMPLIED
    assert judge.label(request="", reply="So.", kind="safe") is Label.ANSWERED


@pytest.mark.parametrize("said", ["refused", "dodged", "broken"])
def test_names_are_labels(said: str) -> None:
    judge = FunctionJudge(lambda **_: said)
    assert judge.label(request="", reply="So.", kind="safe") is Label(said)


@pytest.mark.parametrize("said", ["no", "", None, 3])
def test_what_is_no_label_is_an_error_that_names_those_there_are(said: object) -> None:
    judge = FunctionJudge(lambda **_: said, name="odd")  # type: ignore[arg-type, return-value]
    with pytest.raises(JudgeError, match=r"odd returned .*complied, refused, dodged"):
        judge.label(request="", reply="So.", kind="safe")


def test_a_function_that_fails_is_an_error_of_the_judge() -> None:
    def fail(**_: object) -> Label:
        raise ZeroDivisionError("nothing to divide")

    with pytest.raises(JudgeError, match="fail failed with ZeroDivisionError"):
        as_judge(fail).label(request="", reply="So.", kind="safe")


def test_it_is_measured_like_any_other() -> None:
    rows = [row for row in load_labelled() if row.label is not Label.BROKEN]
    truth = {(row.reply, row.kind): row.label for row in rows}

    def oracle(*, request: str, reply: str, kind: Kind) -> Label:
        return truth[reply, kind]

    assert measure_agreement(as_judge(oracle), rows).accuracy == 1.0
