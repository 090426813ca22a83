"""Tokens to text as they come: the same text whether it is streamed or not.

A piece of text leaves only when nothing that follows can change it: not while a
character still lacks bytes, not while it may turn out to be the start of a stop
string, and not while it may turn out to be white space at the end of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from sarguard.errors import InvalidRequestError
from sarguard.models.untyped import Tokenizer

_INCOMPLETE = "\ufffd"


class AnswerText:
    """The text of one answer, piece by piece.

    The pieces that `push` and `finish` return, joined, are `text`.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = _Detokenizer(tokenizer)
        self._stop = _StopStrings(stop)
        self._trim = _Trim()
        self.text = ""
        self.whole = ""
        """The text with what a stop string cut off, as far as it was made."""

    @property
    def stopped(self) -> bool:
        """Return whether a stop string ended the answer."""
        return self._stop.found

    def push(self, token: int) -> str:
        """Add a token and return the text that nothing can change any more."""
        piece = self._detokenizer.push(token)
        self.whole += piece
        return self._emit(self._stop.push(piece))

    def finish(self) -> str:
        """Return the text that was held back; no token follows."""
        # In this order: the last characters may still complete a stop string. White
        # space that is held after that ends the answer, and is dropped.
        piece = self._detokenizer.finish()
        self.whole += piece
        return self._emit(self._stop.push(piece) + self._stop.finish())

    def _emit(self, piece: str) -> str:
        trimmed = self._trim.push(piece)
        self.text += trimmed
        return trimmed


def parse_stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop strings as a tuple.

    Raises:
        InvalidRequestError: One is empty, or is no string.
    """
    listed = stop if isinstance(stop, (list, tuple, set, frozenset)) else (stop,)
    found = () if stop is None else tuple(listed)
    if not all(isinstance(text, str) and text for text in found):
        raise InvalidRequestError(
            f"stop is {stop!r:.60}: give strings that are not empty; an empty one "
            "would end every answer at once"
        )
    return found


class _Detokenizer:
    """A decoder of a growing list of tokens, a window at a time.

    A tokenizer may decode a token differently at the start of a text, so each window
    begins with tokens that were decoded before.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._known = 0

    def push(self, token: int) -> str:
        self._window.append(token)
        before, after = self._decode()
        # A token may be one byte of a character, or add no text at all.
        if len(after) <= len(before) or after.endswith(_INCOMPLETE):
            return ""
        # What was new becomes the context of the next token, and older tokens go: the
        # work for a token does not grow with the answer.
        self._window = self._window[self._known :]
        self._known = len(self._window)
        return after[len(before) :]

    def finish(self) -> str:
        before, after = self._decode()
        self._window, self._known = [], 0
        return after[len(before) :]

    def _decode(self) -> tuple[str, str]:
        def decode(tokens: list[int]) -> str:
            text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
            return text

        known = self._window[: self._known]
        return decode(known) if known else "", decode(self._window)


class _StopStrings:
    """A filter that ends text before the stop string that begins first."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        if self.found:
            return ""
        text = self._held + piece
        begin = min((i for s in self._stop if (i := text.find(s)) >= 0), default=None)
        if begin is not None:
            self.found, self._held = True, ""
            return text[:begin]
        keep = len(text) - self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Return how many characters at the end may begin a stop string."""
        # A whole stop string was looked for already, so one character less will do. The
        # longest end first: holding too little would let a part of one out.
        max_size = max((len(s) for s in self._stop), default=1) - 1
        for size in range(min(max_size, len(text)), 0, -1):
            if any(s.startswith(text[-size:]) for s in self._stop):
                return size
        return 0


class _Trim:
    """A filter that drops white space at both ends."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""

    def push(self, piece: str) -> str:
        text = self._held + piece
        if not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        kept = text.rstrip()
        self._held = text[len(kept) :]
        return kept
