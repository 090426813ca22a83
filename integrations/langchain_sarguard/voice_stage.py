"""The voice-agent stage that hears and answers, without a transcript.

A voice agent in stages transcribes (speech to text), asks an agent, and speaks (text to
speech). This one stage stands in for the first two: it takes the caller's audio and
yields the agent's events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.runnables import RunnableConfig

from langchain_sarguard.audio_handles import ClipInput, audio_message, wav_bytes
from langchain_sarguard.audio_runnables import AudioRunnable
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.guarded_runnables import Guarded
from sarguard.audio import Endpointer, EndpointingOptions


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
    type: Literal["guardrail"] = field(default="guardrail", init=False)


StageEvent: TypeAlias = AgentChunk | AgentEnd | Guardrail


class VoicePipelineStage(Guarded, AudioRunnable):
    """Stage from a stream of audio to `agent_chunk`, `guardrail`, `agent_end` events.

    With `endpointing` the stream is 16-bit mono PCM, cut into utterances at silences.
    Without, every item is one utterance: encoded bytes, a path or a handle. Each
    stream is a conversation of its own. Closing it frees the model within one decode
    step.
    """

    def __init__(
        self,
        chat: ChatSafeAudio,
        *,
        text: str = "",
        system: str = "",
        endpointing: EndpointingOptions | None = None,
        turns: int = 4,
    ) -> None:
        """Wrap a chat model.

        Args:
            chat: The chat model that answers.
            text: Goes with every utterance, such as "Answer the caller."
            system: System prompt.
            endpointing: What ends an utterance; None if items are utterances.
            turns: Maximum number of earlier turns that the model sees.
        """
        self._chat = chat
        self._text = text
        self._system = system
        self._endpointing = endpointing
        self._turns = turns

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[StageEvent]:
        """Yield the events of one conversation."""
        conversation = _Conversation(self._system, self._turns)
        utterances = _Utterances(self._endpointing)
        for item in input:
            for clip in utterances.push(item):
                yield from self._answer(conversation, clip, config, kwargs)
        for clip in utterances.flush():
            yield from self._answer(conversation, clip, config, kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[StageEvent]:
        """Yield the events of one conversation without blocking the event loop."""
        conversation = _Conversation(self._system, self._turns)
        utterances = _Utterances(self._endpointing)
        async for item in input:
            # Cutting and encoding samples is work, so a thread does it; each piece is
            # awaited before the next, as an endpointer is not thread-safe.
            for clip in await asyncio.to_thread(list, utterances.push(item)):
                async for event in self._aanswer(conversation, clip, config, kwargs):
                    yield event
        for clip in await asyncio.to_thread(list, utterances.flush()):
            async for event in self._aanswer(conversation, clip, config, kwargs):
                yield event

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[StageEvent]:
        """Return the events of a conversation with one item."""
        return list(self.transform(iter([input]), config, **kwargs))

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[StageEvent]:
        """Yield the events of a conversation with one item."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[StageEvent]:
        """Yield the events of a conversation with one item."""

        async def one_item() -> AsyncIterator[Any]:
            yield input

        async for event in self.atransform(one_item(), config, **kwargs):
            yield event

    def _answer(
        self,
        conversation: _Conversation,
        clip: ClipInput,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> Iterator[StageEvent]:
        turn = _Turn(self._question(clip))
        messages = conversation.messages(turn.question)
        for chunk in self._chat.stream(messages, config, **kwargs):
            yield from turn.add(chunk)
        yield from turn.finish(conversation)

    async def _aanswer(
        self,
        conversation: _Conversation,
        clip: ClipInput,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> AsyncIterator[StageEvent]:
        turn = _Turn(await asyncio.to_thread(self._question, clip))
        messages = conversation.messages(turn.question)
        async for chunk in self._chat.astream(messages, config, **kwargs):
            for event in turn.add(chunk):
                yield event
        for event in turn.finish(conversation):
            yield event

    def _question(self, clip: ClipInput) -> HumanMessage:
        return audio_message(clip, self._text, audio_store=self._chat.audio_store)


class _Conversation:
    """History of one conversation: its system prompt and its last turns."""

    def __init__(self, system: str, turns: int) -> None:
        self._system = [SystemMessage(system)] if system else []
        # A turn is a question and its answer.
        self._max_messages = 2 * turns
        self._history: list[BaseMessage] = []

    def messages(self, question: HumanMessage) -> list[BaseMessage]:
        """Return the messages of the next request."""
        return [*self._system, *self._history, question]

    def remember(self, question: HumanMessage, answer: AIMessage) -> None:
        """Add a turn, and drop the oldest one where there are too many."""
        # With its outcome: what was not answered is not to be answered later.
        said = AIMessage(
            str(answer.text), response_metadata=dict(answer.response_metadata)
        )
        history = [*self._history, question, said]
        # A slice from -0 would keep everything.
        self._history = history[-self._max_messages :] if self._max_messages else []


class _Utterances:
    """Clips from the items of a stream."""

    def __init__(self, options: EndpointingOptions | None) -> None:
        self._rate = 0 if options is None else options.sample_rate
        self._endpointer = None if options is None else Endpointer(options)

    def push(self, item: Any) -> Iterator[ClipInput]:
        if self._endpointer is None:
            yield item
            return
        for samples in self._endpointer.push(item):
            yield wav_bytes(samples, sample_rate=self._rate)

    def flush(self) -> Iterator[ClipInput]:
        if self._endpointer is not None:
            for samples in self._endpointer.flush():
                yield wav_bytes(samples, sample_rate=self._rate)


class _Turn:
    """Question, and its answer as far as it has come."""

    def __init__(self, question: HumanMessage) -> None:
        self.question = question
        self._message: AIMessage | None = None

    def add(self, chunk: AIMessage) -> Iterator[StageEvent]:
        # Chunks add up, metadata included; the outcome is in the last one.
        if isinstance(self._message, AIMessageChunk):
            both: Any = self._message + chunk
            self._message = both
        else:
            self._message = chunk
        if text := str(chunk.text):
            yield AgentChunk(text=text)

    def finish(self, conversation: _Conversation) -> Iterator[StageEvent]:
        message = self._message or AIMessage("")
        metadata = message.response_metadata
        if metadata.get("outcome") != "answered":
            yield Guardrail(
                outcome=str(metadata.get("outcome")),
                text=str(message.text),
                audit_id=metadata.get("audit_id"),
            )
        # Remembered whatever the outcome: it is what the caller heard.
        conversation.remember(self.question, message)
        yield AgentEnd()
