from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from sarguard.reference.training.corpus import normalise
from sarguard.reference.training.wide_corpus import (
    MAX_WORDS,
    SentenceGenerator,
    frames,
    gerund,
    plural,
    third_person,
    with_article,
    words,
)


def composed(count: int, seed: int = 0) -> list[str]:
    return list(islice(SentenceGenerator(random.Random(seed)).sentences(), count))


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert composed(50) == composed(50)
    assert composed(50) != composed(50, seed=1)


def test_every_sentence_is_whole_and_short_enough() -> None:
    for sentence in composed(3_000):
        assert sentence[-1] in ".?"
        assert "{" not in sentence
        assert "  " not in sentence
        assert len(sentence.split()) <= MAX_WORDS
        assert sentence[0].isupper()


@pytest.mark.parametrize("kind", ["actions", "matters", "writing"])
def test_every_frame_can_be_filled(kind: str) -> None:
    composer = SentenceGenerator(random.Random(0))
    for frame in frames(kind):
        slots = [part.split("}")[0] for part in frame.split("{")[1:]]
        assert slots
        assert all(composer.slot(slot) for slot in slots)


@pytest.mark.parametrize(
    ("section", "kind"),
    [("count", "people"), ("mass", "stuff"), ("verbs", "objects"), ("names", "places")],
)
def test_words_are_heard_often(section: str, kind: str) -> None:
    counts = Counter(w for line in composed(20_000) for w in normalise(line).split())
    found = words(section, kind)
    rare = [word for word in found if counts[normalise(word).split()[0]] < 5]
    assert len(rare) < 0.05 * len(found)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "cats"),
        ("city hall", "city halls"),
        ("pregnant woman", "pregnant women"),
        ("policeman", "policemen"),
        ("wolf", "wolves"),
        ("box", "boxes"),
        ("church", "churches"),
        ("toy", "toys"),
        ("library", "libraries"),
        ("potato", "potatoes"),
        ("radio", "radios"),
    ],
)
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("phrase", "ing", "third"),
    [
        ("make a cake", "making a cake", "makes a cake"),
        ("run", "running", "runs"),
        ("tie a knot", "tying a knot", "ties a knot"),
        ("carry it", "carrying it", "carries it"),
        ("be calm", "being calm", "is calm"),
        ("go home", "going home", "goes home"),
        ("watch tv", "watching tv", "watches tv"),
        ("destroy it", "destroying it", "destroys it"),
    ],
)
def test_verb_endings(phrase: str, ing: str, third: str) -> None:
    assert gerund(phrase) == ing
    assert third_person(phrase) == third


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("hour", "an hour"),
        ("university", "a university"),
        ("umbrella", "an umbrella"),
        ("honest man", "an honest man"),
        ("used car", "a used car"),
    ],
)
def test_articles(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected
