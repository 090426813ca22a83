"""What a caller holds while an answer is made: an iterator, blocking or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeAlias

from sarguard.serving.callers import watch_caller
from sarguard.serving.request_queue import RequestQueue
from sarguard.serving.request_state import RequestState
from sarguard.types import Done, Event, Outcome, Reply

_Message: TypeAlias = Event | Exception
Enter: TypeAlias = Callable[[], Awaitable[None]]
"""Waits for a place in the queue, decodes the clips, asks the guard and enters."""


class _Pending:
    """A request that the caller may give up at any moment."""

    def __init__(self, state: RequestState, queue: RequestQueue, owner: object) -> None:
        self._state = state
        self._queue = queue
        # Keeps the client alive: one that is dropped is closed, under its own stream.
        self._owner = owner
        self._ended = False

    def whole_only(self) -> None:
        """Note that whoever reads the events passes on the reply alone."""
        self._state.whole_only()

    def _give_up(self, outcome: Outcome) -> None:
        _give_up(self._state, self._queue, outcome)

    def _check(self, message: _Message) -> Event:
        if isinstance(message, Exception):
            self._ended = True
            raise message
        self._ended = isinstance(message, Done)
        return message

    def __del__(self) -> None:
        # Nothing that the worker holds refers to the stream: dropping it, by `break`,
        # `return` or an exception as well, gets here at once.
        if not self._ended:
            self._drop()

    def _drop(self) -> None:
        """Give the request up where nobody can wait for it."""
        self._give_up(Outcome.CANCELLED)


class AnswerStream(_Pending):
    """Iterator over an answer's events: text, at times a refusal, always `Done`.

    Closing it, leaving its `with` block or dropping it cancels the request, and the
    model is free within one decode step.
    """

    def __init__(self, state: RequestState, queue: RequestQueue, owner: object) -> None:
        super().__init__(state, queue, owner)
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        state.listen(self._inbox.put)
        # Holds no stream, which is given up where it is dropped.
        self._end_watch = watch_caller(
            partial(_give_up, state, queue, Outcome.CANCELLED)
        )

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        return self._check(self._wait())

    def _wait(self) -> _Message:
        while (left := self._state.remaining()) != 0:
            # What is left may have grown when the first token came.
            with contextlib.suppress(Empty):
                return self._inbox.get(timeout=left)
        self._give_up(Outcome.TIMEOUT)
        return self._inbox.get()

    def close(self) -> None:
        """Cancel what is left; `Done` is not sent any more."""
        self._end_watch()
        if not self._ended:
            self._ended = True
            self._give_up(Outcome.CANCELLED)

    def _check(self, message: _Message) -> Event:
        try:
            return super()._check(message)
        finally:
            if self._ended:
                self._end_watch()

    def _drop(self) -> None:
        """Give the request up where nobody can wait for it."""
        self._end_watch()
        super()._drop()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncAnswerStream(_Pending):
    """Asynchronous iterator over an answer's events.

    Cancelling the task that waits for the next event, closing the stream or dropping
    it cancels the request, and the model is free within one decode step.
    """

    def __init__(
        self, state: RequestState, queue: RequestQueue, owner: object, *, enter: Enter
    ) -> None:
        super().__init__(state, queue, owner)
        self._enter: Enter | None = enter
        self._inbox = _AsyncInbox(state)
        state.listen(self._inbox.post)

    def __aiter__(self) -> AsyncAnswerStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            message = await self._next()
        except TimeoutError:
            await asyncio.to_thread(self._give_up, Outcome.TIMEOUT)
            message = await self._inbox.messages.get()
        except BaseException:
            await self.aclose()
            raise
        return self._check(message)

    async def aclose(self) -> None:
        """Cancel what is left; `Done` is not sent any more."""
        if not self._ended:
            self._ended = True
            # Its end is recorded, and writing a record blocks.
            await asyncio.to_thread(self._give_up, Outcome.CANCELLED)

    async def __aenter__(self) -> AsyncAnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _next(self) -> _Message:
        if self._enter is not None:
            enter, self._enter = self._enter, None
            self._inbox.loop = asyncio.get_running_loop()
            await enter()
        while (left := self._state.remaining()) != 0:
            # What is left may have grown when the first token came.
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._inbox.messages.get(), left)
        raise TimeoutError

    def _drop(self) -> None:
        """Give the request up where nobody can wait for it."""
        gone = Outcome.CANCELLED
        # Not by a method of the stream, which is on its way out.
        if not self._inbox.run(_give_up, self._state, self._queue, gone):
            super()._drop()


class _AsyncInbox:
    """What has come for a stream; the worker holds it, so it does not know the stream.

    If it did, a stream that its caller dropped would live as long as its answer.
    """

    def __init__(self, state: RequestState) -> None:
        self._state = state
        self.messages: asyncio.Queue[_Message] = asyncio.Queue()
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where the stream is read; None until its first event is asked for."""

    def post(self, message: _Message) -> None:
        """Hand a message over, from any thread."""
        if self.loop is None:
            return
        try:
            self.loop.call_soon_threadsafe(self.messages.put_nowait, message)
        except RuntimeError:
            # The loop is closed and nobody can hear: the worker finds the request
            # ended at its next step.
            self._state.abandon(Outcome.CANCELLED)

    def run(self, call: Callable[..., None], *arguments: object) -> bool:
        """Have something that blocks called off the loop; return whether that works."""
        if self.loop is None:
            return False
        try:
            self.loop.call_soon_threadsafe(
                self.loop.run_in_executor, None, partial(call, *arguments)
            )
        except RuntimeError:
            return False
        return True


def _give_up(state: RequestState, queue: RequestQueue, outcome: Outcome) -> None:
    state.abandon(outcome)
    queue.release(state)


def last_reply(stream: AnswerStream) -> Reply:
    """Return the reply at a stream's end."""
    stream.whole_only()
    with stream:
        for event in stream:
            if isinstance(event, Done):
                return event.reply
    raise RuntimeError("the stream ended without its reply")


async def last_reply_async(stream: AsyncAnswerStream) -> Reply:
    """Return the reply at a stream's end."""
    stream.whole_only()
    async with stream:
        async for event in stream:
            if isinstance(event, Done):
                return event.reply
    raise RuntimeError("the stream ended without its reply")
