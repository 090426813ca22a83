"""The chat model that one would write first, to show what each test protects from."""

from __future__ import annotations

import base64
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from tests.langchain.fakes import FakeClient


class NaiveChat(BaseChatModel):
    """Chat model that forwards to a client, with an alpha that callers choose."""

    client: Any
    alpha: float = 0.1

    @property
    def _llm_type(self) -> str:
        return "naive"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        clips = [
            base64.b64decode(block["base64"])
            for message in messages
            if isinstance(message.content, list)
            for block in message.content
            if isinstance(block, dict) and "base64" in block
        ]
        alpha = kwargs.get("alpha", self.alpha)
        self.client.record(clips, "", {"alpha": alpha})
        message = AIMessage(self.client.reply.text)
        return ChatResult(generations=[ChatGeneration(message=message)])


class SerialChat(NaiveChat):
    """Chat model that langchain-core serialises, alpha included."""

    client: Any = Field(default_factory=lambda: FakeClient("Naive."), exclude=True)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True


class BrokenChat(NaiveChat):
    """Chat model that fails at every call."""

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise RuntimeError("the guard is gone")


def naive(**settings: Any) -> NaiveChat:
    return NaiveChat(client=FakeClient("Naive."), **settings)
