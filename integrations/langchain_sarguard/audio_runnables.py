"""The runnable that takes a clip in and gives a guarded answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict

from langchain_sarguard.audio_handles import (
    ClipInput,
    handle_block,
    is_handle,
    read_clip,
)
from langchain_sarguard.chat_models import ChatSafeAudio
from langchain_sarguard.guarded_runnables import (
    Guarded,
    GuardedRunnable,
    check_configurable,
)
from langchain_sarguard.iteration import closing


class _ClipRunnable(RunnableSerializable[Any, Any]):
    """What `SafeAudioRunnable` does with a clip; its ways in are guarded there."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chat: ChatSafeAudio
    text: str = ""
    system: str = ""

    def invoke(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        answer: AIMessage = self.chat.invoke(self._messages(input), config, **kwargs)
        return answer

    async def ainvoke(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        # In a thread: the clip may be a file on a slow disk.
        messages = await asyncio.to_thread(self._messages, input)
        answer: AIMessage = await self.chat.ainvoke(messages, config, **kwargs)
        return answer

    def stream(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        yield from self.chat.stream(self._messages(input), config, **kwargs)

    async def astream(
        self, input: ClipInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        messages = await asyncio.to_thread(self._messages, input)
        async with closing(self.chat.astream(messages, config, **kwargs)) as opened:
            async for chunk in opened:
                yield chunk

    def _messages(self, clip: ClipInput) -> list[BaseMessage]:
        # As data: the chat model replaces it by a handle for as long as the call lasts.
        block: dict[str, Any] = (
            handle_block(str(clip))
            if is_handle(clip)
            else {"type": "audio", "base64": read_clip(clip)}
        )
        content: list[str | dict[Any, Any]] = [block]
        if self.text:
            content.append({"type": "text", "text": self.text})
        question = HumanMessage(content=content)
        return [SystemMessage(self.system), question] if self.system else [question]


class SafeAudioRunnable(Guarded, GuardedRunnable, _ClipRunnable):
    """Runnable from one clip to one guarded answer, each clip by itself.

    A clip is encoded bytes, a path, or the handle of one that is stored. Callbacks and
    tracers see a handle in its place, and it is kept no longer than its call.
    """

    hears: ClassVar[bool] = True

    @property
    def InputType(self) -> type[str]:
        """Return `str`, a path or a handle; bytes are taken as well."""
        return str

    def __init__(
        self, chat: ChatSafeAudio, *, text: str = "", system: str = "", **fields: Any
    ) -> None:
        """Wrap a chat model.

        Args:
            chat: The chat model that answers.
            text: Goes with every clip, such as "Answer the caller."
            system: System prompt.
            fields: Such as `name`.
        """
        # The mixin hides that the next class in line has fields.
        fields_of: Any = super().__init__
        fields_of(chat=chat, text=text, system=system, **fields)

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this runnable with a text and a system prompt to be configured.

        Raises:
            InvalidInputError: A field is the guard's.
        """
        check_configurable(fields, ("text", "system"))
        return super().configurable_fields(**fields)
