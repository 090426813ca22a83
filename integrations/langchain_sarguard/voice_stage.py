"""The voice-agent stage that hears and answers, without a transcript.

A voice agent in stages transcribes (speech to text), asks an agent, and speaks (text to
speech). This one stage stands in for the first two: it takes the caller's audio and
yields the agent's events.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import ensure_config
from pydantic import ConfigDict

from langchain_sarguard.audio_handles import (
    AudioStore,
    AudioStream,
    ClipInput,
    handle_block,
    is_handle,
    read_clip,
)
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.guarded_runnables import (
    Guarded,
    GuardedRunnable,
    check_configurable,
)
from langchain_sarguard.iteration import closing, from_sync, iterate
from langchain_sarguard.listener import Listener, until
from langchain_sarguard.messages_out import PROVIDER
from sarguard import Outcome, SarguardError
from sarguard.audio import EndpointingOptions
from sarguard.errors import AudioError, QueueFullError
from sarguard.policy import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChunk:
    """Next piece of the text to speak."""

    text: str
    type: Literal["agent_chunk"] = field(default="agent_chunk", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEnd:
    """End of a turn."""

    type: Literal["agent_end"] = field(default="agent_end", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """Outcome of a turn that is not an answer; comes just before its end."""

    outcome: str
    text: str
    audit_id: str | None = None
    reason: str | None = None
    """`unsupported_audio` where the clip could not be used, `error` where the model was
    busy; None where the outcome says it."""
    type: Literal["guardrail"] = field(default="guardrail", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """The caller began to speak during an answer: stop speaking it.

    It comes just before the turn's end.
    """

    text: str
    """What had been said of the answer."""
    type: Literal["interruption"] = field(default="interruption", init=False)


StageEvent: TypeAlias = AgentChunk | AgentEnd | Guardrail | Interruption


class _Stage(RunnableSerializable[Any, Any]):
    """What `VoicePipelineStage` does; its ways in are guarded there."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chat: ChatSafeAudio
    text: str = ""
    system: str = ""
    endpointing: EndpointingOptions | None = None
    turns: int = 4
    barge_in: bool = True
    barge_in_s: float = 0.3

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[StageEvent]:
        transform: Any = self._transform
        events = self._transform_stream_with_config(input, transform, config, **kwargs)
        yield from events

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[StageEvent]:
        made: list[AsyncGenerator[StageEvent, None]] = []

        def transform(
            input: AsyncIterator[Any], config: RunnableConfig, **kwargs: Any
        ) -> AsyncIterator[StageEvent]:
            made.append(self._atransform(input, config, **kwargs))
            return made[0]

        run: Any = transform
        events = self._atransform_stream_with_config(input, run, config, **kwargs)
        try:
            async with closing(events) as opened:
                async for event in opened:
                    yield event
        finally:
            # langchain-core drops it, so that it would be closed some time later.
            for generator in made:
                await generator.aclose()

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[StageEvent]:
        return list(self.stream(input, config, **kwargs))

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[StageEvent]:
        return [event async for event in self.astream(input, config, **kwargs)]

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[StageEvent]:
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[StageEvent]:
        async def one_item() -> AsyncIterator[Any]:
            yield input

        async for event in self.atransform(one_item(), config, **kwargs):
            yield event

    def _transform(
        self, input: Iterator[Any], config: RunnableConfig, **kwargs: Any
    ) -> Iterator[StageEvent]:
        # One implementation, in an event loop of its own: the stage listens while it
        # answers, whatever its caller does meanwhile.
        yield from iterate(
            lambda: self._events(from_sync(_items(input)), config, kwargs)
        )

    async def _atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig, **kwargs: Any
    ) -> AsyncGenerator[StageEvent, None]:
        async with closing(self._events(_aitems(input), config, kwargs)) as opened:
            async for event in opened:
                yield event

    async def _events(
        self, items: AsyncIterator[Any], config: RunnableConfig, kwargs: dict[str, Any]
    ) -> AsyncIterator[StageEvent]:
        named = kwargs.get("session") or _thread(config)
        # A conversation that nobody named has a name all the same: what was refused in
        # it stays so, and the model goes on from what it has read.
        session = str(named or f"stage-{secrets.token_hex(8)}")
        kwargs = {**kwargs, "session": session}
        conversation = _Conversation(self.chat.audio_store, self.system, self.turns)
        listener = Listener(
            items,
            options=self.endpointing,
            read=self.chat.audio_store.get,
            barge_in_s=self.barge_in_s if self.barge_in else None,
        )
        try:
            async with listener, closing(listener.utterances()) as clips:
                async for clip in clips:
                    answer = self._answer(conversation, clip, listener, config, kwargs)
                    async with closing(answer) as opened:
                        async for event in opened:
                            yield event
        finally:
            # In a thread, as it writes a record.
            end = partial(self._end, conversation, session, kwargs.get("tenant"))
            await asyncio.to_thread(end, keep=bool(named))

    async def _answer(
        self,
        conversation: _Conversation,
        clip: ClipInput,
        listener: Listener,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> AsyncIterator[StageEvent]:
        turn = _Turn()
        try:
            question = await asyncio.to_thread(conversation.ask, clip, self.text)
            messages = conversation.messages(question)
            # A refusal is an event here, whatever the chat model raises elsewhere.
            chat = self.chat.model_copy(update={"raise_on_refusal": False})
            chunks = chat.astream(messages, config, **kwargs)
            async with closing(until(listener.interruption, chunks)) as opened:
                async for chunk in opened:
                    for event in turn.add(chunk):
                        yield event
        except (SarguardError, InvalidInputError, OSError) as error:
            for event in self._without_answer(error, kwargs.get("locale")):
                yield event
            conversation.drop_question()
            return
        for event in turn.finish():
            yield event
        conversation.remember(question, turn.message)

    def _without_answer(
        self, error: Exception, locale: str | None
    ) -> Iterator[StageEvent]:
        """Yield the events of a turn that failed; raise what ends the call.

        One clip that cannot be used is no reason to hang up.
        """
        if isinstance(error, (AudioError, InvalidInputError, OSError)):
            reason = Reason.UNSUPPORTED_AUDIO
        elif isinstance(error, QueueFullError):
            reason = Reason.ERROR
        else:
            raise error
        words = self.chat.client.policy.fallback.message(reason, locale).text
        yield AgentChunk(text=words)
        yield Guardrail(
            outcome=Outcome.ERROR_CLOSED.value, text=words, reason=reason.value
        )
        yield AgentEnd()

    def _end(
        self,
        conversation: _Conversation,
        session: str,
        tenant: str | None,
        *,
        keep: bool,
    ) -> None:
        clips, size = conversation.end()
        if clips:
            self.chat.client.record_release(
                session, tenant=tenant, clips=clips, size=size
            )
        if not keep:
            self.chat.end_session(session, tenant=tenant)


class VoicePipelineStage(Guarded, GuardedRunnable, _Stage):
    """Stage from a stream of audio to events of an agent.

    The events are `AgentChunk`, `AgentEnd`, `Guardrail` and `Interruption`. With
    `endpointing` the stream is 16-bit mono PCM, as bytes or as numpy arrays, in pieces
    of any size, and is cut into utterances at silences. Without, every item is one
    utterance: encoded bytes, a path or a handle. Each stream is a conversation of its
    own. An utterance that cannot be used is a `Guardrail` event. Closing the stream
    frees the model within one decode step, and lets go of the conversation's clips.

    It listens while it answers. Where the caller speaks meanwhile, the answer ends
    within one decode step; what was heard and what had been said stays in the
    conversation. A few utterances may wait; then the stream is not read until there is
    room, so nothing is lost and nothing piles up.
    """

    hears: ClassVar[bool] = True
    answers_streams: ClassVar[bool] = True

    @property
    def InputType(self) -> type[str]:
        """Return `str`, a path or a handle; audio is taken as well."""
        return str

    def __init__(
        self,
        chat: ChatSafeAudio,
        *,
        text: str = "",
        system: str = "",
        endpointing: EndpointingOptions | None = None,
        turns: int = 4,
        barge_in: bool = True,
        barge_in_s: float = 0.3,
        **fields: Any,
    ) -> None:
        """Wrap a chat model.

        Args:
            chat: The chat model that answers.
            text: Goes with every utterance, such as "Answer the caller."
            system: System prompt.
            endpointing: What ends an utterance; None if items are utterances.
            turns: Maximum number of earlier turns that the model sees.
            barge_in: Whether a caller who speaks ends an answer. Switch it off for
                recordings, which are read faster than they are answered. Without
                `endpointing` nothing interrupts.
            barge_in_s: Speech that makes an interruption, in seconds.
            fields: Such as `name`.

        Raises:
            InvalidInputError: `turns` or `barge_in_s` makes no sense.
        """
        if turns < 0:
            raise InvalidInputError(f"turns is {turns}: give 0 or more")
        # Negated, so that NaN is refused too.
        if not barge_in_s > 0:
            raise InvalidInputError(
                f"barge_in_s is {barge_in_s}: give seconds above 0, or barge_in=False"
            )
        # The mixin hides that the next class in line has fields.
        fields_of: Any = super().__init__
        fields_of(
            chat=chat,
            text=text,
            system=system,
            endpointing=endpointing,
            turns=turns,
            barge_in=barge_in,
            barge_in_s=barge_in_s,
            **fields,
        )

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this stage with settings that a configuration may set.

        Raises:
            InvalidInputError: A field is the guard's.
        """
        check_configurable(fields, ("text", "system", "turns", "barge_in"))
        return super().configurable_fields(**fields)


class _Conversation:
    """History of one conversation: its system prompt, its last turns, their clips."""

    def __init__(self, store: AudioStore, system: str, turns: int) -> None:
        self._store = store
        self._system = [SystemMessage(system)] if system else []
        # A turn is a question and its answer.
        self._max_messages = 2 * turns
        self._history: list[BaseMessage] = []
        self._own: dict[str, int] = {}
        """Sizes of the clips that this conversation stored, by handle, oldest first."""
        self._released: list[int] = []
        self._ended = False

    def ask(self, clip: ClipInput, text: str) -> HumanMessage:
        """Return the message of a question; its clip is stored until it is dropped.

        Raises:
            InvalidInputError: The clip is of another type.
            OSError: A file cannot be read.
        """
        if is_handle(clip):
            handle = str(clip)
        else:
            data = read_clip(clip)
            handle = self._store.put(data)
            self._own[handle] = len(data)
            if self._ended:
                # The call was left while its file was read.
                self._release_unused()
        content: list[str | dict[Any, Any]] = [handle_block(handle)]
        if text:
            content.append({"type": "text", "text": text})
        return HumanMessage(content=content)

    def messages(self, question: HumanMessage) -> list[BaseMessage]:
        """Return the messages of the next request."""
        return [*self._system, *self._history, question]

    def remember(self, question: HumanMessage, answer: AIMessage) -> None:
        """Add a turn, and drop the oldest one where there are too many."""
        # With its outcome: what was not answered is not to be answered later.
        said = AIMessage(
            str(answer.text), response_metadata=dict(answer.response_metadata)
        )
        interrupted = said.response_metadata.get("outcome") == Outcome.CANCELLED
        # Cut off before the first word, a question goes on with the next one.
        added = [question] if interrupted and not said.text else [question, said]
        history = [*self._history, *added]
        # A slice from -0 would keep everything.
        self._history = history[-self._max_messages :] if self._max_messages else []
        self._release_unused()

    def drop_question(self) -> None:
        """Let go of the clip of a question that could not be asked."""
        self._release_unused()

    def end(self) -> tuple[int, int]:
        """Let go of every clip; return how many there were, and their size."""
        self._history, self._ended = [], True
        self._release_unused()
        return len(self._released), sum(self._released)

    def _release_unused(self) -> None:
        used = repr([message.content for message in self._history])
        for handle in [h for h in self._own if h not in used]:
            self._store.delete(handle)
            self._released.append(self._own.pop(handle))


class _Turn:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self._message: AIMessage | None = None

    @property
    def message(self) -> AIMessage:
        """Return what was said, with the outcome in its metadata."""
        message = self._message or AIMessage("")
        if "outcome" in message.response_metadata:
            return message
        # Broken off: the chunk that says how it ended never came.
        metadata = {"model_provider": PROVIDER, "outcome": Outcome.CANCELLED.value}
        return AIMessage(str(message.text), response_metadata=metadata)

    def add(self, chunk: AIMessage) -> Iterator[StageEvent]:
        # Chunks add up, metadata included; the outcome is in the last one.
        if isinstance(self._message, AIMessageChunk):
            both: Any = self._message + chunk
            self._message = both
        else:
            self._message = chunk
        if text := str(chunk.text):
            yield AgentChunk(text=text)

    def finish(self) -> Iterator[StageEvent]:
        message = self.message
        metadata = message.response_metadata
        if self._message is None or "outcome" not in self._message.response_metadata:
            yield Interruption(text=str(message.text))
        elif metadata["outcome"] != Outcome.ANSWERED:
            yield Guardrail(
                outcome=str(metadata["outcome"]),
                text=str(message.text),
                audit_id=metadata.get("audit_id"),
            )
        yield AgentEnd()


def _thread(config: RunnableConfig) -> object:
    return ensure_config(config).get("configurable", {}).get("thread_id")


def _items(input: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of a stream, however often it was made one item."""
    for item in input:
        if isinstance(item, AudioStream):
            for inner in _items(item.items):
                if item.closed:
                    return
                yield inner
        else:
            yield item


async def _aitems(input: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in input:
        if isinstance(item, AudioStream):
            async for inner in _aitems(item.items):
                yield inner
        else:
            yield item
