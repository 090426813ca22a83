"""Compose requests from a wide vocabulary: any everyday word in a natural frame.

What a request says need not make sense; each word must be heard often, beside
ever different words, with the stress and linking of a real sentence.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator
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


def all_words() -> list[str]:
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


MAX_WORDS = 17
"""Words in a sentence; longer ones are drawn anew."""

_OWNERS = (
    "my", "my", "the", "the", "your", "his", "her", "our", "their", "someone's",
    "this", "that", "another", "every",
)  # fmt: skip
_ARTIFACTS = (
    "objects", "objects", "objects", "vehicles", "foods", "papers", "digital",
    "buildings", "animals",
)  # fmt: skip
_COUNTED = (*_ARTIFACTS, "people", "people", "events", "ideas", "body")

_KINDS = {
    "b": "buildings",
    "o": "objects",
    "p": "people",
    "v": "vehicles",
    "e": "events",
}
_PLACES = (
    "at {b}", "in {b}", "from {b}", "near {b}", "inside {b}", "with {o}", "into {o}",
    "under {o}", "for {p}", "to {p}", "from {p}", "with {p}", "behind {p}", "on {v}",
    "during {e}", "before {e}", "after {e}", "on {d}",
)  # fmt: skip


class SentenceGenerator:
    """Generator of sentences: frames filled with words from one random stream."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def sentences(self) -> Iterator[str]:
        """Yield endless requests of at most `MAX_WORDS` words."""
        while True:
            (kind,) = self.rng.choices(("actions", "matters", "writing"), (5, 3, 2))
            frame = self.rng.choice(frames(kind))
            found = frame.format_map(_Slots(self.slot))
            if len(found.split()) <= MAX_WORDS:
                yield found

    def slot(self, name: str) -> str:
        """Return words for a frame's slot."""
        name = name.rstrip("2")
        if name.endswith("_cap"):
            found = self.slot(name.removesuffix("_cap"))
            return found[0].upper() + found[1:]
        return self._generators()[name]()

    def _generators(self) -> dict[str, Callable[[], str]]:
        return {
            "vp": self.verb_phrase,
            "ving": lambda: gerund(self.verb_phrase()),
            "v3s": lambda: third_person(self.verb_phrase()),
            "np": self.noun_phrase,
            "np_a": lambda: with_article(self._described(self.noun())),
            "np_plain": lambda: "the " + self.noun(),
            "np_person": lambda: self.noun_phrase(("people",)),
            "np_place": lambda: self.noun_phrase(("buildings",)),
            "event_np": lambda: self.noun_phrase(("events",)),
            "paper_np": lambda: self._indefinite("papers"),
            "digital_np": lambda: self._indefinite("digital"),
            "paper": lambda: self._one("count", "papers"),
            "noun": self.noun,
            "thing": lambda: self.noun(("objects",)),
            "things": lambda: self._described(plural(self.noun())),
            "animals": lambda: plural(self._one("count", "animals")),
            "person": lambda: self._one("count", "people"),
            "building": lambda: self._one("count", "buildings"),
            "stuff": lambda: self._one("mass", "stuff"),
            "topic": self.topic,
            "adj": lambda: self._one("adjectives", "all"),
            "place": lambda: self._one("names", "places"),
            "language": lambda: self._one("names", "languages"),
            "group": lambda: self._one("names", "groups"),
            "name": lambda: self._one("names", "people"),
            "day": lambda: self._one("names", "days"),
            "number": lambda: self._one("names", "numbers"),
        }  # fmt: skip

    def noun(self, kinds: tuple[str, ...] = _COUNTED) -> str:
        """Return a countable noun of one of the kinds, in the singular."""
        return self._one("count", self.rng.choice(kinds))

    def noun_phrase(self, kinds: tuple[str, ...] = _COUNTED) -> str:
        """Return a noun with what comes before it."""
        noun, chance = self.noun(kinds), self.rng.random()
        if chance < 0.38:
            return with_article(self._described(noun))
        if chance < 0.72:
            return f"{self.rng.choice(_OWNERS)} {self._described(noun)}"
        if chance < 0.82:
            return f"my {self._one('count', 'people')}'s {noun}"
        if chance < 0.9:
            return f"{self._one('names', 'numbers')} {plural(noun)}"
        return self._described(plural(noun))

    def topic(self) -> str:
        """Return something to speak about."""
        chance = self.rng.random()
        if chance < 0.4:
            return self._one("mass", "fields")
        if chance < 0.6:
            return self._one("mass", "stuff")
        return (
            self._described(plural(self.noun())) if chance < 0.8 else self.noun_phrase()
        )

    def verb_phrase(self) -> str:
        """Return something to do, in the base form."""
        chance = self.rng.random()
        if chance < 0.5:
            phrase = f"{self._one('verbs', 'objects')} {self._object()}"
        elif chance < 0.72:
            verb = self._one("verbs", "people")
            kinds = ("people", "people", "people", "animals")
            phrase = f"{verb} {self.noun_phrase(kinds)}"
        elif chance < 0.86:
            return self._one("verb_phrases", "plain")
        else:
            phrase = self.rng.choice(self._other_actions())()
        return phrase + self._tail() if self.rng.random() < 0.55 else phrase

    def _object(self) -> str:
        chance = self.rng.random()
        if chance < 0.68:
            return self.noun_phrase(_ARTIFACTS)
        some = self.rng.choice(("", "", "some ", "the ", "my "))
        return some + self._described(self._one("mass", "stuff"))

    def _other_actions(self) -> tuple[Callable[[], str], ...]:
        one = self._one

        def some(*kinds: str) -> str:
            return self.noun_phrase(kinds)

        return (
            lambda: f"be more {one('adjectives', 'all')}",
            lambda: f"become {with_article(one('count', 'people'))}",
            lambda: f"travel to {one('names', 'places')}",
            lambda: f"move to {one('names', 'places')}",
            lambda: f"speak {one('names', 'languages')}",
            lambda: f"learn {one('mass', 'fields')}",
            lambda: f"talk about {one('mass', 'fields')}",
            lambda: f"get away with {one('mass', 'fields')}",
            lambda: (
                f"break into {self.noun_phrase(('buildings', 'vehicles', 'digital'))}"
            ),
            lambda: f"get out of {self.noun_phrase(('buildings', 'events'))}",
            lambda: f"prepare for {self.noun_phrase(('events',))}",
            lambda: f"hurt {self._owner()} {one('count', 'body')}",
            lambda: f"heal {self._owner()} {one('count', 'body')}",
            lambda: f"make {some('people')} {one('adjectives', 'all')}",
            lambda: f"make {one('mass', 'stuff')} from {one('mass', 'stuff')}",
            lambda: f"{self.verb_phrase()} and {self.verb_phrase()}",
        )

    def _tail(self) -> str:
        one, chance = self._one, self.rng.random()
        if chance < 0.4:
            return " " + one("adverbs", "all")
        if chance < 0.52:
            return f" in {one('names', 'places')}"
        if chance < 0.58:
            return f" without {gerund(self.verb_phrase())}"
        if chance < 0.64:
            return f" to {self.verb_phrase()}"
        if chance < 0.7:
            return f" with {one('mass', 'stuff')}"
        place = self.rng.choice(_PLACES)
        slot = place[-2]
        if slot == "d":
            return " " + place.format(d=one("names", "days"))
        return " " + place.format(**{slot: self.noun_phrase((_KINDS[slot],))})

    def _indefinite(self, kind: str) -> str:
        return with_article(self._described(self._one("count", kind)))

    def _owner(self) -> str:
        return self.rng.choice(_OWNERS)

    def _described(self, noun: str) -> str:
        if self.rng.random() < 0.3:
            return f"{self._one('adjectives', 'all')} {noun}"
        return noun

    def _one(self, section: str, kind: str) -> str:
        return self.rng.choice(words(section, kind))


class _Slots(dict[str, str]):
    """Mapping that generates each slot's words as a frame is filled."""

    def __init__(self, fill: Callable[[str], str]) -> None:
        super().__init__()
        self._fill = fill

    def __missing__(self, name: str) -> str:
        return self._fill(name)
