"""The one thread that runs the model, from the first request to `close`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from sarguard.errors import ConfigurationError, SteeringNotAppliedError
from sarguard.serving.backend import Backend, GenerationJob
from sarguard.serving.forking import renew_in_child
from sarguard.serving.output_processor import OutputProcessor
from sarguard.serving.request_queue import RequestQueue, end_all
from sarguard.serving.request_state import RequestState


class Worker:
    """Hands the requests of a queue to a backend, batch after batch.

    The thread starts with the first request. In a forked child the queue is empty and
    the next request starts a thread of the child's own: threads and locks of the
    parent do not survive a fork.
    """

    _starting: threading.Lock
    _thread: threading.Thread | None
    _running: list[RequestState]
    _queue: RequestQueue

    def __init__(self, backend: Backend, *, max_batch: int, max_queue: int) -> None:
        self._backend = backend
        self._new_queue: Callable[[], RequestQueue] = lambda: RequestQueue(
            places=max_queue, batch=max_batch, key=self._key
        )
        self._closed = False
        self.begin_anew()
        renew_in_child(self)

    @property
    def queue(self) -> RequestQueue:
        """Return the queue that requests wait in."""
        return self._queue

    @property
    def running(self) -> int:
        """Return how many requests the model is answering now."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Return whether nothing is answered any more."""
        return self._closed

    def reserve(self, state: RequestState, *, wait: bool) -> Future[None]:
        """Ask for a place in the queue, and see that a thread works at its end.

        Raises:
            ConfigurationError: It is the model's own thread that asks.
        """
        if self._thread is threading.current_thread():
            raise ConfigurationError(
                "an observer asked the client for an answer on the model's thread, "
                "which would wait for itself: ask from a thread of your own"
            )
        future = self._queue.reserve(state, wait=wait)
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
        end_all([*self._queue.close(), *self._running])
        # Closed from an observer or a check on this very thread: it cannot wait.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def begin_anew(self) -> None:
        """Start over with an empty queue and no thread."""
        self._starting = threading.Lock()
        self._thread = None
        self._running = []
        self._queue = self._new_queue()
        if self._closed:
            self._queue.close()

    def _key(self, state: RequestState) -> Hashable:
        return self._backend.batch_key(state.backend_request)

    def _run(self) -> None:
        while batch := self._queue.next_batch():
            self._running = batch
            # `close` may have come between the batch and the line above.
            if self._closed:
                end_all(batch)
            self._answer(batch)
            self._running = []

    def _answer(self, batch: list[RequestState]) -> None:
        """Answer every request or end it otherwise; raise nothing."""
        for state in batch:
            state.pick()
        try:
            info, tokenizer = self._backend.info, self._backend.tokenizer
            self._backend.generate(
                [
                    GenerationJob(
                        request=state.backend_request,
                        sink=OutputProcessor(state, info, tokenizer),
                    )
                    for state in batch
                ]
            )
        except Exception as error:
            for state in batch:
                state.fail(error)
        except BaseException as error:
            # Nobody else would ever answer: the thread is started once.
            failure = RuntimeError(f"the backend ended with {type(error).__name__}")
            for state in batch:
                state.fail(failure)
        for state in batch:
            # No caller waits for ever on a backend that forgets a request.
            if not state.settled:
                state.fail(
                    SteeringNotAppliedError(
                        "the backend returned without ending this request"
                    )
                )
