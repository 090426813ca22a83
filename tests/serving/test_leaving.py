"""Every way to leave an answer frees the model within a decode step."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sarguard.client import SafeAudioLLM
from sarguard.models.loading import LoadedModel
from sarguard.types import Done, Outcome
from tests.serving.conftest import Steps

Open = Callable[..., SafeAudioLLM]

LONG: dict[str, Any] = {"text": "Tell me a long story.", "max_new_tokens": 500}
MOST_STEPS = 30
"""Of the answer that is left and the next one, whose two tokens take three."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Leave everything to reference counts, as between two runs of the collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def by_break(client: SafeAudioLLM) -> None:
    async for _ in client.astream(**LONG):
        break


async def by_del(client: SafeAudioLLM) -> None:
    stream = client.astream(**LONG)
    await stream.__anext__()
    del stream


async def by_return(client: SafeAudioLLM) -> None:
    async for _ in client.astream(**LONG):
        return


async def by_exception(client: SafeAudioLLM) -> None:
    async def read() -> None:
        async for _ in client.astream(**LONG):
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await read()


async def by_cancelling(client: SafeAudioLLM) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in client.astream(**LONG):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_closing(client: SafeAudioLLM) -> None:
    stream = client.astream(**LONG)
    await stream.__anext__()
    await stream.aclose()


async def by_its_block(client: SafeAudioLLM) -> None:
    async with client.astream(**LONG) as stream:
        await stream.__anext__()


async def by_cancelling_a_whole_answer(client: SafeAudioLLM) -> None:
    task = asyncio.create_task(client.agenerate(**LONG))
    while not client.health().running:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_cancelling_a_thread(client: SafeAudioLLM) -> None:
    """As an asynchronous graph runs a node that is a plain function."""
    task = asyncio.create_task(asyncio.to_thread(client.generate, **LONG))
    while not client.health().running:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_cancelling_a_thread_that_reads(client: SafeAudioLLM) -> None:
    def read() -> None:
        for _ in client.stream(**LONG):
            pass

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        call = loop.run_in_executor(pool, read)
        while not client.health().running:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@pytest.mark.parametrize(
    "leave",
    [
        *(by_break, by_del, by_return, by_exception, by_cancelling, by_closing),
        *(by_its_block, by_cancelling_a_whole_answer, by_cancelling_a_thread),
        by_cancelling_a_thread_that_reads,
    ],
)
def test_leaving_an_asynchronous_answer(
    opened: Open, steps: Steps, leave: Callable[[SafeAudioLLM], Awaitable[None]]
) -> None:
    client = opened()

    async def run() -> int:
        await leave(client)
        before = steps.count
        reply = await client.agenerate(text="Next.", max_new_tokens=2)
        assert reply.outcome is Outcome.ANSWERED
        return steps.count - before

    assert asyncio.run(run()) < MOST_STEPS


def leave_by_break(client: SafeAudioLLM) -> None:
    for _ in client.stream(**LONG):
        break


def leave_by_del(client: SafeAudioLLM) -> None:
    stream = client.stream(**LONG)
    next(stream)
    del stream


def leave_by_exception(client: SafeAudioLLM) -> None:
    def read() -> None:
        for _ in client.stream(**LONG):
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        read()


def leave_by_its_block(client: SafeAudioLLM) -> None:
    with client.stream(**LONG) as stream:
        next(stream)


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_del, leave_by_exception, leave_by_its_block]
)
def test_leaving_an_answer(
    opened: Open, steps: Steps, leave: Callable[[SafeAudioLLM], None]
) -> None:
    client = opened()
    leave(client)
    before = steps.count
    assert client.generate(text="Next.", max_new_tokens=2).outcome is Outcome.ANSWERED
    assert steps.count - before < MOST_STEPS


def give_up_by_timeout(client: SafeAudioLLM) -> None:
    reply = client.generate(**LONG, timeout=0.05)
    assert reply.outcome is Outcome.TIMEOUT


def give_up_by_timeout_in_pieces(client: SafeAudioLLM) -> None:
    *_, done = client.stream(**LONG, timeout=0.05)
    assert isinstance(done, Done)
    assert done.reply.outcome is Outcome.TIMEOUT


def give_up_by_asynchronous_timeout(client: SafeAudioLLM) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(client.agenerate(**LONG), 0.05))


def give_up_together(client: SafeAudioLLM) -> None:
    replies = client.generate_batch([{**LONG, "timeout": 0.05}] * 2)
    assert {reply.outcome for reply in replies} == {Outcome.TIMEOUT}


GIVE_UP = [
    *(give_up_by_timeout, give_up_by_timeout_in_pieces),
    *(give_up_by_asynchronous_timeout, give_up_together),
]


def test_the_watch_of_a_call_ends_with_it(opened: Open) -> None:
    client = opened()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.generate, text="Hello.", max_new_tokens=1)
        assert call.result().outcome is Outcome.ANSWERED
        # The method of the class: nothing is left on the instance.
        assert "cancel" not in vars(call)
        left = pool.submit(lambda: client.stream(text="Hello.", max_new_tokens=1))
        left.result().close()
        assert "cancel" not in vars(left)


@pytest.mark.parametrize("give_up", GIVE_UP)
def test_a_prompt_that_nobody_waits_for_is_not_read_to_its_end(
    opened: Open,
    steps: Steps,
    loaded: LoadedModel,
    give_up: Callable[[SafeAudioLLM], None],
) -> None:
    reached: list[int] = []
    second = loaded.decoder.layers[1]
    second.register_forward_pre_hook(lambda *_: reached.append(steps.count))
    client = opened()
    reached.clear()  # What the self test ran.
    steps.hold()
    give_up(client)
    steps.wait_until_held()
    held = steps.count
    assert not reached
    steps.release()
    assert client.generate(text="Next.", max_new_tokens=2).outcome is Outcome.ANSWERED
    # The pass that was held got no further than its first layer.
    assert min(reached) > held


def test_a_prompt_is_read_to_its_end_while_one_of_its_batch_waits(
    opened: Open, steps: Steps
) -> None:
    client = opened()
    steps.hold()
    with ThreadPoolExecutor(1) as pool:
        asked = [{**LONG, "timeout": 0.05}, {"text": "Next.", "max_new_tokens": 2}]
        replies = pool.submit(client.generate_batch, asked)
        steps.wait_until_held()
        time.sleep(0.1)
        steps.release()
        outcomes = [reply.outcome for reply in replies.result()]
    assert outcomes == [Outcome.TIMEOUT, Outcome.ANSWERED]
