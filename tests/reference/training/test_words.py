from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sarguard.reference.training.words import edit_distance, word_error_rate, words

SPOKEN = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"),
    [
        ("how do i bake bread", "how do i bake bread", 0.0),
        ("How do I bake bread?", "how do i bake bread", 0.0),
        ("how do i bake bread", "how do i fake bread", 1 / 5),
        ("how do i bake bread", "how do bake bread", 1 / 5),
        ("how do i bake bread", "how how do i bake bread", 1 / 5),
        ("how do i bake bread", "", 1.0),
        ("a b c d", "b c d e", 2 / 4),
        ("one", "one two three", 2.0),
        ("someone's car", "someones car", 1 / 2),
    ],
)
def test_one_sentence(reference: str, hypothesis: str, rate: float) -> None:
    assert word_error_rate([reference], [hypothesis]) == pytest.approx(rate)


def test_a_rate_is_over_all_the_words() -> None:
    said = ["one two three four five six", "seven eight"]
    heard = ["one two three four five six", "seven"]
    assert word_error_rate(said, heard) == pytest.approx(1 / 8)


def test_nothing_said_has_a_rate() -> None:
    assert word_error_rate([], []) == 0
    assert word_error_rate(["..."], ["two words"]) == 2


def test_sentences_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        word_error_rate(["one", "two"], ["one"])


def test_words_are_lower_case_without_punctuation() -> None:
    assert words('  "Don\'t" stop: 2 cats, OK?') == ["don't", "stop", "2", "cats", "ok"]


def plain_distance(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """Follow the definition, without the table."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        swap = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(SPOKEN, SPOKEN)
@settings(deadline=None)
def test_the_distance_is_the_definitions(left: list[str], right: list[str]) -> None:
    found = edit_distance(left, right)
    assert found == plain_distance(tuple(left), tuple(right))
    assert found == edit_distance(right, left)


@given(SPOKEN, SPOKEN, SPOKEN)
@settings(deadline=None)
def test_the_distance_is_a_metric(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
