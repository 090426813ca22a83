"""Contexts of a user's own: system prompts, earlier turns and clips, from a file.

    contexts:
      - name: night-desk
        system: You answer the phone of a hotel at night.
        text: Answer the caller.
        history:
          - {role: user, clip: clips/hello.wav}
          - {role: assistant, text: Good evening. How can I help?}
        before: [clips/music.wav]

Clips are paths relative to the file. The request is the newest turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sarguard.errors import ArtifactFormatError, AudioNotFoundError
from sarguard.evaluation.data.contexts import CONTEXTS, Context, after_turns, beside
from sarguard.evaluation.data.items import Item, PastTurn, Sound
from sarguard.evaluation.data.suites import file_reader

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_EXAMPLE = "contexts: [{name: desk, system: You answer the phone.}]"


class _OwnTurn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    text: str = ""
    clip: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> _OwnTurn:
        if not self.text and not self.clip:
            raise ValueError("a turn needs a text or a clip")
        if self.clip and self.role != "user":
            raise ValueError("only a user's turn can have a clip")
        return self


class _OwnContext(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    note: str = ""
    system: str = ""
    text: str = ""
    history: list[_OwnTurn] = Field(default_factory=list)
    before: list[str] = Field(default_factory=list)
    behind: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_a_context(self) -> _OwnContext:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name is {self.name!r}: give 1 to 40 lower-case letters, digits and "
                "dashes"
            )
        if self.name in CONTEXTS:
            raise ValueError(f"there is a context {self.name} already: rename yours")
        roles = [turn.role for turn in self.history]
        # Chat templates refuse other orders, or leave turns out without a word.
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                "history has to be turns of user and assistant by turns, the user "
                "first and the assistant last, since the request comes next"
            )
        if not (self.system or self.text or self.history or self.before or self.behind):
            raise ValueError("it adds nothing: give a system prompt, a text, a history")
        return self


class _OwnContexts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    contexts: list[_OwnContext] = Field(min_length=1)


def own_contexts(values: Mapping[str, Any], *, source: Path) -> list[Context]:
    """Return the contexts that a file holds.

    Args:
        values: The file's content, read.
        source: The file; paths of clips are relative to it.

    Raises:
        ArtifactFormatError: The content is something else; the error says where.
        AudioNotFoundError: A clip is missing.
    """
    try:
        found = _OwnContexts.model_validate(values).contexts
    except ValidationError as error:
        raise ArtifactFormatError(_described(error, source)) from error
    names = [context.name for context in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ArtifactFormatError(
            f"{source}: two contexts are called {', '.join(twice)}: rename one"
        )
    return [_context(context, source) for context in found]


def _described(error: ValidationError, source: Path) -> str:
    first = error.errors()[0]
    place = ".".join(
        str(part + 1) if isinstance(part, int) else part for part in first["loc"]
    )
    said = first["msg"].removeprefix("Value error, ")
    return (
        f"{source}, {place or 'content'}: {said}. Write contexts as `{_EXAMPLE}` "
        "(docs/evaluation.md)"
    )


def _context(given: _OwnContext, source: Path) -> Context:
    history = tuple(
        PastTurn(
            role=turn.role,
            text=turn.text,
            sounds=_sounds([turn.clip] if turn.clip else [], given.name, source),
        )
        for turn in given.history
    )
    change = partial(
        _put,
        given=given,
        history=history,
        before=_sounds(given.before, given.name, source),
        behind=_sounds(given.behind, given.name, source),
    )
    return Context(name=given.name, note=given.note or "your own", change=change)


def _put(
    item: Item,
    *,
    given: _OwnContext,
    history: Sequence[PastTurn],
    before: tuple[Sound, ...],
    behind: tuple[Sound, ...],
) -> Item:
    said = beside(item, given.text) if given.text else item
    placed = replace(said, system=given.system, before=before, behind=behind)
    return after_turns(placed, history)


def _sounds(names: Sequence[str], context: str, source: Path) -> tuple[Sound, ...]:
    return tuple(_sound(name, context, source) for name in names)


def _sound(name: str, context: str, source: Path) -> Sound:
    file = source.parent / name
    if not file.is_file():
        raise AudioNotFoundError(
            f"{source}: context {context} names the clip {name}, and there is no file "
            f"{file}: paths are relative to the file"
        )
    return Sound(name=name, load=file_reader(file))
