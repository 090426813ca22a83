"""Answers that follow a JSON schema, or decline.

A model that can write nothing but JSON cannot decline, so a schema would be a way
around the guard. The grammar therefore has a second branch: a refusal of one line,
recognised by its first words. No JSON text begins with a capital letter, so the first
token decides between the two, and the steered state decides on the first token.
"""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sarguard.decoding.generation_config import stop_tokens
from sarguard.decoding.json_ending import ShortestEnding
from sarguard.errors import InvalidRequestError
from sarguard.extras import missing_extra
from sarguard.models.loading import LoadedModel

if TYPE_CHECKING:
    from llguidance import LLMatcher

_REFUSAL_OPENINGS = (
    *("I cannot", "I can't", "I can\u2019t", "I can not", "I could not"),
    *("I couldn't", "I will not", "I won't", "I am not able", "I'm not able"),
    *("I am unable", "I'm unable", "I must decline", "I have to decline"),
    *("I am sorry", "I'm sorry", "I\u2019m sorry", "I apologize", "I apologise"),
    *("Sorry", "Unfortunately, I cannot", "Unfortunately, I can't"),
)
_MAX_REFUSAL_CHARS = 300
_MARGIN = 24
"""Tokens that one more may add to the shortest ending, such as what an object needs."""
_TRIED = 8
"""Likeliest tokens that are tried where tokens run short."""
# One space at most, whatever a caller's schema says: a model that may write white
# space for ever sometimes does.
_SPACES = {"whitespace_flexible": True, "whitespace_pattern": " ?"}

# Weak: a converted tokenizer goes when its model does.
_endings: weakref.WeakKeyDictionary[Any, ShortestEnding] = weakref.WeakKeyDictionary()
# Callers' threads compile schemas at once; a tokenizer is converted for one of them.
_converting = threading.Lock()


class JsonGrammar:
    """A schema compiled for one model; any number of answers may use it."""

    def __init__(self, start: LLMatcher, ending: ShortestEnding) -> None:
        self._start = start
        self._ending = ending

    @classmethod
    def compile(cls, loaded: LoadedModel, schema: Mapping[str, Any]) -> JsonGrammar:
        """Compile a schema; the first for a model takes about a second.

        Raises:
            InvalidRequestError: It is no schema, or one that cannot be followed, or the
                model's tokenizer cannot be read.
            MissingDependencyError: llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise missing_extra("json_schema", "json", error) from error
        ending = _ending(loaded)
        start = LLMatcher(ending.tokenizer, _write_grammar(schema), log_level=0)
        if start.is_error():
            raise InvalidRequestError(
                f"json_schema cannot be followed: {_explain(start.get_error())}"
            )
        return cls(start, ending)

    def matcher(self, max_tokens: int) -> JsonMatcher:
        """Return a matcher for one answer, at its beginning.

        Args:
            max_tokens: The most tokens of the answer, the one that ends it among them.
        """
        return JsonMatcher(self._start.deep_copy(), self._ending, max_tokens)


class JsonMatcher:
    """Where one answer stands in a schema's grammar."""

    def __init__(
        self, matcher: LLMatcher, ending: ShortestEnding, max_tokens: int
    ) -> None:
        self._matcher = matcher
        self._ending = ending
        self._left = max_tokens
        self._begun = False
        shortest = ending.find(matcher, limit=max_tokens)
        # Where not even the shortest text fits, the answer is cut, and says so. Texts
        # end in about as many tokens wherever they stand, so the first are not looked
        # at one by one.
        self._watched = 0 if shortest is None else 2 * len(shortest) + _MARGIN

    @property
    def fault(self) -> str | None:
        """Return why the schema can be followed no further; None where it can."""
        # The lines after the first quote the answer, which is content.
        found = self._matcher.get_error().splitlines()
        return found[0] if found else None

    def mask(self, scores: Tensor, *, suspect: bool = False) -> Tensor:
        """Return scores, (vocabulary,), with -inf for every token that may not follow.

        After a fault only the end of the answer may.

        Args:
            scores: Of one row.
            suspect: Whether the request may be harmful: then the answer declines as
                soon as that is likelier than JSON.
        """
        # Copied, as torch.frombuffer warns of memory that cannot be written.
        bias = bytearray(self._matcher.compute_logit_bias())
        allowed = torch.frombuffer(bias, dtype=torch.uint8).bool()
        # Models may have more scores than their tokenizer has tokens.
        kept = torch.zeros(scores.shape[-1], dtype=torch.bool)
        size = min(len(allowed), len(kept))
        kept[:size] = allowed[:size]
        if not self._begun and not suspect:
            kept &= self._first_tokens(kept, scores)
        masked = scores.masked_fill(~kept.to(scores.device), float("-inf"))
        return self._fitting(masked) if self._left <= self._watched else masked

    def accept(self, token: int) -> None:
        """Move on past a token."""
        self._left -= 1
        if not self._begun and token not in self._ending.brackets:
            # A refusal may be cut like any other text.
            self._watched = 0
        self._begun = True
        self._matcher.consume_token(token)

    def _first_tokens(self, allowed: Tensor, scores: Tensor) -> Tensor:
        """Return which tokens may begin the answer to a request that looks harmless.

        Models would rather begin in words than with a bracket. Of two beginnings that
        are both unlikely, that of a refusal would often win, and mean nothing: so the
        model declines only where it would have without a schema.
        """
        declining = allowed.clone()
        declining[list(self._ending.brackets)] = False
        if declining[int(scores.argmax())]:
            return allowed
        return ~declining

    def _fitting(self, scores: Tensor) -> Tensor:
        """Return scores with -inf for tokens after which the text could not end."""
        shortest = self._ending.find(self._matcher, limit=self._left)
        if shortest is None or len(shortest) + _MARGIN < self._left:
            return scores
        likeliest, tokens = scores.topk(min(_TRIED, scores.shape[-1]))
        tried = [
            int(token)
            for score, token in zip(likeliest, tokens, strict=True)
            if score > float("-inf")
        ]
        fitting = [token for token in tried if self._fits(token)] or shortest[:1]
        kept = torch.full_like(scores, float("-inf"))
        # Of the ending's own, whose score may be any.
        kept[fitting] = scores[fitting].clamp(min=torch.finfo(scores.dtype).min)
        return kept

    def _fits(self, token: int) -> bool:
        after = self._matcher.deep_copy()
        if not after.consume_token(token):
            return False
        if after.is_stopped():
            return True
        return self._ending.find(after, limit=self._left - 1) is not None


