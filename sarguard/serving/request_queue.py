"""The bounded FIFO queue that requests wait in."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeAlias

from sarguard.errors import ClientClosedError, ConfigurationError, QueueFullError
from sarguard.serving.request_state import RequestState
from sarguard.types import Outcome

BatchKey: TypeAlias = Callable[[RequestState], Hashable]

# How long a batch that is not full waits for callers who are decoding their clips.
_GATHER_S = 0.02


class RequestQueue:
    """Requests that wait for the worker.

    A caller first reserves a place, then decodes its clips and enters: the decoded
    clips of waiting requests take memory, and the places bound that too.

    One condition guards all of it. Futures are resolved outside of it, because their
    callbacks are other people's code.
    """

    def __init__(self, *, places: int, batch: int, key: BatchKey) -> None:
        """Open a queue.

        Args:
            places: Most requests that wait or are about to.
            batch: Most requests that `next_batch` returns.
            key: Requests of equal keys may share a batch.
        """
        if places < 1 or batch < 1:
            raise ConfigurationError(
                f"max_queue is {places} and max_batch {batch}: need 1 or more of each"
            )
        self._places = places
        self._batch = batch
        self._key = key
        self._changed = threading.Condition()
        # A request is in one of three: waiting for a place, on its way in with a
        # place, or waiting for the worker.
        self._outside: deque[tuple[RequestState, Future[None]]] = deque()
        self._arriving: set[RequestState] = set()
        self._waiting: dict[RequestState, Hashable] = {}
        self._expected = 0
        self._closed = False

    def __len__(self) -> int:
        """Return how many requests hold a place."""
        return len(self._arriving) + len(self._waiting)

    @property
    def limit(self) -> int:
        """Return how many requests may hold a place."""
        return self._places

    def reserve(self, state: RequestState, *, wait: bool) -> Future[None]:
        """Ask for a place.

        Returns:
            A future that is done when there is a place; `release` withdraws.

        Raises:
            QueueFullError: There is no place now, and `wait` is false.
            ClientClosedError: The queue is closed.
        """
        future: Future[None] = Future()
        with self._changed:
            self._check_open()
            free = len(self) < self._places and not self._outside
            if not free and not wait:
                raise QueueFullError(
                    f"{self._places} requests wait already: ask again later, raise "
                    "max_queue, or let callers wait with queue_full='wait'"
                )
            if not free:
                self._outside.append((state, future))
                return future
            self._arriving.add(state)
        future.set_result(None)
        return future

    def enter(self, state: RequestState) -> None:
        """Take the reserved place; a request that has ended gives it up instead.

        A key that cannot be told is raised here, to its caller.
        """
        # Outside the lock and the worker's thread, which a failure would end.
        key = None if state.settled else self._key(state)
        with self._changed:
            closed = self._closed
            if closed or state.settled or state not in self._arriving:
                granted = self._leave(state)
            else:
                granted = []
                self._arriving.discard(state)
                state.times.queued = time.perf_counter()
                self._waiting[state] = key
                self._changed.notify_all()
        _grant(granted)
        if closed:
            state.abandon(Outcome.CANCELLED)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Have the worker wait a moment for all requests that enter in the block."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    def release(self, state: RequestState) -> None:
        """Give up a place, a reservation or the wait for one, if there is any."""
        with self._changed:
            granted = self._leave(state)
        _grant(granted)

    def next_batch(self) -> list[RequestState]:
        """Wait for requests and return those that come next; none when closed.

        FIFO: the oldest request is always scheduled.
        """
        batch: list[RequestState] = []
        while not batch and not self._closed:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._gather()
                batch = self._pick()
                granted = self._fill_places()
            _grant(granted)
        return batch

    def close(self) -> list[RequestState]:
        """Let no request in any more, and return those that were waiting."""
        with self._changed:
            self._closed = True
            left = [*self._waiting, *self._arriving]
            outside = list(self._outside)
            self._waiting.clear()
            self._arriving.clear()
            self._outside.clear()
            self._changed.notify_all()
        for state, future in outside:
            left.append(state)
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        return left

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError(
                "this client is closed: load the model again to ask more"
            )

    def _gather(self) -> None:
        end = time.perf_counter() + _GATHER_S
        while self._arriving or self._expected:
            left = end - time.perf_counter()
            full = len(self._waiting) >= self._batch
            if full or self._closed or left <= 0 or not self._changed.wait(left):
                return

    def _pick(self) -> list[RequestState]:
        oldest = next(iter(self._waiting.values()), None)
        alike = [state for state, key in self._waiting.items() if key == oldest]
        batch = alike[: self._batch]
        for state in batch:
            del self._waiting[state]
        return batch

    def _leave(self, state: RequestState) -> list[Future[None]]:
        self._arriving.discard(state)
        self._waiting.pop(state, None)
        for entry in [e for e in self._outside if e[0] is state]:
            self._outside.remove(entry)
            entry[1].cancel()
        self._changed.notify_all()
        return self._fill_places()

    def _fill_places(self) -> list[Future[None]]:
        granted = []
        while self._outside and len(self) < self._places:
            state, future = self._outside.popleft()
            if future.set_running_or_notify_cancel():
                self._arriving.add(state)
                granted.append(future)
        return granted


def _grant(futures: list[Future[None]]) -> None:
    # Outside the lock: a future's callbacks are other people's code.
    for future in futures:
        future.set_result(None)


def end_all(states: list[RequestState]) -> None:
    """Cancel requests that nobody is going to answer."""
    for state in states:
        state.abandon(Outcome.CANCELLED)
