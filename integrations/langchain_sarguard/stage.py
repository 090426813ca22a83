"""The stage of a voice agent that hears and answers, in place of two others.

A voice agent built from stages transcribes, asks an agent, and speaks. This one stage
takes the caller's sound and yields the agent's events; no transcript is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableConfig

from langchain_sarguard.audio_handles import Clip, audio_message, wav_bytes
from langchain_sarguard.audio_runnables import SoundRunnable
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.guarded_runnables import Guarded
from langchain_sarguard.messages import Conversation
from sarguard.audio.endpointing import Endpointer, EndpointingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChunk:
    """Hold the next piece of what the agent says."""

    text: str
    type: Literal["agent_chunk"] = field(default="agent_chunk", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEnd:
    """Say that the agent has said everything."""

    type: Literal["agent_end"] = field(default="agent_end", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """Say how the guard ended a turn; comes between the last chunk and the end."""

    outcome: str
    text: str
    audit_id: str | None = None
    type: Literal["guardrail"] = field(default="guardrail", init=False)


StageEvent: TypeAlias = AgentChunk | AgentEnd | Guardrail


class SafeAudioStage(Guarded, SoundRunnable):
    """Take a stream of sound and yield `agent_chunk`, `guardrail` and `agent_end`.

    With `pauses` the stream is raw 16-bit mono PCM, cut at pauses. Without, every
    item is one utterance: encoded bytes, a path or a vault's handle. Each stream is a
    conversation of its own. Whoever stops listening frees the model within one
    decode step.
    """

    def __init__(
        self,
        chat: ChatSafeAudio,
        *,
        text: str = "",
        system: str = "",
        pauses: EndpointingOptions | None = None,
        turns: int = 4,
    ) -> None:
        """Make one.

        Args:
            chat: Answers.
            text: Goes with every utterance, such as "Answer the caller."
            system: System prompt.
            pauses: What ends an utterance; None if items are utterances.
            turns: Most earlier turns that the model is reminded of.
        """
        self._chat = chat
        self._text = text
        self._system = system
        self._pauses = pauses
        self._turns = turns

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[StageEvent]:
        """Yield the events of one conversation."""
        conversation = Conversation(system=self._system, turns=self._turns)
        cutter = _Cutter(self._pauses)
        for item in input:
            for clip in cutter.push(item):
                yield from self._answer(conversation, clip, config, kwargs)
        for clip in cutter.finish():
            yield from self._answer(conversation, clip, config, kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[StageEvent]:
        """Yield the events of one conversation without blocking the event loop."""
        conversation = Conversation(system=self._system, turns=self._turns)
        cutter = _Cutter(self._pauses)
        async for item in input:
            for clip in await asyncio.to_thread(list, cutter.push(item)):
                async for event in self._aanswer(conversation, clip, config, kwargs):
                    yield event
        for clip in await asyncio.to_thread(list, cutter.finish()):
            async for event in self._aanswer(conversation, clip, config, kwargs):
                yield event

    def invoke(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[StageEvent]:
        """Return the events of a conversation with one item."""
        return list(self.transform(iter([input]), config, **kwargs))

    def stream(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[StageEvent]:
        """Yield the events of a conversation with one item."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[StageEvent]:
        """Yield the events of a conversation with one item."""

        async def one() -> AsyncIterator[Any]:
            yield input

        async for event in self.atransform(one(), config, **kwargs):
            yield event

    def _answer(
        self,
        conversation: Conversation,
        clip: Clip,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> Iterator[StageEvent]:
        turn = _Turn(self._question(clip))
        asked = list(conversation.ask(turn.question))
        for chunk in self._chat.stream(asked, config, **kwargs):
            yield from turn.hear(chunk)
        yield from turn.finish(conversation)

    async def _aanswer(
        self,
        conversation: Conversation,
        clip: Clip,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
    ) -> AsyncIterator[StageEvent]:
        turn = _Turn(await asyncio.to_thread(self._question, clip))
        asked = list(conversation.ask(turn.question))
        async for chunk in self._chat.astream(asked, config, **kwargs):
            for event in turn.hear(chunk):
                yield event
        for event in turn.finish(conversation):
            yield event

    def _question(self, clip: Clip) -> HumanMessage:
        return audio_message(clip, self._text, vault=self._chat.vault)


class _Cutter:
    """Make clips of a stream's items."""

    def __init__(self, pauses: EndpointingOptions | None) -> None:
        self._rate = 0 if pauses is None else pauses.sample_rate
        self._endpointer = None if pauses is None else Endpointer(pauses)

    def push(self, item: Any) -> Iterator[Clip]:  # noqa: ANN401
        if self._endpointer is None:
            yield item
            return
        for samples in self._endpointer.push(item):
            yield wav_bytes(samples, sample_rate=self._rate)

    def finish(self) -> Iterator[Clip]:
        if self._endpointer is not None:
            for samples in self._endpointer.finish():
                yield wav_bytes(samples, sample_rate=self._rate)


class _Turn:
    """Follow one answer from its first chunk to what is remembered of it."""

    def __init__(self, question: HumanMessage) -> None:
        self.question = question
        self._message: AIMessage | None = None

    def hear(self, chunk: AIMessage) -> Iterator[StageEvent]:
        if isinstance(self._message, AIMessageChunk):
            both: Any = self._message + chunk
            self._message = both
        else:
            self._message = chunk
        if text := str(chunk.text):
            yield AgentChunk(text=text)

    def finish(self, conversation: Conversation) -> Iterator[StageEvent]:
        message = self._message or AIMessage("")
        metadata = message.response_metadata
        if metadata.get("outcome") != "answered":
            yield Guardrail(
                outcome=str(metadata.get("outcome")),
                text=str(message.text),
                audit_id=metadata.get("audit_id"),
            )
        conversation.note(self.question, str(message.text))
        yield AgentEnd()
