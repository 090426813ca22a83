from __future__ import annotations

import pytest

from sarguard.errors import ConfigurationError, QueueFullError
from sarguard.serving.request import Asked, NoAttendant
from sarguard.serving.request_queue import Line
from sarguard.serving.request_state import Guarding, Ticket
from sarguard.steering.dose import ConstantDose

GUARDING = Guarding(model_name="tiny", bundle_digest="0" * 64, layers=1)


def ticket(kind: str) -> Ticket:
    asked = Asked(dose=ConstantDose(alpha=0.1), fallback=kind)
    return Ticket(asked, guarding=GUARDING, attendant=NoAttendant())


def line_of(kinds: str, *, batch: int = 2, places: int = 64) -> Line:
    line = Line(places=places, batch=batch, key=lambda waiting: waiting.asked.fallback)
    for kind in kinds:
        enter(line, kind)
    return line


def enter(line: Line, kind: str) -> Ticket:
    made = ticket(kind)
    assert line.reserve(made, wait=False).done()
    line.enter(made)
    return made


def kinds(batch: list[Ticket]) -> str:
    return "".join(waiting.asked.fallback for waiting in batch)


def test_equal_keys_share_a_batch_and_nobody_is_passed_over() -> None:
    line = line_of("abaaabb")
    order = [kinds(line.next_batch()) for _ in range(4)]
    # The lone b is second, not last, though more of a wait.
    assert order == ["aa", "bb", "aa", "b"]
    assert len(line) == 0


def test_who_comes_later_does_not_overtake_who_waits() -> None:
    line = line_of("ab")
    first = line.next_batch()
    for _ in range(5):
        enter(line, "a")
    assert kinds(first) == "a"
    assert kinds(line.next_batch()) == "b"


def test_a_place_is_for_who_asked_first() -> None:
    line = line_of("a", places=1)
    waiting = [ticket("b"), ticket("c")]
    futures = [line.reserve(made, wait=True) for made in waiting]
    assert [future.done() for future in futures] == [False, False]
    with pytest.raises(QueueFullError):
        line.reserve(ticket("d"), wait=False)
    line.next_batch()
    assert [future.done() for future in futures] == [True, False]
    line.release(waiting[0])
    assert futures[1].done()


def test_a_closed_line_lets_nobody_in() -> None:
    line = line_of("ab")
    assert kinds(line.close()) == "ab"
    assert line.next_batch() == []
    with pytest.raises(ConfigurationError, match="closed"):
        line.reserve(ticket("a"), wait=True)
