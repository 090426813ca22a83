"""The shortest way to end a JSON text, so that an answer fits into its tokens.

A schema says what may follow, not when to stop: a string or a number may go on for as
long as the model likes, and half a JSON text is none. So where the tokens run short,
those are ruled out after which the text could no longer be ended in what is left.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

_OUTSIDE = ("}", "]", '"', ",", ":", "null", "true", "1", "0", "false", "{", "[", "-")
"""What is written outside of strings, the first that may follow: objects, arrays and
numbers end where they may. 1 comes before 0, which may not be the last digit."""
_INSIDE = ('"',)
"""What is written within a string."""
_LETTER = "z"
"""No JSON text has it outside of a string."""
_OPENINGS = (*'{["-0123456789', "t", "f", "n")
"""What any JSON text begins with; no refusal does."""
_LONGEST = 512
"""Longest ending that is looked for, in tokens."""


class ShortestEnding:
    """Finds short endings; any number of answers may use it."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self._ends = frozenset(tokenizer.eos_tokens)
        self._outside = self._first_tokens(*_OUTSIDE)
        self._inside = self._first_tokens(*_INSIDE)
        self._letter = self._first_tokens(_LETTER)
        self.brackets = self._tokens_of_openings()
        """Tokens that begin a JSON text."""

    def find(self, matcher: LLMatcher, *, limit: int = _LONGEST) -> list[int] | None:
        """Return tokens that end the text, the one that ends the answer among them.

        The search follows one path, so that what it returns is short and may not be the
        shortest. A pattern may have no end on that path.

        Args:
            matcher: Where the answer stands; it is not changed.
            limit: The most tokens to return.

        Returns:
            The tokens, or None where there is no such ending.
        """
        walked = matcher.deep_copy()
        tokens: list[int] = []
        while len(tokens) < limit:  # One is left for the end.
            if walked.is_accepting():
                return [*tokens, next(iter(self._ends))]
            following = walked.compute_ff_tokens() or self._choose(walked)
            if not following or not walked.consume_tokens(following):
                return None
            tokens += following
        return None

    def _choose(self, matcher: LLMatcher) -> list[int]:
        """Return a token to go on with; none where nothing may follow."""
        allowed = np.frombuffer(matcher.compute_logit_bias(), dtype=np.uint8) > 0
        within = any(allowed[token] for token in self._letter)
        for token in self._inside if within else self._outside:
            if allowed[token]:
                return [token]
        lengths = np.where(allowed, self._lengths, 0)
        # Of what may follow the longest piece: it has most of an enumeration's value.
        return [int(lengths.argmax())] if lengths.any() else []

    def _first_tokens(self, *texts: str) -> list[int]:
        # Where a text is several tokens, the others follow from the first.
        return [self.tokenizer.tokenize_str(text)[0] for text in texts]

    def _tokens_of_openings(self) -> frozenset[int]:
        openings = tuple(opening.encode() for opening in _OPENINGS)
        return frozenset(
            token
            for token, text in enumerate(self._pieces)
            if text.lstrip(b" ").startswith(openings) or text == b" "
        )

    @cached_property
    def _lengths(self) -> NDArray[np.int32]:
        lengths = [
            0 if token in self._ends else len(text)
            for token, text in enumerate(self._pieces)
        ]
        return np.array(lengths, dtype=np.int32)

    @cached_property
    def _pieces(self) -> list[bytes]:
        decode = self.tokenizer.decode_bytes
        return [decode([token]) for token in range(self.tokenizer.vocab_size)]
