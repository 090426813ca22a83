"""From a list of LangChain messages to one request of a guarded client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage

from langchain_sarguard.blocks import Sound, Text, read_blocks
from langchain_sarguard.errors import AudioHandleError, InvalidInputError
from langchain_sarguard.vault import AudioVault

Role: TypeAlias = Literal["system", "user", "assistant"]

LostAudio: TypeAlias = Literal["raise", "note"]

_NOTE = "[a clip that is no longer available]"
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Hold an encoded clip and the place where it was found."""

    where: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Hold what one party says until the next one speaks."""

    role: Role
    text: str
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Hold a conversation that ends with a question."""

    system: str | None
    history: tuple[Said, ...]
    question: Said

    def clips(self) -> tuple[Clip, ...]:
        """Return every clip, oldest first."""
        return tuple(c for said in (*self.history, self.question) for c in said.clips)


def to_request(
    messages: Sequence[BaseMessage],
    vault: AudioVault,
    *,
    lost_audio: LostAudio = "raise",
) -> Request:
    """Return the request that a list of messages makes.

    Neighbours of one role are one turn, as many chat templates know no other. In a
    turn the clips go before the text.

    Args:
        messages: Oldest first.
        vault: Where clips are that the messages name.
        lost_audio: Whether an earlier message whose clip is gone is an error, or
            says in a note that it is gone.

    Raises:
        InvalidInputError: The list has no question at its end, a system message
            behind other messages, a message of a tool, or a block that cannot be
            used.
    """
    reader = _Reader(vault, last=len(messages) - 1, lost_audio=lost_audio)
    said = list(_merge(reader.read(message, i) for i, message in enumerate(messages)))
    system = said.pop(0).text if said and said[0].role == "system" else None
    if any(turn.role == "system" for turn in said):
        raise InvalidInputError(
            "a system message comes after other messages: system messages have to "
            "come first."
        )
    if not said or said[-1].role != "user":
        last = f"a {type(messages[-1]).__name__}" if messages else "no message at all"
        raise InvalidInputError(
            f"the conversation ends with {last}: end it with a HumanMessage."
        )
    return Request(system=system, history=tuple(said[:-1]), question=said[-1])


class _Reader:
    """Read messages, looking up the clips that they name."""

    def __init__(self, vault: AudioVault, *, last: int, lost_audio: LostAudio) -> None:
        self._vault = vault
        self._last = last
        self._lost_audio = lost_audio

    def read(self, message: BaseMessage, index: int) -> Said:
        where = f"messages[{index}]"
        role = _role(message, where)
        texts: list[str] = []
        clips: list[Clip] = []
        for item in read_blocks(message, where=where):
            found = self._find(item, earlier=index < self._last)
            if isinstance(found, str):
                texts.append(found)
            else:
                clips.append(found)
        text = "\n".join(text for text in texts if text)
        said = Said(role=role, text=text, clips=tuple(clips))
        _check(said, where)
        return said

    def _find(self, item: Text | Sound, *, earlier: bool) -> str | Clip:
        if isinstance(item, Text):
            return item.text
        if item.handle is None:
            return Clip(where=item.where, data=item.read())
        try:
            return Clip(where=item.where, data=self._vault.get(item.handle))
        except AudioHandleError as error:
            if earlier and self._lost_audio == "note":
                return _NOTE
            raise AudioHandleError(f"{item.where}: {error}") from error


def _role(message: BaseMessage, where: str) -> Role:
    if isinstance(message, AIMessage) and message.tool_calls:
        raise InvalidInputError(
            f"{where} calls tools: this model has none. Leave tool calls and their "
            "results out, or put what they found into text."
        )
    kind = message.role if isinstance(message, ChatMessage) else message.type
    if kind not in _ROLES:
        raise InvalidInputError(
            f"{where} is a {type(message).__name__} of kind {kind!r}: this model takes "
            "system, human and AI messages, and has no tools. Put its content into "
            "one of those."
        )
    return _ROLES[kind]


def _check(said: Said, where: str) -> None:
    if said.clips and said.role != "user":
        raise InvalidInputError(
            f"{said.clips[0].where} is audio in a message of the {said.role}: only "
            "human messages can carry audio."
        )
    if said.role == "user" and not said.clips and not said.text.strip():
        raise InvalidInputError(
            f"{where} is empty: give it text, an audio block, or both, or leave it out."
        )


def _merge(turns: Iterable[Said]) -> Iterable[Said]:
    for role, run in groupby(turns, key=lambda turn: turn.role):
        same = list(run)
        yield Said(
            role=role,
            text="\n\n".join(turn.text for turn in same if turn.text),
            clips=tuple(clip for turn in same for clip in turn.clips),
        )
