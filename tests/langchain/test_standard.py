"""Run langchain-tests' own unit suite over the chat model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_sarguard import ChatSafeAudio

from tests.langchain.fakes import FakeClient

unit_tests = pytest.importorskip(
    "langchain_tests.unit_tests", reason="langchain-tests is not installed"
)


class TestChatSafeAudio(unit_tests.ChatModelUnitTests):  # type: ignore[misc, name-defined]
    """Say what the suite needs to know; it has no tools, so those tests skip."""

    @property
    def chat_model_class(self) -> type[ChatSafeAudio]:
        return ChatSafeAudio

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"client": FakeClient()}
