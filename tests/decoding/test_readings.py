"""What is read of a request beside its own prompt, and which score counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sarguard.decoding.prefill import decide_doses
from sarguard.decoding.readings import (
    Reading,
    ReadStates,
    RowReadings,
    canonical_readings,
    strongest,
    window_start,
)
from sarguard.decoding.row import Row
from sarguard.steering.dose import DoseRule, DoseSpec, ReadingKind
from sarguard.types import Turn

ONE, TWO, THREE = (np.full(4, n, dtype=np.float32) for n in (1, 2, 3))


def user(text: str = "", *clips: np.ndarray) -> Turn:
    return Turn(role="user", text=text, audio=clips)


def said(reading: Reading) -> tuple[str, str, list[float]]:
    (turn,) = reading.turns
    assert turn.role == "user"
    return reading.kind, turn.text, [float(clip[0]) for clip in turn.audio]


class TestCanonicalReadings:
    def test_every_part_of_a_conversation_is_read_alone(self) -> None:
        turns = [
            Turn(role="system", text="Sell tickets."),
            user("First?", ONE),
            Turn(role="assistant", text="Yes, sure."),
            user("Second.", TWO, THREE),
        ]
        assert [said(reading) for reading in canonical_readings(turns)] == [
            ("clip", "", [1.0]),
            ("text", "First?", []),
            ("clip", "", [2.0]),
            ("clip", "", [3.0]),
            ("text", "Second.", []),
            ("turn", "Second.", [2.0, 3.0]),
            ("window", "First? Second.", [1.0, 2.0, 3.0]),
        ]

    @pytest.mark.parametrize(
        ("turns", "kinds"),
        [
            ([user("Hi.")], ["text"]),
            ([user("", ONE)], ["clip"]),
            ([user("Hi.", ONE)], ["clip", "text", "turn"]),
            ([user("Hi."), user("", ONE)], ["text", "clip", "window"]),
            ([user("Hi."), user("Hi.")], ["text", "text_window"]),
            ([user()], []),
        ],
    )
    def test_equal_readings_are_made_once(
        self, turns: list[Turn], kinds: list[ReadingKind]
    ) -> None:
        assert [reading.kind for reading in canonical_readings(turns)] == kinds

    @pytest.mark.parametrize(
        ("count", "window"),
        [(2, "0 1"), (3, "0 1 2"), (4, "2 3"), (5, "2 3 4"), (6, "4 5"), (7, "4 5 6")],
    )
    def test_the_window_is_over_the_last_user_turns(
        self, count: int, window: str
    ) -> None:
        turns = [user(f"{n}") for n in range(count)]
        assert said(canonical_readings(turns)[-1]) == ("text_window", window, [])

    @pytest.mark.parametrize("count", range(1, 8))
    def test_the_next_window_begins_as_is_said(self, count: int) -> None:
        turns = [user("", np.full(4, n, dtype=np.float32)) for n in range(count + 1)]
        *_, window = canonical_readings(turns)
        start = window_start(turns[:-1])
        assert said(window)[2] == [*said(start)[2], float(count)]
        # It was read with the turn before, so that its cache can be kept.
        read = [said(reading)[2] for reading in canonical_readings(turns[:-1])]
        assert said(start)[2] in read


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_wins(broken: float) -> None:
    scores: list[tuple[ReadingKind, float]] = [
        ("clip", 3.0),
        ("text", broken),
        ("conversation", 9.0),
    ]
    for order in (scores, scores[::-1], scores[1:] + scores[:1]):
        assert strongest(order)[0] == "text"


class TestDecidingByReadings:
    RULE = DoseRule(floor=0.1, ceiling=0.9, low=0.0, high=1.0, block=2.0)

    def decide(self, *, place: float, **scores: float) -> Row:
        def score(states: Tensor, _kind: ReadingKind) -> Tensor:
            return states[0, :, 0]

        row = Row(dose=DoseSpec(rule=self.RULE), max_new_tokens=1)
        read = tuple(
            ReadStates(kind=kind, states=torch.full((2, 3), value))  # type: ignore[arg-type]
            for kind, value in scores.items()
        )
        states = torch.full((2, 1, 3), place)
        decide_doses([row], states, score, [RowReadings(read=read)])
        return row

    def test_the_strongest_reading_decides_and_is_named(self) -> None:
        decision = self.decide(place=-1.0, clip=0.5, text=-0.5).decision
        assert decision is not None
        assert (decision.score, decision.reading) == (0.5, "clip")
        assert decision.alpha == pytest.approx(0.5)

    def test_the_conversation_may_be_the_strongest(self) -> None:
        decision = self.decide(place=0.75, clip=0.5).decision
        assert decision is not None
        assert (decision.score, decision.reading) == (0.75, "conversation")

    def test_one_reading_blocks(self) -> None:
        assert self.decide(place=-1.0, clip=-1.0, window=2.5).ending == "blocked"

    def test_a_reading_with_nan_blocks(self) -> None:
        row = self.decide(place=-1.0, clip=math.nan, text=-1.0)
        assert row.ending == "blocked"
        assert row.decision is not None
        assert row.decision.reading == "clip"

    def test_a_constant_dose_is_not_scored(self) -> None:
        row = Row(dose=DoseSpec.constant(0.3), max_new_tokens=1)
        decide_doses([row], None, None, [RowReadings()])
        assert row.decision is not None
        assert row.decision.reading is None


class TestLongSilence:
    def read(self, states: Tensor, *, silent: bool) -> list[ReadingKind]:
        clip = ReadStates(kind="clip", states=torch.zeros(3, 4))
        found = RowReadings(read=(clip,), silent=silent).with_place(states)
        return [reading.kind for reading in found]

    def test_a_conversation_that_holds_it_is_not_scored_as_it_stands(self) -> None:
        states = torch.zeros(3, 4)
        assert self.read(states, silent=False) == ["clip", "conversation"]
        assert self.read(states, silent=True) == ["clip"]

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_a_broken_state_is_scored_all_the_same(self, broken: float) -> None:
        states = torch.zeros(3, 4)
        states[1, 2] = broken
        assert self.read(states, silent=True) == ["clip", "conversation"]

    def test_a_conversation_without_other_readings_is_scored(self) -> None:
        found = RowReadings(silent=True).with_place(torch.zeros(3, 4))
        assert [reading.kind for reading in found] == ["conversation"]
