"""Noticing that nobody waits any more for a call in a worker thread.

An asynchronous program runs blocking calls by `asyncio.to_thread` and
`loop.run_in_executor`; so does LangGraph with nodes that are plain functions. Where the
task that awaits such a call is cancelled, the thread is not told, and would hold the
model until its answer is whole.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, thread
from types import FrameType
from typing import Any


def watch_caller(gone: Callable[[], None]) -> Callable[[], None]:
    """Call back, in a thread of its own, once the call around this one is cancelled.

    Args:
        gone: Called at most once.

    Returns:
        What ends the watch. Where no executor runs this call, nothing is watched.
    """
    future = _future_of_this_call()
    if future is None:
        return _nothing
    cancel = future.cancel

    def cancelled() -> bool:
        # asyncio calls this where the awaiting task is cancelled. The future runs, so
        # that it cannot be cancelled itself; the model can. In a thread: the event loop
        # calls, and ending a request writes a record.
        threading.Thread(target=gone, daemon=True).start()
        return cancel()

    # On the instance, so that no other call is touched.
    vars(future)["cancel"] = cancelled

    def end() -> None:
        if vars(future).get("cancel") is cancelled:
            del vars(future)["cancel"]

    return end


def _future_of_this_call() -> Future[Any] | None:
    """Return the future of the work item whose thread this is, if there is one."""
    # The names are private, and have been these since Python 3.2. Should they change,
    # nothing is found, and a cancelled call ends with its answer as it used to.
    work_item: Any = getattr(thread, "_WorkItem", None)
    run = getattr(getattr(work_item, "run", None), "__code__", None)
    frame: FrameType | None = sys._getframe() if run is not None else None
    while frame is not None:
        if frame.f_code is run:
            future = getattr(frame.f_locals.get("self"), "future", None)
            return future if isinstance(future, Future) else None
        frame = frame.f_back
    return None


def _nothing() -> None:
    pass
