"""A plain pipe: sound in, guarded answer out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import RunnableConfig

from langchain_sarguard.audio_handles import Clip, audio_message
from langchain_sarguard.audio_runnables import SoundRunnable
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.guarded_runnables import Guarded
from langchain_sarguard.messages import opening


class SafeAudioRunnable(Guarded, SoundRunnable):
    """Answer clips, each by itself; in a pipe, what follows gets the message.

    The sound goes past callbacks and tracers, which see the chat model's run only.
    """

    def __init__(
        self, chat: ChatSafeAudio, *, text: str = "", system: str = ""
    ) -> None:
        """Make one.

        Args:
            chat: Answers.
            text: Goes with every clip, such as "Answer the caller."
            system: System prompt.
        """
        self._chat = chat
        self._text = text
        self._opening = opening(system)

    def invoke(
        self,
        input: Clip,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AIMessage:
        """Answer a clip: encoded bytes, a path or a vault's handle."""
        return self._chat.invoke(self._messages(input), config, **kwargs)

    async def ainvoke(
        self,
        input: Clip,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AIMessage:
        """Answer a clip without blocking the event loop."""
        messages = await asyncio.to_thread(self._messages, input)
        return await self._chat.ainvoke(messages, config, **kwargs)

    def stream(
        self,
        input: Clip,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[AIMessageChunk]:
        """Answer a clip in pieces."""
        yield from self._chat.stream(self._messages(input), config, **kwargs)

    async def astream(
        self,
        input: Clip,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer a clip in pieces without blocking the event loop."""
        messages = await asyncio.to_thread(self._messages, input)
        async for chunk in self._chat.astream(messages, config, **kwargs):
            yield chunk

    def _messages(self, clip: Clip) -> list[BaseMessage]:
        asked = audio_message(clip, self._text, vault=self._chat.vault)
        return [*self._opening, asked]
