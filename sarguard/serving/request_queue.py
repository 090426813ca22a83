"""The line that requests wait in: of limited length, first come first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeAlias

from sarguard.errors import ConfigurationError, QueueFullError
from sarguard.serving.request_state import Ticket
from sarguard.types import Outcome

BatchKey: TypeAlias = Callable[[Ticket], Hashable]

# A batch that could be larger waits so long for callers who decode their clips.
_GATHER_S = 0.02


class Line:
    """Hold the requests that wait for the worker.

    A caller first reserves a place, then decodes its clips and enters, so that the
    line bounds the memory of waiting requests too.
    """

    def __init__(self, *, places: int, batch: int, key: BatchKey) -> None:
        """Open a line.

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
        self._outside: deque[tuple[Ticket, Future[None]]] = deque()
        self._arriving: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self._expected = 0
        self._closed = False

    def __len__(self) -> int:
        """Return how many requests hold a place."""
        return len(self._arriving) + len(self._waiting)

    def reserve(self, ticket: Ticket, *, wait: bool) -> Future[None]:
        """Ask for a place.

        Returns:
            A future that is done when there is a place; `release` withdraws.

        Raises:
            QueueFullError: There is no place now, and `wait` is false.
            ConfigurationError: The line is closed.
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
                self._outside.append((ticket, future))
                return future
            self._arriving.add(ticket)
        future.set_result(None)
        return future

    def enter(self, ticket: Ticket) -> None:
        """Take the reserved place; a request that has ended gives it up instead."""
        with self._changed:
            closed = self._closed
            if closed or ticket.settled or ticket not in self._arriving:
                granted = self._leave(ticket)
            else:
                granted = []
                self._arriving.discard(ticket)
                ticket.marks.queued = time.perf_counter()
                self._waiting.append(ticket)
                self._changed.notify_all()
        _grant(granted)
        if closed:
            ticket.abandon(Outcome.CANCELLED)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Have the worker wait a moment for all who enter inside the block."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    def release(self, ticket: Ticket) -> None:
        """Give up a place, a reservation or the wait for one, if there is any."""
        with self._changed:
            granted = self._leave(ticket)
        _grant(granted)

    def next_batch(self) -> list[Ticket]:
        """Wait for requests and return those that come next; none when closed.

        The one that waited longest is always among them.
        """
        batch: list[Ticket] = []
        while not batch and not self._closed:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._gather()
                batch = self._pick()
                granted = self._fill_places()
            _grant(granted)
        return batch

    def close(self) -> list[Ticket]:
        """Let nobody in any more, and return who was waiting."""
        with self._changed:
            self._closed = True
            left = [*self._waiting, *self._arriving]
            outside = list(self._outside)
            self._waiting.clear()
            self._arriving.clear()
            self._outside.clear()
            self._changed.notify_all()
        for ticket, future in outside:
            left.append(ticket)
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        return left

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError(
                "this client is closed: load the model again to ask more"
            )

    def _gather(self) -> None:
        end = time.perf_counter() + _GATHER_S
        while self._arriving or self._expected:
            left = end - time.perf_counter()
            full = len(self._waiting) >= self._batch
            if full or self._closed or left <= 0 or not self._changed.wait(left):
                return

    def _pick(self) -> list[Ticket]:
        if not self._waiting:
            return []
        key = self._key(self._waiting[0])
        batch: list[Ticket] = []
        for ticket in list(self._waiting):
            if len(batch) == self._batch:
                break
            if self._key(ticket) == key:
                batch.append(ticket)
                self._waiting.remove(ticket)
        return batch

    def _leave(self, ticket: Ticket) -> list[Future[None]]:
        self._arriving.discard(ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        for entry in [e for e in self._outside if e[0] is ticket]:
            self._outside.remove(entry)
            entry[1].cancel()
        self._changed.notify_all()
        return self._fill_places()

    def _fill_places(self) -> list[Future[None]]:
        granted = []
        while self._outside and len(self) < self._places:
            ticket, future = self._outside.popleft()
            if future.set_running_or_notify_cancel():
                self._arriving.add(ticket)
                granted.append(future)
        return granted


def _grant(futures: list[Future[None]]) -> None:
    # Outside the lock: a future's callbacks are other people's code.
    for future in futures:
        future.set_result(None)


def end_all(tickets: list[Ticket]) -> None:
    """Cancel requests that nobody is going to answer."""
    for ticket in tickets:
        ticket.abandon(Outcome.CANCELLED)
