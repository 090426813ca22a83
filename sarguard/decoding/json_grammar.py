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
from sarguard.errors import InvalidRequestError
from sarguard.extras import missing_extra
from sarguard.models.loading import LoadedModel

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_REFUSAL_OPENINGS = (
    *("I cannot", "I can't", "I can\u2019t", "I can not", "I could not"),
    *("I couldn't", "I will not", "I won't", "I am not able", "I'm not able"),
    *("I am unable", "I'm unable", "I must decline", "I have to decline"),
    *("I am sorry", "I'm sorry", "I\u2019m sorry", "I apologize", "I apologise"),
    *("Sorry", "Unfortunately, I cannot", "Unfortunately, I can't"),
)
_MAX_REFUSAL_CHARS = 300
# One space at most, whatever a caller's schema says: a model that may write white
# space for ever sometimes does.
_SPACES = {"whitespace_flexible": True, "whitespace_pattern": " ?"}

# Weak: a converted tokenizer goes when its model does.
_tokenizers: weakref.WeakKeyDictionary[Any, LLTokenizer] = weakref.WeakKeyDictionary()
# Callers' threads compile schemas at once; a tokenizer is converted for one of them.
_converting = threading.Lock()


class JsonGrammar:
    """A schema compiled for one model; any number of answers may use it."""

    def __init__(self, start: LLMatcher) -> None:
        self._start = start

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
        start = LLMatcher(_tokenizer(loaded), _write_grammar(schema), log_level=0)
        if start.is_error():
            raise InvalidRequestError(
                f"json_schema cannot be followed: {start.get_error().splitlines()[0]}"
            )
        return cls(start)

    def matcher(self) -> JsonMatcher:
        """Return a matcher for one answer, at its beginning."""
        return JsonMatcher(self._start.deep_copy())


class JsonMatcher:
    """Where one answer stands in a schema's grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def fault(self) -> str | None:
        """Return why the schema can be followed no further; None where it can."""
        # The lines after the first quote the answer, which is content.
        found = self._matcher.get_error().splitlines()
        return found[0] if found else None

    def mask(self, scores: Tensor) -> Tensor:
        """Return scores, (vocabulary,), with -inf for every token that may not follow.

        After a fault only the end of the answer may.
        """
        # Copied, as torch.frombuffer warns of memory that cannot be written.
        bias = bytearray(self._matcher.compute_logit_bias())
        allowed = torch.frombuffer(bias, dtype=torch.uint8).bool()
        # Models may have more scores than their tokenizer has tokens.
        kept = torch.zeros(scores.shape[-1], dtype=torch.bool)
        size = min(len(allowed), len(kept))
        kept[:size] = allowed[:size]
        return scores.masked_fill(~kept.to(scores.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Move on past a token."""
        self._matcher.consume_token(token)


def declines(text: str) -> bool:
    """Return whether an answer under a schema took the branch of the refusals."""
    return text.startswith(_REFUSAL_OPENINGS)


def _tokenizer(loaded: LoadedModel) -> LLTokenizer:
    from llguidance.hf import from_tokenizer

    with _converting:
        if loaded.tokenizer not in _tokenizers:
            try:
                made = from_tokenizer(
                    loaded.tokenizer, eos_token=list(stop_tokens(loaded)) or None
                )
            except ValueError as error:
                raise InvalidRequestError(
                    f"json_schema cannot be used with {loaded.name}: llguidance cannot "
                    f"read a {type(loaded.tokenizer).__name__} ({error})"
                ) from error
            _tokenizers[loaded.tokenizer] = made
        return _tokenizers[loaded.tokenizer]


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
