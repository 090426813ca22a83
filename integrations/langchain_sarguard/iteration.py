"""Between iterators and asynchronous iterators, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_END: Any = object()
_TURNS = 3
"""Of the event loop, after which what is being closed is a task."""
_CLOSING_S = 10.0


def iterate(make: Callable[[], AsyncIterator[_Item]]) -> Iterator[_Item]:
    """Yield the items of an asynchronous generator, which runs in a thread of its own.

    Its event loop runs on between two items. Closing the iterator closes the generator.

    Args:
        make: Makes the generator, in that thread.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=loop.run_forever, daemon=True, name="sarguard-loop"
    )
    thread.start()
    try:
        # Run from here, so that it has this thread's context variables.
        items = asyncio.run_coroutine_threadsafe(_made(make), loop).result()
        try:
            while True:
                item = asyncio.run_coroutine_threadsafe(_next(items), loop).result()
                if item is _END:
                    return
                yield item
        finally:
            asyncio.run_coroutine_threadsafe(_close(items), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def closing(items: AsyncIterator[_Item]) -> AsyncIterator[_Item]:
    """Yield items, and close their generator with this one.

    An asynchronous generator that is merely dropped is closed some time later.
    """
    made: Any = contextlib.aclosing(items)
    async with made as opened:
        async for item in opened:
            yield item


async def from_sync(items: Iterator[_Item]) -> AsyncIterator[_Item]:
    """Yield the items of an iterator, each awaited in a thread."""
    while True:
        item = await asyncio.to_thread(next, items, _END)
        if item is _END:
            return
        yield item


async def _made(make: Callable[[], AsyncIterator[_Item]]) -> AsyncIterator[_Item]:
    return make()


async def _next(items: AsyncIterator[_Item]) -> Any:
    return await anext(items, _END)


async def _close(items: AsyncIterator[Any]) -> None:
    made: Any = items
    await made.aclose()
    # Generators that others dropped: the loop closes them by itself, a little later.
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, stuck = await asyncio.wait(left, timeout=_CLOSING_S)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
