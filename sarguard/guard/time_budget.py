"""Running somebody's function with a time budget."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from sarguard.errors import CheckTimeoutError

_T = TypeVar("_T")
_SHORTEST_WAIT_S = 0.01


def run_within(
    seconds: float,
    run: Callable[[], _T | Awaitable[_T]],
    what: str,
    *,
    paused_s: Callable[[], float] = lambda: 0.0,
) -> _T:
    """Return what a plain or async function returns.

    Args:
        seconds: Its budget.
        run: The function.
        what: Its name, for errors.
        paused_s: Seconds so far that do not count against the budget.

    Raises:
        CheckTimeoutError: Its time is over; it goes on, and nobody waits for it.
    """
    # A daemon thread a call, not a pool: a check that hangs must neither keep others
    # from running nor the interpreter from exiting, and pools do not survive a fork.
    done: Future[_T] = Future()

    def call() -> None:
        try:
            found = run()
            if inspect.isawaitable(found):
                found = asyncio.run(_awaited(found))
        except Exception as error:
            done.set_exception(error)
        except BaseException as error:
            # Raised again it would end the thread that waits, the model's own at times.
            done.set_exception(
                RuntimeError(f"{what} ended with {type(error).__name__}")
            )
        else:
            done.set_result(found)

    threading.Thread(target=call, name=f"sarguard-{what}", daemon=True).start()
    begun = time.monotonic()
    while True:
        left = seconds + paused_s() - (time.monotonic() - begun)
        try:
            return done.result(max(left, _SHORTEST_WAIT_S))
        except TimeoutError as error:
            if done.done():
                raise
            # Asked again: what does not count may have begun while we waited.
            if time.monotonic() - begun < seconds + paused_s():
                continue
            raise CheckTimeoutError(
                f"{what} took longer than {seconds:g} s: it has not passed"
            ) from error


async def _awaited(found: Awaitable[_T]) -> _T:
    return await found
