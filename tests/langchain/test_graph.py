"""Agents: LangGraph's checkpointer and LangChain's middleware."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_sarguard import AudioStore, ChatSafeAudio, audio_message

from tests.langchain.fakes import FakeClient, encoded, refusing, wav

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")

VOICE = wav(0.4)


def stored(saver: Any) -> str:
    """Return everything that a checkpointer has stored."""
    return repr((dict(saver.storage), dict(saver.blobs), dict(saver.writes)))


class TestAnAgentWithACheckpointer:
    def test_audio_in_a_message_is_stored(self) -> None:
        saver = memory.InMemorySaver()
        agent = agents.create_agent(
            ChatSafeAudio.from_client(FakeClient()), tools=[], checkpointer=saver
        )
        block = {
            "type": "audio",
            "base64": encoded(VOICE),
            "mime_type": "audio/wav",
        }
        agent.invoke(
            {"messages": [HumanMessage(content=[block])]},
            {"configurable": {"thread_id": "1"}},
        )
        assert encoded(VOICE)[200:400] in stored(saver)

    def test_a_named_clip_is_remembered_and_not_stored(self) -> None:
        client, store = FakeClient(), AudioStore()
        saver = memory.InMemorySaver()
        chat = ChatSafeAudio.from_client(client, audio_store=store)
        agent = agents.create_agent(chat, tools=[], checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}
        for text in ("First.", "Second."):
            update = {"messages": [audio_message(VOICE, text, audio_store=store)]}
            state = agent.invoke(update, config)
        assert state["messages"][-1].content == "Paris."
        assert len(client.requests[1]["history"][0].audio) == 1
        written = stored(saver)
        assert "sar_" in written
        assert encoded(VOICE)[200:400] not in written
        assert repr(VOICE[200:260])[2:-1] not in written


class TestTheRefusalMiddleware:
    def test_it_reads_our_refusals(self) -> None:
        middleware = pytest.importorskip("langchain.agents.middleware")
        exceptions = pytest.importorskip("langchain_core.exceptions")
        if not hasattr(middleware, "ModelRefusalMiddleware"):
            pytest.skip("this LangChain has no refusal middleware")
        agent = agents.create_agent(
            ChatSafeAudio.from_client(refusing()),
            tools=[],
            middleware=[middleware.ModelRefusalMiddleware()],
        )
        with pytest.raises(exceptions.ModelRefusalError, match="I cannot assist"):
            agent.invoke({"messages": [HumanMessage("Hello.")]})
