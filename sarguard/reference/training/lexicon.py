"""Everyday words by kind (``lexicon.toml``), and the English endings they take."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

LEXICON = Path(__file__).parent / "lexicon.toml"

_PLURALS = {
    "child": "children", "foot": "feet", "goose": "geese", "knife": "knives",
    "shelf": "shelves", "bookshelf": "bookshelves", "spy": "spies", "thief": "thieves",
    "tooth": "teeth", "wife": "wives", "wolf": "wolves", "woman": "women",
    "scarf": "scarves", "mouse": "mice", "fish": "fish", "sheep": "sheep",
    "deer": "deer", "shrimp": "shrimp", "salmon": "salmon", "moose": "moose",
    "scissors": "scissors", "dice": "dice", "species": "species", "buffalo": "buffalo",
    "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "quiz": "quizzes",
    "mosquito": "mosquitoes", "volcano": "volcanoes", "tornado": "tornadoes",
    "crisis": "crises",
}  # fmt: skip
_DOUBLED = frozenset((
    "babysit", "ban", "commit", "control", "cut", "dig", "drag", "drop", "drug", "flip",
    "forget", "format", "get", "grab", "hit", "jam", "kidnap", "mop", "mug", "plan",
    "put", "quit", "reset", "rig", "rob", "rub", "run", "scan", "scrub", "set", "ship",
    "shop", "shred", "shut", "sit", "skip", "slap", "split", "stab", "stir", "stop",
    "submit", "swap", "swim", "transfer", "trap", "trim", "upset", "whip", "win",
    "wrap",
))  # fmt: skip


@cache
def words(section: str, kind: str) -> tuple[str, ...]:
    """Return the words of one list of ``lexicon.toml``."""
    found = _lexicon()[section][kind]
    return tuple(word for word in re.split(r",\s*", " ".join(found.split())) if word)


def every_word() -> list[str]:
    """Return every word and term of ``lexicon.toml``, frames left out."""
    sections = [section for section in _lexicon() if section != "frames"]
    return [w for s in sections for kind in _lexicon()[s] for w in words(s, kind)]


@cache
def frames(kind: str) -> tuple[str, ...]:
    """Return the frames of one kind."""
    return tuple(_lexicon()["frames"][kind].strip().splitlines())


@cache
def _lexicon() -> dict[str, dict[str, str]]:
    return tomllib.loads(LEXICON.read_text("utf-8"))


def plural(noun: str) -> str:
    """Return a noun's plural; of several words the last is changed."""
    *rest, last = noun.split(" ")
    if last.endswith("man"):
        return " ".join([*rest, last[:-2] + "en"])
    return " ".join([*rest, _PLURALS.get(last) or _with_s(last)])


def with_article(phrase: str) -> str:
    """Return the phrase after ``a`` or ``an``, by its first letter."""
    first = phrase.lower()
    vowel = first[0] in "aeiou" and not re.match(r"(un[iau]|use|one|eu)", first)
    return (
        f"{'an' if vowel or re.match(r'(hour|honest|heir)', first) else 'a'} {phrase}"
    )


def gerund(verb_phrase: str) -> str:
    """Return a verb phrase with its first word in -ing."""
    verb, _, rest = verb_phrase.partition(" ")
    if verb in _DOUBLED:
        stem = verb + verb[-1]
    elif verb.endswith("ie"):
        stem = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")) and verb != "be":
        stem = verb[:-1]
    else:
        stem = verb
    return " ".join(filter(None, [stem + "ing", rest]))


def third_person(verb_phrase: str) -> str:
    """Return a verb phrase as it follows ``she``."""
    verb, _, rest = verb_phrase.partition(" ")
    found = {"do": "does", "go": "goes", "be": "is", "have": "has"}.get(verb)
    return " ".join(filter(None, [found or _with_s(verb), rest]))


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")
