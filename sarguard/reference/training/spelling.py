"""Every word in a small set of units: a token that has none is spelled in its parts.

A byte-pair token was merged from two others, so it can be taken apart again, down to
single characters. Common words are units of their own; rare ones are heard as several,
as the text model knows them from the rare words that it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

_CHARACTERS = re.compile(r"Ġ|Ġ?[A-Za-z0-9.,?!'\-]")
_PIECE = re.compile(r"[a-z']{2,4}")
_SPACED_PIECE = re.compile(r"Ġ[a-z']{1,4}")
_PIECES, _SPACED_PIECES = 700, 500


class Spelling:
    """The units of a vocabulary, and what other tokens are made of."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, units: Iterable[int]
    ) -> None:
        """Take tokens apart into units.

        Args:
            tokenizer: A byte-pair tokenizer.
            units: Token ids; all characters are among them.
        """
        self.units = frozenset(units)
        self._parents = _parents(tokenizer)
        self._known: dict[int, tuple[int, ...] | None] = {}

    def spell(self, tokens: Iterable[int]) -> list[int]:
        """Return tokens in units.

        Raises:
            ValueError: A character has no unit.
        """
        return [unit for token in tokens for unit in self._spelled(token)]

    def can_spell(self, tokens: Iterable[int]) -> bool:
        """Return whether every character of some tokens has a unit."""
        return all(self._parts(token) is not None for token in tokens)

    def _spelled(self, token: int) -> tuple[int, ...]:
        found = self._parts(token)
        if found is None:
            raise ValueError(f"token {token} holds a character that has no unit")
        return found

    def _parts(self, token: int) -> tuple[int, ...] | None:
        if token not in self._known:
            self._known[token] = self._taken_apart(token)
        return self._known[token]

    def _taken_apart(self, token: int) -> tuple[int, ...] | None:
        if token in self.units:
            return (token,)
        if token not in self._parents:
            return None
        first, second = map(self._parts, self._parents[token])
        return None if first is None or second is None else first + second


def choose_units(
    tokenizer: PreTrainedTokenizerBase, said: Mapping[int, float], count: int
) -> list[int]:
    """Return the units that spell everything with few of them.

    All characters, the commonest short pieces, and the tokens that are said most.

    Args:
        tokenizer: A byte-pair tokenizer, whose ids are in the order of its merges, so
            that a low one is frequent.
        said: How often each token is said.
        count: How many units there may be.
    """
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    ordered = sorted(names)
    units = [t for t in ordered if _CHARACTERS.fullmatch(names[t])]
    units += [t for t in ordered if _PIECE.fullmatch(names[t])][:_PIECES]
    units += [t for t in ordered if _SPACED_PIECE.fullmatch(names[t])][:_SPACED_PIECES]
    chosen = dict.fromkeys(units)
    for token in sorted(said, key=lambda token: (-said[token], token)):
        if len(chosen) == count:
            break
        chosen[token] = None
    return sorted(chosen)


def _parents(tokenizer: PreTrainedTokenizerBase) -> dict[int, tuple[int, int]]:
    """Return the two tokens that each token was first merged from."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids, merges = model["vocab"], model["merges"]
    found: dict[int, tuple[int, int]] = {}
    for merge in merges:
        pair: Sequence[str] = merge.split(" ") if isinstance(merge, str) else merge
        first, second = pair
        found.setdefault(ids[first + second], (ids[first], ids[second]))
    return found
