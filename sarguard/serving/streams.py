"""What a caller holds while an answer is made: an iterator, blocking or not."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from sarguard.serving.request_queue import Line
from sarguard.serving.request_state import Ticket
from sarguard.types import Done, Event, Outcome, Reply

_News: TypeAlias = Event | Exception
Enter: TypeAlias = Callable[[], Awaitable[None]]
"""Waits for a place in the line, takes the request in and lets it enter."""


class _Held:
    """Hold a request that the caller may give up at any moment."""

    def __init__(self, ticket: Ticket, line: Line, owner: object) -> None:
        self._ticket = ticket
        self._line = line
        # A client that nobody else holds must not be closed under its stream.
        self._owner = owner
        self._ended = False

    def _give_up(self, outcome: Outcome) -> None:
        self._ticket.abandon(outcome)
        self._line.release(self._ticket)

    def _check(self, news: _News) -> Event:
        if isinstance(news, Exception):
            self._ended = True
            raise news
        self._ended = isinstance(news, Done)
        return news

    def __del__(self) -> None:
        if not self._ended:
            self._give_up(Outcome.CANCELLED)


class AnswerStream(_Held):
    """Iterate over an answer's events: text, at times a refusal, always `Done`.

    Closing it, leaving its `with` block or dropping it cancels the request, and the
    model is free within one decode step.
    """

    def __init__(self, ticket: Ticket, line: Line, owner: object) -> None:
        super().__init__(ticket, line, owner)
        self._inbox: queue.SimpleQueue[_News] = queue.SimpleQueue()
        ticket.listen(self._inbox.put)

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        return self._check(self._wait())

    def _wait(self) -> _News:
        while (left := self._ticket.remaining()) != 0:
            # What is left may have grown when the first token came.
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=left)
        self._give_up(Outcome.TIMEOUT)
        return self._inbox.get()

    def close(self) -> None:
        """Cancel what is left; `Done` is not sent any more."""
        if not self._ended:
            self._ended = True
            self._give_up(Outcome.CANCELLED)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncAnswerStream(_Held):
    """Iterate over an answer's events without blocking the event loop.

    Cancelling the task that waits for the next event, closing the stream or dropping
    it cancels the request, and the model is free within one decode step.
    """

    def __init__(
        self, ticket: Ticket, line: Line, owner: object, *, enter: Enter
    ) -> None:
        super().__init__(ticket, line, owner)
        self._enter: Enter | None = enter
        self._inbox: asyncio.Queue[_News] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        ticket.listen(self._post)

    def __aiter__(self) -> AsyncAnswerStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            news = await self._next()
        except TimeoutError:
            await asyncio.to_thread(self._give_up, Outcome.TIMEOUT)
            news = await self._inbox.get()
        except BaseException:
            await self.aclose()
            raise
        return self._check(news)

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

    async def _next(self) -> _News:
        if self._enter is not None:
            enter, self._enter = self._enter, None
            self._loop = asyncio.get_running_loop()
            await enter()
        while (left := self._ticket.remaining()) != 0:
            # What is left may have grown when the first token came.
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                return await asyncio.wait_for(self._inbox.get(), left)
        raise TimeoutError

    def _post(self, news: _News) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, news)
        except RuntimeError:
            # The loop is closed and nobody can hear: the worker finds the request
            # ended at its next step.
            self._ended = True
            self._ticket.abandon(Outcome.CANCELLED)


def last_reply(stream: AnswerStream) -> Reply:
    """Return the reply at a stream's end."""
    with stream:
        for event in stream:
            if isinstance(event, Done):
                return event.reply
    raise RuntimeError("the stream ended without its reply")


async def last_reply_async(stream: AsyncAnswerStream) -> Reply:
    """Return the reply at a stream's end."""
    async with stream:
        async for event in stream:
            if isinstance(event, Done):
                return event.reply
    raise RuntimeError("the stream ended without its reply")
