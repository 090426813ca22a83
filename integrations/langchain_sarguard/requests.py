"""From a list of LangChain messages to one request of a guarded client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage

from langchain_sarguard.blocks import Clip, Content, read_content

Role: TypeAlias = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
}


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


def to_request(messages: Sequence[BaseMessage]) -> Request:
    """Return the request that a list of messages makes.

    Neighbours of one role are one turn, as many chat templates know no other. In a
    turn the clips go before the text.

    Raises:
        ValueError: The list has no question at its end, a system message behind
            other messages, a message of a tool, or a block that cannot be used.
    """
    said = list(_merge(_read(message, i) for i, message in enumerate(messages)))
    system = said.pop(0).text if said and said[0].role == "system" else None
    if any(turn.role == "system" for turn in said):
        raise ValueError(
            "a system message comes after other messages: system messages have to "
            "come first."
        )
    if not said or said[-1].role != "user":
        last = f"a {type(messages[-1]).__name__}" if messages else "no message at all"
        raise ValueError(
            f"the conversation ends with {last}: end it with a HumanMessage."
        )
    return Request(system=system, history=tuple(said[:-1]), question=said[-1])


def _read(message: BaseMessage, index: int) -> Said:
    where = f"messages[{index}]"
    role = _role(message, where)
    content = read_content(message, where=where)
    _check(role, content, where)
    return Said(role=role, text=content.text, clips=content.clips)


def _role(message: BaseMessage, where: str) -> Role:
    if isinstance(message, AIMessage) and message.tool_calls:
        raise ValueError(
            f"{where} calls tools: this model has none. Leave tool calls and their "
            "results out, or put what they found into text."
        )
    kind = message.role if isinstance(message, ChatMessage) else message.type
    if kind not in _ROLES:
        raise ValueError(
            f"{where} is a {type(message).__name__} of kind {kind!r}: this model takes "
            "system, human and AI messages, and has no tools. Put its content into "
            "one of those."
        )
    return _ROLES[kind]


def _check(role: Role, content: Content, where: str) -> None:
    if content.clips and role != "user":
        raise ValueError(
            f"{content.clips[0].where} is audio in a message of the {role}: only "
            "human messages can carry audio."
        )
    if role == "user" and not content.clips and not content.text.strip():
        raise ValueError(
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
