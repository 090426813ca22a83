"""How long and how much of a session is kept."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from sarguard.decoding.clip_embeddings import ClipColumns
from sarguard.decoding.session_memory import SessionMemory
from sarguard.errors import ConfigurationError
from sarguard.serving.sessions import SessionLimits, SessionStore

CLIP = ClipColumns(digest=b"d", count=4, speech=range(4))


def fill(memory: SessionMemory, size: int) -> None:
    columns = torch.zeros(size, dtype=torch.uint8)
    memory.keep({b"d": (CLIP, columns)}, {}, ())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_is_its_tenants() -> None:
    store = SessionStore()
    one = store.open("a", "s")
    assert store.open("a", "s") is one
    assert store.open("b", "s") is not one
    assert store.open(None, "s") is not one
    assert one.key != store.open("b", "s").key


def test_the_least_recently_used_goes_first() -> None:
    store = SessionStore(SessionLimits(max_bytes=100))
    for name in "abc":
        fill(store.open(None, name), 40)
        store.open(None, "a")
    store.settle()
    kept = {name for name in "abc" if store.open(None, name).size}
    assert kept == {"a", "c"}


def test_a_session_that_is_too_large_is_not_kept() -> None:
    store = SessionStore(SessionLimits(max_bytes=100))
    memory = store.open(None, "a")
    fill(memory, 101)
    store.settle()
    assert store.open(None, "a") is not memory


def test_no_more_sessions_than_allowed() -> None:
    store = SessionStore(SessionLimits(max_sessions=2))
    for name in "abc":
        store.open(None, name)
    store.settle()
    assert len(store) == 2


def test_a_session_that_asks_no_more_is_dropped() -> None:
    clock = Clock()
    store = SessionStore(SessionLimits(max_idle_s=10.0), clock=clock)
    memory = store.open(None, "a")
    clock.now = 9.0
    assert store.open(None, "a") is memory
    clock.now = 19.5
    assert store.open(None, "b") is not memory
    assert store.open(None, "a") is not memory


def test_what_is_idle_is_dropped_though_nobody_asks() -> None:
    store = SessionStore(SessionLimits(max_idle_s=0.1))
    store.open(None, "a")
    until = time.monotonic() + 10.0
    while store.names() and time.monotonic() < until:
        time.sleep(0.02)
    assert store.names() == []


def test_a_store_that_is_cleared_or_lost_waits_for_nothing() -> None:
    before = set(threading.enumerate())
    cleared, lost = SessionStore(), SessionStore()
    for store in (cleared, lost):
        store.open(None, "a")
    timers = set(threading.enumerate()) - before
    assert len(timers) == 2
    cleared.clear()
    del store, lost
    for timer in timers:
        timer.join(timeout=10.0)
        assert not timer.is_alive()


def test_forgetting_ends_one_and_clearing_all() -> None:
    store = SessionStore()
    memory = store.open("t", "a")
    store.open("t", "b")
    store.forget("u", "a")
    assert store.open("t", "a") is memory
    store.forget("t", "a")
    store.forget("t", "never asked")
    assert store.open("t", "a") is not memory
    store.clear()
    assert len(store) == 0


@pytest.mark.parametrize("name", ["max_bytes", "max_sessions", "max_idle_s"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_limits_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        SessionLimits(**{name: value})  # type: ignore[arg-type]
