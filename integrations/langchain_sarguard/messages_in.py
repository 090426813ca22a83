"""From a list of LangChain messages to a conversation that a guarded client answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage

from langchain_sarguard.audio_handles import AudioStore
from langchain_sarguard.content_blocks import AudioPart, parse_content
from langchain_sarguard.errors import AudioHandleError, InvalidInputError
from langchain_sarguard.messages_out import PROVIDER
from sarguard import Outcome

Role: TypeAlias = Literal["system", "user", "assistant"]

LostAudio: TypeAlias = Literal["raise", "note"]

_LOST_CLIP = "[a clip that is no longer available]"
_WITHOUT_ANSWER = (Outcome.BLOCKED, Outcome.OVER_LIMIT, Outcome.ERROR_CLOSED)
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClip:
    """Encoded clip, and the block that it comes from."""

    where: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTurn:
    """What one party says until the other one speaks."""

    role: Role
    text: str
    clips: tuple[EncodedClip, ...] = ()
    outcome: Outcome | None = None
    """How the request ended whose reply this is, where the message says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedConversation:
    """Conversation that ends with a question."""

    system: str | None
    history: tuple[ParsedTurn, ...]
    question: ParsedTurn

    def clips(self) -> tuple[EncodedClip, ...]:
        """Return every clip, oldest first."""
        return tuple(c for turn in (*self.history, self.question) for c in turn.clips)


def parse_messages(
    messages: Sequence[BaseMessage],
    store: AudioStore,
    *,
    lost_audio: LostAudio = "raise",
    conversation: Hashable | None = None,
) -> ParsedConversation:
    """Return the conversation that a list of messages makes.

    Neighbours of one role are one turn, as many chat templates know no other. In a
    turn the clips go before the text.

    Args:
        messages: Oldest first.
        store: Where handles in the messages are looked up.
        lost_audio: Whether the lost clip of an earlier message is an error ("raise"),
            or is replaced by a note.
        conversation: The session that the messages belong to; its clips stay in the
            store until it ends.

    Raises:
        InvalidInputError: The list has no question at its end, a system message after
            other messages, a message of a tool, or a block that cannot be used.
    """
    find = partial(_find, store=store, conversation=conversation)
    turns = list(_merge(_parse_each(messages, find, lost_audio)))
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    if any(turn.role == "system" for turn in turns):
        raise InvalidInputError(
            "a system message comes after other messages: system messages have to "
            "come first."
        )
    if not turns or turns[-1].role != "user":
        last = f"a {type(messages[-1]).__name__}" if messages else "no message at all"
        raise InvalidInputError(
            f"the conversation ends with {last}: end it with a HumanMessage."
        )
    return ParsedConversation(
        system=system, history=tuple(turns[:-1]), question=turns[-1]
    )


def parse_turns(messages: Sequence[BaseMessage], store: AudioStore) -> list[ParsedTurn]:
    """Return the turns of a part of a conversation, for counting.

    Raises:
        InvalidInputError: A message cannot be used.
    """
    return list(_merge(_parse_each(messages, partial(_find, store=store), "note", 0)))


def _parse_each(
    messages: Sequence[BaseMessage],
    find: Callable[..., str | EncodedClip],
    lost_audio: LostAudio,
    needed: int = 1,
) -> Iterator[ParsedTurn]:
    """Yield each message as a turn."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = _role(message, where)
        # Only the history may lack a clip: without the question's there is no question.
        may_be_lost = lost_audio == "note" and index < len(messages) - needed
        texts: list[str] = []
        clips: list[EncodedClip] = []
        for part in parse_content(message, where=where):
            found = part if isinstance(part, str) else find(part, may_be_lost)
            if isinstance(found, str):
                texts.append(found)
            else:
                clips.append(found)
        text = "\n".join(text for text in texts if text)
        turn = ParsedTurn(
            role=role, text=text, clips=tuple(clips), outcome=_outcome(message)
        )
        _check(turn, where)
        yield turn


def _find(
    part: AudioPart,
    may_be_lost: bool,
    *,
    store: AudioStore,
    conversation: Hashable | None = None,
) -> str | EncodedClip:
    """Return a clip, or a note in place of one that may be lost."""
    if part.handle is None:
        return EncodedClip(where=part.where, data=part.read())
    try:
        return EncodedClip(
            where=part.where, data=store.get(part.handle, conversation=conversation)
        )
    except AudioHandleError as error:
        if may_be_lost:
            return _LOST_CLIP
        raise AudioHandleError(f"{part.where}: {error}") from error
    except InvalidInputError as error:
        # Lent for this call, and not decoded before.
        raise InvalidInputError(f"{part.where}: {error}") from error


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


def _outcome(message: BaseMessage) -> Outcome | None:
    """Return the outcome that one of our own messages carries."""
    metadata = message.response_metadata
    if message.type != "ai" or metadata.get("model_provider") != PROVIDER:
        return None
    known = {outcome.value: outcome for outcome in Outcome}
    return known.get(str(metadata.get("outcome")))


def _check(turn: ParsedTurn, where: str) -> None:
    if turn.clips and turn.role != "user":
        raise InvalidInputError(
            f"{turn.clips[0].where} is audio in a message of the {turn.role}: only "
            "human messages can carry audio."
        )
    if turn.role == "user" and not turn.clips and not turn.text.strip():
        raise InvalidInputError(
            f"{where} is empty: give it text, an audio block, or both, or leave it out."
        )


def _merge(turns: Iterable[ParsedTurn]) -> Iterator[ParsedTurn]:
    """Yield the turns with neighbours of one role joined."""
    for role, neighbours in groupby(turns, key=lambda turn: turn.role):
        same = list(neighbours)
        outcomes = [turn.outcome for turn in same if turn.outcome is not None]
        # One that holds no answer makes the whole turn one: it is left out then.
        blocked = [o for o in outcomes if o in _WITHOUT_ANSWER]
        yield ParsedTurn(
            role=role,
            text="\n\n".join(turn.text for turn in same if turn.text),
            clips=tuple(clip for turn in same for clip in turn.clips),
            outcome=next(iter([*blocked, *reversed(outcomes)]), None),
        )
