"""Between iterators and asynchronous iterators, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_END: Any = object()
_TURNS = 3
"""Of the event loop, after which what is being closed is a task."""
_CLOSING_S = 10.0
_RETRY_S = 0.01


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
                following = asyncio.run_coroutine_threadsafe(_next(items), loop)
                try:
                    item = following.result()
                finally:
                    # Ctrl-C comes while this thread waits.
                    following.cancel()
                if item is _END:
                    return
                yield item
        finally:
            asyncio.run_coroutine_threadsafe(_close(items), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def closing(
    items: AsyncIterator[_Item],
) -> AbstractAsyncContextManager[AsyncIterator[_Item]]:
    """Return a context that yields an asynchronous generator and closes it at its end.

    One that is merely dropped is closed some time later.
    """
    made: Any = items
    return contextlib.aclosing(made)


async def from_sync(items: Iterator[_Item]) -> AsyncIterator[_Item]:
    """Yield the items of an iterator, each awaited in a thread.

    Raises:
        RuntimeError: The iterator wanted to end the program.
    """
    loop = asyncio.get_running_loop()
    while True:
        found: asyncio.Future[Any] = loop.create_future()

        def pull(found: asyncio.Future[Any] = found) -> None:
            try:
                item = next(items, _END)
            except Exception as error:
                _tell(loop, found, found.set_exception, error)
            except BaseException as error:
                # An event loop would end with it, and everything that waits would hang.
                ended = RuntimeError(f"the stream raised {type(error).__name__}")
                _tell(loop, found, found.set_exception, ended)
            else:
                _tell(loop, found, found.set_result, item)

        # A daemon: a silent microphone must not keep the program from ending.
        threading.Thread(target=pull, daemon=True, name="sarguard-source").start()
        item = await found
        if item is _END:
            return
        yield item


def _tell(
    loop: asyncio.AbstractEventLoop,
    found: asyncio.Future[Any],
    tell: Callable[[Any], None],
    value: object,
) -> None:
    def told() -> None:
        if not found.done():
            tell(value)

    # The loop is closed where nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(told)


async def _made(make: Callable[[], AsyncIterator[_Item]]) -> AsyncIterator[_Item]:
    return make()


async def _next(items: AsyncIterator[_Item]) -> Any:
    return await anext(items, _END)


async def _close(items: AsyncIterator[Any]) -> None:
    made: Any = items
    loop = asyncio.get_running_loop()
    until = loop.time() + _CLOSING_S
    while loop.time() < until:
        try:
            await made.aclose()
            break
        except RuntimeError:
            # Its last item is being cancelled.
            await asyncio.sleep(_RETRY_S)
    # Generators that others dropped: the loop closes them by itself, a little later.
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, stuck = await asyncio.wait(left, timeout=_CLOSING_S)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
