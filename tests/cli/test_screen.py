"""What long commands say where no bar can be drawn."""

from __future__ import annotations

from sarguard.cli.screen import ProgressLines


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_half_minute_with_what_is_left() -> None:
    clock, said = Clock(), list[str]()
    lines = ProgressLines("Asking", said.append, clock=clock)
    for done in range(0, 121):
        lines(done, 240, "now")
        clock.now += 1.0
    assert said == [
        "Asking: 30 of 240 (12%), about 4 min left",
        "Asking: 60 of 240 (25%), about 3 min left",
        "Asking: 90 of 240 (38%), about 2 min left",
        "Asking: 120 of 240 (50%), about 2 min left",
    ]


def test_what_an_earlier_run_did_is_not_this_ones_pace() -> None:
    clock, said = Clock(), list[str]()
    lines = ProgressLines("Asking", said.append, clock=clock)
    lines(900, 1000)
    clock.now += 60
    lines(910, 1000)
    clock.now += 7200
    lines(911, 1000)
    assert said == [
        "Asking: 910 of 1000 (91%), about 9 min left",
        "Asking: 911 of 1000 (91%), about 16 h 19 min left",
    ]


def test_nothing_done_and_nothing_known_is_no_error() -> None:
    clock, said = Clock(), list[str]()
    lines = ProgressLines("Asking", said.append, clock=clock)
    clock.now += 31
    lines(0, 0)
    clock.now += 31
    lines(3, 3)
    assert said == [
        "Asking: 0 of 0",
        "Asking: 3 of 3 (100%)",
    ]
