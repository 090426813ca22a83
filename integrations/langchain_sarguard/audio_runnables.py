"""Runnables that take audio in, and sequences behind them that never trace it.

langchain-core records the input of a sequence, so a sequence that began with audio
would hand a voice to every tracer. An `AudioSequence` opens no run of its own: only
what its first runnable returns is recorded, by the runnables behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    SystemMessage,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import coerce_to_runnable

from langchain_sarguard.audio_handles import ClipInput, audio_message
from langchain_sarguard.guarded_runnables import Guarded, as_guarded, check_guarded

if TYPE_CHECKING:
    # The chat model's own structured output is an audio sequence.
    from langchain_sarguard.chat_models import ChatSafeAudio


class AudioRunnable(Runnable[Any, Any]):
    """Runnable with audio as its input, which it does not record."""

    def __or__(self, other: Any) -> Any:
        return AudioSequence(self, coerce_to_runnable(other))

    def pipe(self, *others: Any, name: str | None = None) -> Any:
        """Return a sequence that ends with the last of the others."""
        piped: Any = self
        for other in others:
            piped = piped | other
        piped.name = name
        return piped

    def with_fallbacks(
        self, fallbacks: Sequence[Runnable[Any, Any]], **settings: Any
    ) -> Any:
        """Return this runnable with guarded fallbacks.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        check_guarded(fallbacks, "a fallback")
        return as_guarded(super().with_fallbacks(fallbacks, **settings))


class AudioSequence(AudioRunnable):
    """Sequence whose first runnable takes audio in."""

    def __init__(self, first: Runnable[Any, Any], rest: Runnable[Any, Any]) -> None:
        self._first = first
        self._rest = rest

    def __or__(self, other: Any) -> Any:
        return AudioSequence(self._first, self._rest | coerce_to_runnable(other))

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return what the last runnable makes of the audio."""
        return self._rest.invoke(self._first.invoke(input, config, **kwargs), config)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return what the last runnable makes of the audio."""
        output = await self._first.ainvoke(input, config, **kwargs)
        return await self._rest.ainvoke(output, config)

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield what the last runnable makes of the audio."""
        output = self._first.stream(input, config, **kwargs)
        yield from self._rest.transform(output, config)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield what the last runnable makes of the audio."""
        output = self._first.astream(input, config, **kwargs)
        async for item in self._rest.atransform(output, config):
            yield item

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield what the last runnable makes of a stream of audio."""
        output = self._first.transform(input, config, **kwargs)
        yield from self._rest.transform(output, config)

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yield what the last runnable makes of a stream of audio."""
        output = self._first.atransform(input, config, **kwargs)
        async for item in self._rest.atransform(output, config):
            yield item


class SafeAudioRunnable(Guarded, AudioRunnable):
    """Runnable from one clip to one guarded answer, each clip by itself.

    Callbacks and tracers see the chat model's run only, which names the clip.
    """

    def __init__(
        self, chat: ChatSafeAudio, *, text: str = "", system: str = ""
    ) -> None:
        """Wrap a chat model.

        Args:
            chat: The chat model that answers.
            text: Goes with every clip, such as "Answer the caller."
            system: System prompt.
        """
        self._chat = chat
        self._text = text
        self._system = system

    def invoke(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Answer a clip: encoded bytes, a path or a handle."""
        return self._chat.invoke(self._messages(input), config, **kwargs)

    async def ainvoke(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Answer a clip without blocking the event loop."""
        # In a thread: the clip may be a file on a slow disk.
        messages = await asyncio.to_thread(self._messages, input)
        return await self._chat.ainvoke(messages, config, **kwargs)

    def stream(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Answer a clip in chunks."""
        yield from self._chat.stream(self._messages(input), config, **kwargs)

    async def astream(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer a clip in chunks without blocking the event loop."""
        messages = await asyncio.to_thread(self._messages, input)
        async for chunk in self._chat.astream(messages, config, **kwargs):
            yield chunk

    def _messages(self, clip: ClipInput) -> list[BaseMessage]:
        question = audio_message(clip, self._text, audio_store=self._chat.audio_store)
        return [SystemMessage(self._system), question] if self._system else [question]
