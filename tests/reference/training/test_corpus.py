from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from sarguard.datasets import load_sentences
from sarguard.reference.build import build_untrained
from sarguard.reference.training.corpus import (
    PROMPTS,
    common_words,
    compose,
    distinct,
    drills,
    normalise,
    rare_words,
    requests,
)

INVENTED = [f"zq{number}" for number in range(200)]


def test_sentences_are_compared_by_their_words() -> None:
    assert normalise("  How do I, well... pick a LOCK? ") == (
        "how do i well pick a lock"
    )
    assert normalise("Don't!") == "don't"
    assert normalise("?!") == ""


def test_the_same_seed_gives_the_same_sentences() -> None:
    first = requests(4_000, seed=3, exclude=frozenset())
    assert first == requests(4_000, seed=3, exclude=frozenset())
    assert first != requests(4_000, seed=4, exclude=frozenset())


def test_no_sentence_comes_twice() -> None:
    found = requests(6_000, exclude=frozenset())
    assert len(found) == 6_000
    assert len({normalise(sentence) for sentence in found}) == 6_000


def test_both_sources_are_used() -> None:
    prompts = {normalise(line) for line in PROMPTS.read_text("utf-8").splitlines()}
    found = {normalise(line) for line in requests(6_000, exclude=frozenset())}
    assert prompts - {""} <= found
    assert len(found - prompts) > 2_000


def test_excluded_sentences_never_appear() -> None:
    everything = requests(4_000, exclude=frozenset())
    excluded = frozenset(normalise(sentence) for sentence in everything[::3])
    found = {normalise(line) for line in requests(4_000, exclude=excluded)}
    assert len(found) == 4_000
    assert not found & excluded


def test_no_shipped_sentence_appears_where_they_are_excluded() -> None:
    shipped = frozenset(normalise(sentence) for sentence in load_sentences())
    found = {normalise(x) for x in requests(12_000, exclude=shipped)}
    assert not found & shipped


def test_sentences_of_the_same_words_count_once() -> None:
    said = ["Sing.", "sing!", "?", "Dance.", "Jump.", "Swim."]
    found = distinct(said, 2, exclude=frozenset({"jump"}))
    assert found == ["Sing.", "Dance."]
    assert distinct(said, 9, exclude=frozenset({"jump"})) == [*found, "Swim."]


def test_the_grammar_leaves_no_slot_open() -> None:
    for sentence in islice(compose(random.Random(0)), 2_000):
        assert sentence[-1] in ".?"
        assert "{" not in sentence
        assert "  " not in sentence


def test_drills_use_every_word_about_equally() -> None:
    found = drills(INVENTED, 1_000)
    counts = Counter(word for line in found for word in normalise(line).split())
    used = [counts[word] for word in INVENTED]
    assert len(found) == 1_000
    assert min(used) > 10
    assert max(used) - min(used) <= 2


def test_drills_are_the_same_for_the_same_seed() -> None:
    assert drills(INVENTED, 50, seed=1) == drills(INVENTED, 50, seed=1)
    assert drills(INVENTED, 50, seed=1) != drills(INVENTED, 50, seed=2)


def test_a_drill_holds_three_to_five_words() -> None:
    for line in drills(INVENTED, 200):
        drilled = [word for word in normalise(line).split() if word in INVENTED]
        assert 3 <= len(drilled) <= 5


def test_words_that_are_often_said_are_not_drilled() -> None:
    said = ["A cat sat."] * 3 + ["The dog sat!"]
    words = ["cat", "dog", "cow", "sat", "cow", "sat cow", "Sat"]
    assert rare_words(words, said, min_count=3) == ["dog", "cow", "sat cow"]
    assert rare_words(words, [], min_count=1) == [
        "cat",
        "dog",
        "cow",
        "sat",
        "sat cow",
        "Sat",
    ]


@pytest.mark.parametrize(("count", "expected"), [(9, ["the"]), (0, [])])
def test_common_words_are_the_vocabularys_whole_words(
    tiny_bases: Path, count: int, expected: list[str]
) -> None:
    tokenizer = build_untrained(tiny_bases)[1].tokenizer
    assert common_words(tokenizer, count) == expected
