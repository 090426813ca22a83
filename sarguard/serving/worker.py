"""The one thread that runs the model, from the first request to `close`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future

import torch

from sarguard.serving.batch_engine import Engine
from sarguard.serving.request_queue import Line, end_all
from sarguard.serving.request_state import Ticket


class Worker:
    """Answer the requests of a line, batch after batch.

    The thread starts with the first request. In a forked child the line is empty and
    the next request starts a thread of the child's own.
    """

    _starting: threading.Lock
    _thread: threading.Thread | None
    _running: list[Ticket]
    _line: Line

    def __init__(
        self, engine: Engine, *, device: torch.device, max_batch: int, max_queue: int
    ) -> None:
        self._engine = engine
        self._device = device
        self._new_line: Callable[[], Line] = lambda: Line(
            places=max_queue, batch=max_batch, key=engine.batch_key
        )
        self._closed = False
        self._begin_anew()
        _WORKERS.add(self)

    @property
    def line(self) -> Line:
        """Return the line that requests wait in."""
        return self._line

    def reserve(self, ticket: Ticket, *, wait: bool) -> Future[None]:
        """Ask for a place in the line, and see that somebody works at its end."""
        future = self._line.reserve(ticket, wait=wait)
        with self._starting:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="sarguard-worker", daemon=True
                )
                self._thread.start()
        return future

    def close(self) -> None:
        """Cancel what waits or runs, and return when the thread has ended."""
        with self._starting:
            self._closed = True
            thread = self._thread
        end_all([*self._line.close(), *self._running])
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _begin_anew(self) -> None:
        self._starting = threading.Lock()
        self._thread = None
        self._running = []
        self._line = self._new_line()
        if self._closed:
            self._line.close()

    def _run(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        while batch := self._line.next_batch():
            self._running = batch
            if self._closed:
                end_all(batch)
            self._engine.answer(batch)
            self._running = []


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for worker in list(_WORKERS):
        worker._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
