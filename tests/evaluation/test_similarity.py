from __future__ import annotations

import pytest

from sarguard.evaluation.judges.similarity import share_on_topic

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
