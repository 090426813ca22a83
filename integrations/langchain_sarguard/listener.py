"""Listening while an answer is given: utterances that wait, and interruptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

from langchain_sarguard.audio_handles import ClipInput, is_handle, wav_bytes
from langchain_sarguard.iteration import closing
from sarguard.audio import Endpointer, EndpointingOptions, pcm_bytes

_Item = TypeVar("_Item")

MAX_WAITING = 8
"""Utterances that wait at most; then the stream is not read until one is taken."""
_PIECE_S = 0.1
"""Longer pieces are heard in parts, so that one is noticed while it is being heard."""


class Listener:
    """Reads a stream of audio in a task of its own and cuts it into utterances.

    Everything runs in one event loop, and needs no lock.
    """

    def __init__(
        self,
        items: AsyncIterator[Any],
        *,
        options: EndpointingOptions | None,
        read: Callable[[str], bytes],
        barge_in_s: float | None,
    ) -> None:
        """Prepare to listen; entering begins.

        Args:
            items: The stream: PCM, or utterances where there are no options.
            options: What ends an utterance.
            read: Returns what a handle names.
            barge_in_s: Speech that makes an interruption; None if nothing does.
        """
        self._items = items
        self._read = read
        self._rate = 0 if options is None else options.sample_rate
        self._endpointer = None if options is None else Endpointer(options)
        self._barge_in_s = None if options is None else barge_in_s
        self._waiting: deque[ClipInput] = deque()
        self._ended = False
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Listener:
        self._task = asyncio.ensure_future(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def utterances(self) -> AsyncIterator[ClipInput]:
        """Yield utterances until the stream ends.

        Raises:
            Exception: What reading the stream raised.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                clip = self._waiting.popleft()
                self._changed.notify_all()
            yield clip
        # What the stream raised is raised here, after what came before it.
        await self._task

    async def interruption(self) -> None:
        """Return once the caller speaks: at once, if that has happened already."""
        async with self._changed:
            await self._changed.wait_for(self._is_interrupted)

    def _is_interrupted(self) -> bool:
        if self._barge_in_s is None or self._endpointer is None:
            return False
        # A short utterance may be over before it was long enough.
        return bool(self._waiting) or self._endpointer.speech_s >= self._barge_in_s

    async def _listen(self) -> None:
        try:
            async for item in self._items:
                for piece in self._pieces(item):
                    await self._take(await asyncio.to_thread(self._push, piece))
            await self._take(await asyncio.to_thread(self._flush))
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _take(self, utterances: list[ClipInput]) -> None:
        for clip in utterances:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING)
                self._waiting.append(clip)
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    def _pieces(self, item: Any) -> Iterator[Any]:
        if self._endpointer is None:
            yield item
            return
        pcm = self._read(item) if is_handle(item) else pcm_bytes(item)
        size = 2 * max(1, int(self._rate * _PIECE_S))
        for start in range(0, len(pcm), size):
            yield pcm[start : start + size]

    def _push(self, piece: Any) -> list[ClipInput]:
        # In a thread, as cutting and encoding samples is work; one piece at a time, as
        # an endpointer is not thread-safe.
        if self._endpointer is None:
            return [piece]
        found = self._endpointer.push(piece)
        return [wav_bytes(samples, sample_rate=self._rate) for samples in found]

    def _flush(self) -> list[ClipInput]:
        if self._endpointer is None:
            return []
        found = self._endpointer.flush()
        return [wav_bytes(samples, sample_rate=self._rate) for samples in found]


async def until(
    ended: Callable[[], Awaitable[None]], items: AsyncIterator[_Item]
) -> AsyncIterator[_Item]:
    """Yield items until something happens; close what yields them.

    Args:
        ended: Returns once it has happened.
        items: An asynchronous generator; it is cancelled where it waits.
    """
    end = asyncio.ensure_future(_wait(ended))
    following: asyncio.Future[Any] | None = None
    async with closing(items):
        try:
            while True:
                following = asyncio.ensure_future(_next(items))
                await asyncio.wait(
                    {following, end}, return_when=asyncio.FIRST_COMPLETED
                )
                if end.done():
                    return
                try:
                    item = following.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            end.cancel()
            if following is not None and not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await following


async def _wait(ended: Callable[[], Awaitable[None]]) -> None:
    await ended()


async def _next(items: AsyncIterator[_Item]) -> _Item:
    return await anext(items)
