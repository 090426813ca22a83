"""Asynchronous calls: nothing blocks the event loop, and closing frees the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_sarguard import ChatSafeAudio, SafeAudioRunnable, VoicePipelineStage

from sarguard import Reply, SafeAudioLLM, SteeringBundle
from sarguard.errors import AudioDecodeError
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import Findings, ResolvedRequest
from tests import tiny
from tests.langchain.fakes import FakeClient, audio_block, failing, wav
from tests.serving.fakes import OpenGuard

LIMIT = 0.05
_SCHEDULER = Path("/proc/thread-self/schedstat")


@pytest.fixture(scope="module")
def client(tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    shared = tiny.shared()
    with SafeAudioLLM.from_model(
        shared.model, shared.processor, bundle=tiny_bundle, name="tiny", alpha=0.1
    ) as client:
        yield client


def _waited() -> float:
    """Return the seconds that this thread was ready and got no processor."""
    try:
        return int(_SCHEDULER.read_text("ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


@contextmanager
def watchdog() -> Iterator[list[float]]:
    """Measure how long each callback keeps the event loop, asleep or at work.

    Time in which a busy machine gave the thread no processor is not counted.
    """
    kept: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        started, waited = time.perf_counter(), _waited()
        run(handle)
        kept.append(time.perf_counter() - started - (_waited() - waited))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", timed)
        yield kept


def longest_step(work: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Return the seconds of the longest callback, in the best of several runs.

    The worker holds the interpreter's lock too, and may lose its processor with it;
    what blocks the loop in our own code does so in every run.
    """

    def run() -> float:
        with watchdog() as kept:
            asyncio.run(work())
        return max(kept)

    return min(run() for _ in range(3))


def spin() -> None:
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass


def write() -> None:
    time.sleep(0.1)


CONVERSATION: list[BaseMessage] = [
    HumanMessage(content=[audio_block(wav(2.0))]),
    AIMessage("Yes."),
    HumanMessage(content=[audio_block(wav(2.0)), "Again."]),
]


class SlowLedger(OpenGuard):
    """A guard that takes longer to write than a loop may be kept."""

    def record_start(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        write()
        return found

    def after_model(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest | None,
        found: Findings,
        reply: Reply,
        error: Exception | None = None,
    ) -> Reply:
        write()
        return reply


@pytest.fixture(scope="module")
def slow(tiny_bundle: SteeringBundle) -> Iterator[SafeAudioLLM]:
    """Return a client whose every record would block an event loop for too long."""
    loaded = tiny.build()
    with SafeAudioLLM.from_loaded(
        loaded, tiny_bundle, alpha=0.1, guard=SlowLedger()
    ) as client:
        yield client


class TestTheEventLoop:
    @pytest.mark.parametrize("block", [spin, write])
    def test_the_watchdog_finds_what_blocks(self, block: Callable[[], None]) -> None:
        async def run() -> None:
            await asyncio.sleep(0)
            block()

        assert longest_step(run) > LIMIT

    def test_ainvoke_does_not_block(self, client: SafeAudioLLM) -> None:
        chat = client.as_langchain(max_tokens=8)
        chat.invoke(CONVERSATION)  # Whatever loads at first use.
        assert longest_step(lambda: chat.ainvoke(CONVERSATION)) < LIMIT

    def test_slow_records_do_not_block(self, slow: SafeAudioLLM) -> None:
        chat = slow.as_langchain(max_tokens=4)
        chat.invoke("Hello.")
        assert longest_step(lambda: chat.ainvoke("Hello.")) < LIMIT

    def test_the_record_of_a_timeout_does_not_block(self, slow: SafeAudioLLM) -> None:
        chat = slow.as_langchain(max_tokens=2000, timeout=0.3)
        replies: list[AIMessage] = []

        async def run() -> None:
            replies.append(await chat.ainvoke("Tell me everything."))

        assert longest_step(run) < LIMIT
        assert {r.response_metadata["outcome"] for r in replies} == {"timeout"}

    def test_the_record_of_closing_does_not_block(self, slow: SafeAudioLLM) -> None:
        async def run() -> None:
            stream = slow.as_langchain(max_tokens=2000).astream("Tell me everything.")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

        assert longest_step(run) < LIMIT

    def test_the_record_of_bad_input_does_not_block(self, slow: SafeAudioLLM) -> None:
        async def run() -> None:
            bad = HumanMessage(content=[audio_block(b"no sound")])
            with pytest.raises(AudioDecodeError):
                await slow.as_langchain().ainvoke([bad])

        assert longest_step(run) < LIMIT

    def test_a_large_clip_does_not_block(self, client: SafeAudioLLM) -> None:
        chat = client.as_langchain()
        # A minute of two channels at 48 kHz.
        message = HumanMessage(content=[audio_block(bytes(11_520_000))])

        async def run() -> None:
            with pytest.raises(AudioDecodeError):
                await chat.ainvoke([message])

        assert longest_step(run) < LIMIT

    def test_files_and_endpointing_do_not_block(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.wav"
        path.write_bytes(wav())
        read = Path.read_bytes

        def read_slowly(self: Path) -> bytes:
            write()
            return read(self)

        monkeypatch.setattr(Path, "read_bytes", read_slowly)
        chat = ChatSafeAudio.from_client(FakeClient())

        async def paths() -> AsyncIterator[Any]:
            yield path

        async def run() -> None:
            await SafeAudioRunnable(chat).ainvoke(path)
            assert [e async for e in VoicePipelineStage(chat).atransform(paths())]

        assert longest_step(run) < LIMIT


class TestAnswers:
    def test_every_method_gives_the_same(self, client: SafeAudioLLM) -> None:
        chat = client.as_langchain(max_tokens=8)
        messages = [HumanMessage(content=[audio_block(), "Hear."])]

        async def run() -> tuple[str, str]:
            whole = await chat.ainvoke(messages)
            pieces = [c.text async for c in chat.astream(messages)]
            return str(whole.content), "".join(pieces)

        expected = chat.invoke(messages).content
        assert asyncio.run(run()) == (expected, expected)
        assert "".join(c.text for c in chat.stream(messages)) == expected

    def test_a_stream_reports_a_fault(self) -> None:
        chat = ChatSafeAudio.from_client(failing())

        async def run() -> list[AIMessage]:
            return [chunk async for chunk in chat.astream("Hello.")]

        chunks = asyncio.run(run())
        assert chunks[-1].response_metadata["outcome"] == "error_closed"


class TestClosing:
    def test_closing_a_stream_frees_the_model_within_a_step(
        self, client: SafeAudioLLM
    ) -> None:
        steps = 0
        model = client._backend.loaded.model
        hook = model.register_forward_hook(lambda *_: nonlocal_add())

        def nonlocal_add() -> None:
            nonlocal steps
            steps += 1

        async def run() -> tuple[int, float]:
            chat = client.as_langchain(max_tokens=2000)
            stream = chat.astream("Tell me everything.")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            at_closing = steps
            reply = await client.agenerate(text="Next.", max_new_tokens=1)
            return at_closing, reply.usage.output_tokens

        try:
            at_closing, tokens = asyncio.run(run())
        finally:
            hook.remove()
        assert tokens == 1
        # One step may be under way; the rest is the next request's own.
        assert steps - at_closing <= 1 + 3

    def test_closing_closes_the_client_s_stream(self) -> None:
        client = FakeClient("One, two, three.")

        async def run() -> None:
            stream = ChatSafeAudio.from_client(client).astream("Count.")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

        asyncio.run(run())
        assert (client.closed, len(client.sent)) == (1, 1)
