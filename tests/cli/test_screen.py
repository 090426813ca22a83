"""What long commands say where no bar can be drawn."""

from __future__ import annotations

import io

import pytest
from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sarguard.cli.screen import ProgressLines, print_table


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


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140])
@pytest.mark.parametrize("box", [None, SIMPLE_HEAD])
def test_what_one_has_to_type_is_whole_at_any_width(
    width: int, box: Box | None
) -> None:
    name = "req_01M8KVN71P6MNJXNSZ654SZW85"
    table = Table(box=box, title="Requests")
    table.add_column("record", no_wrap=True)
    table.add_column("what it is about")
    table.add_column("request", no_wrap=True)
    table.add_column("model", no_wrap=False)
    table.add_row("1234567", Text("a request that ended"), name, "mistral-common")
    table.add_row("1234568", "program stopped writing", "", "")
    written = io.StringIO()
    print_table(Console(file=written, width=width), table)
    told = written.getvalue().replace("\n", "") if width < 40 else written.getvalue()
    assert all(word in told for word in ("1234567", "1234568", name, "mistral-common"))
    assert "Requests" in told
    assert "\u2026" not in told
