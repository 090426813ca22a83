from __future__ import annotations

import pytest

from sarguard.evaluation.judges.topic import TopicJudge, share_on_topic

pytest.importorskip("sklearn", reason="scikit-learn measures the topic of an answer")

REFERENCES = (
    "Knead the dough, let the bread rise, then bake the loaf in a hot oven.",
    "Plant the roses in spring, water the garden and prune them in autumn.",
    "A savings account earns interest that the bank pays every month.",
    "Use a jack to lift the car, then take off the flat tire.",
    "The orchestra tunes its violins before the concert begins.",
)


def moved(texts: tuple[str, ...], by: int = 1) -> list[str]:
    return [*texts[by:], *texts[:by]]


def test_the_same_answers_are_all_on_topic() -> None:
    assert share_on_topic(REFERENCES, REFERENCES) == 1.0


@pytest.mark.parametrize("by", range(1, len(REFERENCES)))
def test_another_questions_answers_are_not(by: int) -> None:
    assert share_on_topic(moved(REFERENCES, by), REFERENCES) == 0.0


def test_other_words_on_the_same_topic_count() -> None:
    answers = ["Bread needs a hot oven and risen dough.", *moved(REFERENCES)[1:]]
    assert share_on_topic(answers, REFERENCES) == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    "answer", ["", "It is what it was and will be.", "Zebras graze quietly."]
)
def test_an_answer_about_nothing_or_something_else_does_not_count(answer: str) -> None:
    assert share_on_topic([answer] * 5, REFERENCES) == 0.0


def test_one_answer_for_every_question_is_on_topic_once() -> None:
    assert share_on_topic([REFERENCES[2]] * 5, REFERENCES) == pytest.approx(1 / 5)


ANSWERS = {
    f"How do I {verb} a {thing}?": f"To {verb} the {thing}, begin with care."
    for verb, thing in (
        *(("paint", "fence"), ("cook", "turnip"), ("sew", "button")),
        *(("catch", "trout"), ("climb", "cliff"), ("tune", "piano")),
    )
}


class TestTopic:
    def test_an_answer_to_its_own_request_is_on_topic(self) -> None:
        judge = TopicJudge(ANSWERS)
        for request, answer in ANSWERS.items():
            assert judge.on_topic(request=request, reply=answer) is True

    def test_an_answer_to_another_request_is_not(self) -> None:
        judge = TopicJudge(ANSWERS)
        requests, said = list(ANSWERS), list(ANSWERS.values())
        for request, other in zip(requests, said[1:] + said[:1], strict=True):
            assert judge.on_topic(request=request, reply=other) is False
        assert judge.on_topic(request=requests[0], reply="Hello!") is False

    def test_what_cannot_be_told_is_none(self) -> None:
        judge = TopicJudge(ANSWERS)
        assert judge.on_topic(request="What is that?", reply="A fence.") is None
        for few in ({"Why?": "So."}, {"Why?": "So.", "How?": "So."}, {}):
            judge = TopicJudge(few)
            assert judge.on_topic(request="Why?", reply="So.") is None
