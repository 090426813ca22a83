from __future__ import annotations

import pytest

from sarguard.errors import ClientClosedError, QueueFullError
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_queue import RequestQueue
from sarguard.serving.request_state import ClientFacts, RequestState
from tests.serving.fakes import OpenGuard

FACTS = ClientFacts(model_name="tiny", bundle_digest="0" * 64, layers=1, fallback="")


def request(kind: str) -> RequestState:
    return RequestState(GenerationRequest(text=kind), facts=FACTS, guard=OpenGuard())


def queue_of(kinds: str, *, batch: int = 2, places: int = 64) -> RequestQueue:
    queue = RequestQueue(
        places=places, batch=batch, key=lambda waiting: waiting.request.text
    )
    for kind in kinds:
        enter(queue, kind)
    return queue


def enter(queue: RequestQueue, kind: str) -> RequestState:
    made = request(kind)
    assert queue.reserve(made, wait=False).done()
    queue.enter(made)
    return made


def kinds(batch: list[RequestState]) -> str:
    return "".join(waiting.request.text for waiting in batch)


def test_equal_keys_share_a_batch_and_nobody_is_passed_over() -> None:
    queue = queue_of("abaaabb")
    order = [kinds(queue.next_batch()) for _ in range(4)]
    # The lone b is second, not last, though more of a wait.
    assert order == ["aa", "bb", "aa", "b"]
    assert len(queue) == 0


def test_who_comes_later_does_not_overtake_who_waits() -> None:
    queue = queue_of("ab")
    first = queue.next_batch()
    for _ in range(5):
        enter(queue, "a")
    assert kinds(first) == "a"
    assert kinds(queue.next_batch()) == "b"


def test_a_place_is_for_who_asked_first() -> None:
    queue = queue_of("a", places=1)
    waiting = [request("b"), request("c")]
    futures = [queue.reserve(made, wait=True) for made in waiting]
    assert [future.done() for future in futures] == [False, False]
    with pytest.raises(QueueFullError):
        queue.reserve(request("d"), wait=False)
    queue.next_batch()
    assert [future.done() for future in futures] == [True, False]
    queue.release(waiting[0])
    assert futures[1].done()


def test_a_closed_line_lets_nobody_in() -> None:
    queue = queue_of("ab")
    assert kinds(queue.close()) == "ab"
    assert queue.next_batch() == []
    with pytest.raises(ClientClosedError, match="closed"):
        queue.reserve(request("a"), wait=True)