def declines(text: str) -> bool:
    """Return whether an answer under a schema took the branch of the refusals."""
    return text.startswith(_REFUSAL_OPENINGS)


def _ending(loaded: LoadedModel) -> ShortestEnding:
    """Return what ends JSON texts in the model's tokens, made once for each model."""
    from llguidance.hf import from_tokenizer

    with _converting:
        if loaded.tokenizer not in _endings:
            try:
                made = from_tokenizer(
                    loaded.tokenizer, eos_token=list(stop_tokens(loaded)) or None
                )
            except ValueError as error:
                raise InvalidRequestError(
                    f"json_schema cannot be used with {loaded.name}: llguidance cannot "
                    f"read a {type(loaded.tokenizer).__name__} ({error})"
                ) from error
            _endings[loaded.tokenizer] = ShortestEnding(made)
        return _endings[loaded.tokenizer]


def _explain(error: str) -> str:
    """Return why a schema cannot be followed, without the grammar that is quoted."""
    told = re.split(r"^\s*\d+ \|", error, maxsplit=1, flags=re.MULTILINE)[0]
    told = told.split("failed to compile JSON schema:")[-1]
    lines = (line.strip() for line in told.splitlines())
    return " ".join(line for line in lines if line.strip("^"))


def _write_grammar(schema: Mapping[str, Any]) -> str:
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(
            f"json_schema is a {type(schema).__name__}: give a JSON schema as a mapping"
        )
    try:
        # Last in the mapping, so that a schema cannot set it otherwise.
        written = json.dumps({**schema, "x-guidance": _SPACES})
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"json_schema cannot be written as JSON ({error}): give plain values"
        ) from error
    openings = "|".join(map(re.escape, _REFUSAL_OPENINGS)).replace("\\ ", " ")
    return (
        "start: json | REFUSAL\n"
        f"json: %json {written}\n"
        f"REFUSAL: /({openings})[^\\n]{{0,{_MAX_REFUSAL_CHARS}}}/\n"
    )
