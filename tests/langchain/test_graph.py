"""Agents: LangGraph's checkpointer and LangChain's middleware."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    trim_messages,
)
from langchain_sarguard import AudioStore, ChatSafeAudio, audio_message
from pydantic import BaseModel

from sarguard import SafeAudioLLM, SteeringBundle
from tests.langchain.fakes import FakeClient, encoded, refusing, wav
from tests.serving.fakes import FakeBackend

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

    def test_a_refusal_in_place_of_an_object_is_a_refusal(self) -> None:
        middleware = pytest.importorskip("langchain.agents.middleware")
        exceptions = pytest.importorskip("langchain_core.exceptions")
        if not hasattr(middleware, "ModelRefusalMiddleware"):
            pytest.skip("this LangChain has no refusal middleware")
        agent = agents.create_agent(
            ChatSafeAudio.from_client(refusing()),
            tools=[],
            response_format=City,
            middleware=[middleware.ModelRefusalMiddleware()],
        )
        with pytest.raises(exceptions.ModelRefusalError, match="I cannot assist"):
            agent.invoke({"messages": [HumanMessage("Hello.")]})


class City(BaseModel):
    """A city."""

    city: str


class TestStructuredOutputOfAnAgent:
    @pytest.mark.parametrize("wrapped", [False, True], ids=["class", "strategy"])
    def test_it_is_an_object_of_the_schema(self, wrapped: bool) -> None:
        structured = pytest.importorskip("langchain.agents.structured_output")
        client = FakeClient(follows_schema=True)
        wanted = structured.ProviderStrategy(City) if wrapped else City
        agent = agents.create_agent(
            ChatSafeAudio.from_client(client), tools=[], response_format=wanted
        )
        state = agent.invoke({"messages": [HumanMessage("Hello.")]})
        assert state["structured_response"] == City(city="Why?")
        schema = client.requests[0]["json_schema"]
        assert list(schema["properties"]) == ["city"]

    def test_a_tool_is_refused_by_name(self) -> None:
        def look_up(city: str) -> str:
            """Look up a city."""
            return city

        agent = agents.create_agent(
            ChatSafeAudio.from_client(FakeClient()), tools=[look_up]
        )
        with pytest.raises(NotImplementedError, match="this model has no tools"):
            agent.invoke({"messages": [HumanMessage("Hello.")]})


class TestWhatCannotBeStoppedFromHere:
    """docs/langchain.md says so; a guarded stand-in is what it advises."""

    def test_a_middleware_asks_another_model(self) -> None:
        middleware = pytest.importorskip("langchain.agents.middleware")
        exceptions = pytest.importorskip("langchain_core.exceptions")
        if not hasattr(exceptions, "ModelRefusalError"):
            pytest.skip("this LangChain has no refusal middleware")

        def answer(stand_in: Any) -> str:
            agent = agents.create_agent(
                ChatSafeAudio.from_client(refusing()),
                tools=[],
                middleware=[
                    middleware.ModelFallbackMiddleware(stand_in),
                    middleware.ModelRefusalMiddleware(),
                ],
            )
            state = agent.invoke({"messages": [HumanMessage("Hello.")]})
            return str(state["messages"][-1].text)

        assert answer(FakeListChatModel(responses=["Unguarded."])) == "Unguarded."
        assert answer(ChatSafeAudio.from_client(FakeClient())) == "Paris."


class TestTokens:
    def test_messages_are_counted_by_the_client(self) -> None:
        client, store = FakeClient(), AudioStore()
        chat = ChatSafeAudio.from_client(client, audio_store=store)
        assert chat.get_num_tokens("one two three") == 3
        clip = audio_message(wav(2.0), "Answer.", audio_store=store)
        assert chat.get_num_tokens_from_messages([clip]) == 20 + 1 + 3
        assert chat.get_num_tokens_from_messages([AIMessage("")]) == 3
        assert chat.get_num_tokens_from_messages([]) == 0
        block = {"type": "audio", "base64": encoded(wav(1.0))}
        inline = HumanMessage(content=[block])
        assert chat.get_num_tokens_from_messages([inline]) == 10 + 3

    def test_trimming_works_without_a_network(self) -> None:
        chat = ChatSafeAudio.from_client(FakeClient())
        past: list[BaseMessage] = [
            m
            for _ in range(40)
            for m in (HumanMessage("word " * 50), AIMessage("word " * 50))
        ]
        kept = trim_messages(
            [*past, HumanMessage("Hi")],
            max_tokens=200,
            token_counter=chat,
            strategy="last",
        )
        assert len(kept) == 4

    def test_the_profile_says_what_fits(self) -> None:
        middleware = pytest.importorskip("langchain.agents.middleware")
        chat = ChatSafeAudio.from_client(FakeClient(), max_tokens=192)
        assert chat.profile is not None
        assert chat.profile["max_input_tokens"] == 8_000
        # It refuses a model whose profile does not say.
        middleware.SummarizationMiddleware(
            model=chat, trigger=("fraction", 0.8), keep=("fraction", 0.3)
        )


class TestALongThread:
    def test_two_hundred_turns_are_answered_and_what_is_trimmed_is_said(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        backend = FakeBackend(
            "Certainly, here you are.",
            vectors_digest=tiny_bundle.card.vectors_digest,
            layers=tiny_bundle.card.layers,
            context_tokens=2_048,
        )
        with SafeAudioLLM(backend, tiny_bundle, alpha=0.1) as client:
            chat = ChatSafeAudio.from_client(
                client, audio_store=AudioStore(), max_tokens=24
            )
            agent = agents.create_agent(
                chat,
                tools=[],
                checkpointer=memory.InMemorySaver(),
                system_prompt="You answer calls.",
            )
            config: Any = {"configurable": {"thread_id": "1"}}
            replies = []
            for number in range(200):
                message = HumanMessage("What is next?")
                if number % 4 == 0:
                    message = audio_message(wav(0.3), audio_store=chat.audio_store)
                state = agent.invoke({"messages": [message]}, config)
                replies.append(state["messages"][-1].response_metadata)
            released = chat.end_session("1")
        assert {reply["outcome"] for reply in replies} == {"answered"}
        assert "trimmed" not in replies[0]
        assert replies[-1]["trimmed"] > 200
        assert all(request.session == "1" for request in backend.asked)
        assert released.clips == 50
        assert len(chat.audio_store) == 0

    def test_a_thread_keeps_a_bounded_number_of_clips(self) -> None:
        client = FakeClient()
        store = AudioStore(max_clips_per_conversation=8)
        chat = ChatSafeAudio.from_client(client, audio_store=store)
        history: list[BaseMessage] = [SystemMessage("Answer.")]
        for _ in range(20):
            history.append(audio_message(wav(0.1), audio_store=store))
            answer = chat.invoke(history, {"configurable": {"thread_id": "1"}})
            history.append(answer)
        assert len(store) == 8
        assert len(client.requests) == 20


class TestLeaving:
    def test_a_cancelled_graph_frees_the_model_of_a_plain_function(
        self, tiny_bundle: SteeringBundle
    ) -> None:
        graphs = pytest.importorskip("langgraph.graph")
        backend = FakeBackend(
            "word " * 2_000,
            vectors_digest=tiny_bundle.card.vectors_digest,
            layers=tiny_bundle.card.layers,
        )
        slow = backend._answer

        def answer(job: Any) -> None:
            step = job.sink.step
            job.sink.step = lambda given: (time.sleep(0.002), step(given))
            slow(job)

        backend._answer = answer  # type: ignore[method-assign]
        with SafeAudioLLM(backend, tiny_bundle, alpha=0.1) as client:
            chat = ChatSafeAudio.from_client(client, max_tokens=10_000)
            graph = graphs.StateGraph(graphs.MessagesState)
            graph.add_node(
                "answer", lambda s: {"messages": [chat.invoke(s["messages"])]}
            )
            graph.add_edge(graphs.START, "answer")
            agent = graph.compile()

            async def run() -> float:
                asked = {"messages": [HumanMessage("Hello.")]}
                task = asyncio.create_task(agent.ainvoke(asked))
                while not client.health().running:
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                started = time.perf_counter()
                while client.health().running:
                    await asyncio.sleep(0.001)
                return time.perf_counter() - started

            # The whole answer takes 20 s.
            assert asyncio.run(run()) < 5
