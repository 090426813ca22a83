"""Hold the chat model to asynchronous callers: nothing blocks, leaving frees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_sarguard import ChatSafeAudio

from sarguard import SafeAudioLLM, SteeringBundle
from tests import tiny
from tests.langchain.fakes import FakeClient, audio_block, failing, wav


@pytest.fixture(scope="module")
def client(tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    shared = tiny.shared()
    with SafeAudioLLM.from_model(
        shared.model, shared.processor, bundle=tiny_bundle, name="tiny", alpha=0.1
    ) as client:
        yield client


async def longest_own_work(work: asyncio.Task[AIMessage]) -> float:
    """Return the most processor seconds that the loop's thread spent at a stretch.

    The thread's own time, as a busy machine may hold any thread up for long.
    """
    worst = 0.0
    while not work.done():
        before = time.thread_time()
        await asyncio.sleep(0)
        worst = max(worst, time.thread_time() - before)
        await asyncio.sleep(0.001)
    return worst


class TestTheEventLoop:
    def test_a_blocking_wrapper_trips_the_watchdog(self) -> None:
        async def block() -> AIMessage:
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
            return AIMessage("")

        async def run() -> float:
            return await longest_own_work(asyncio.ensure_future(block()))

        assert asyncio.run(run()) > 0.05

    def test_ainvoke_never_trips_it(self, client: SafeAudioLLM) -> None:
        chat = client.as_langchain(max_tokens=24)
        messages: list[BaseMessage] = [
            HumanMessage(content=[audio_block(wav(4.0))]),
            AIMessage("Yes."),
            HumanMessage(content=[audio_block(wav(4.0)), "Again."]),
        ]
        chat.invoke(messages)  # What loads at first use is not the call's.

        async def run() -> float:
            await chat.ainvoke(messages)
            work = asyncio.ensure_future(chat.ainvoke(messages))
            return await longest_own_work(work)

        assert asyncio.run(run()) < 0.05


class TestTheSameAnswer:
    def test_all_ways_agree(self, client: SafeAudioLLM) -> None:
        chat = client.as_langchain(max_tokens=8)
        messages = [HumanMessage(content=[audio_block(), "Hear."])]

        async def run() -> tuple[str, str]:
            whole = await chat.ainvoke(messages)
            pieces = [c.text async for c in chat.astream(messages)]
            return str(whole.content), "".join(pieces)

        expected = chat.invoke(messages).content
        assert asyncio.run(run()) == (expected, expected)
        assert "".join(c.text for c in chat.stream(messages)) == expected

    def test_a_fault_is_said_in_a_stream_too(self) -> None:
        chat = ChatSafeAudio.from_client(failing())

        async def run() -> list[AIMessage]:
            return [chunk async for chunk in chat.astream("Hello.")]

        chunks = asyncio.run(run())
        assert chunks[-1].response_metadata["outcome"] == "error_closed"


class TestLeaving:
    def test_cancelling_a_stream_frees_the_model_within_a_step(
        self, client: SafeAudioLLM
    ) -> None:
        steps = 0
        model = client._desk.loaded.model
        hook = model.register_forward_hook(lambda *_: nonlocal_add())

        def nonlocal_add() -> None:
            nonlocal steps
            steps += 1

        async def run() -> tuple[int, float]:
            chat = client.as_langchain(max_tokens=2000)
            stream = chat.astream("Tell me everything.")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            at_leaving = steps
            reply = await client.agenerate(text="Next.", max_new_tokens=1)
            return at_leaving, reply.usage.output_tokens

        try:
            at_leaving, tokens = asyncio.run(run())
        finally:
            hook.remove()
        assert tokens == 1
        # One step may be under way; the rest is the next request's own.
        assert steps - at_leaving <= 1 + 3

    def test_leaving_closes_the_client_s_stream(self) -> None:
        client = FakeClient("One, two, three.")

        async def run() -> None:
            stream = ChatSafeAudio.from_client(client).astream("Count.")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

        asyncio.run(run())
        assert (client.closed, len(client.sent)) == (1, 1)
