"""What a gate scores: each part of a request alone, in one canonical prompt.

A score of a whole prompt is moved by what surrounds a request: a system prompt, a
schema, an earlier answer. Each clip and each written text is therefore read in a prompt
of its own as well, where nothing surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sarguard.steering.dose import ReadingKind
from sarguard.steering.gate import LinearProbe
from sarguard.types import Turn

Score: TypeAlias = Callable[[Tensor, ReadingKind], Tensor]
"""Scores clean last-token states, (layers, rows, width) -> (rows,), as a gate does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """A prompt of its own, whose last state is scored."""

    kind: ReadingKind
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadStates:
    """The clean last-token states of one reading."""

    kind: ReadingKind
    states: Tensor
    """Float32, shape (layers, width)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowReadings:
    """What of one request was read."""

    read: tuple[ReadStates, ...] = ()
    in_place: ReadingKind = "conversation"
    """What the conversation's own states are states of: where it is nothing but a
    clip, they are those of the clip alone."""
    silent: bool = False
    """Whether a clip of the conversation holds long silence, which raises the score of
    the conversation as it stands. It is then read without it as well."""

    def with_place(self, states: Tensor) -> tuple[ReadStates, ...]:
        """Return all that was read of the request, the strongest of which is its score.

        Args:
            states: Those of the conversation as it stands, shape (layers, width).
        """
        place = ReadStates(kind=self.in_place, states=states)
        # A broken state is scored all the same, so that it blocks.
        if self.silent and self.read and is_finite(states):
            return self.read
        return (*self.read, place)


def any_reading(probe: LinearProbe) -> Score:
    """Return a probe's score, the same for readings of every kind."""
    return lambda states, _kind: probe.score(states)


def canonical_readings(turns: Sequence[Turn]) -> list[Reading]:
    """Return what is read of a conversation beside its own prompt.

    Each clip and each text of every user turn alone; the newest user turn; the last two
    or three user turns joined into one. Without system turns, answers and earlier
    turns. Of equal readings there is the first alone: a written turn is a "text", and
    no "turn".
    """
    users = [turn for turn in turns if turn.role == "user"]
    found: dict[object, Reading] = {}
    for kind, turn in _parts(users):
        if turn.text or turn.audio:
            found.setdefault(same_turn(turn), Reading(kind=kind, turns=(turn,)))
    return list(found.values())


def window_start(turns: Sequence[Turn]) -> Reading:
    """Return the reading that the next user turn's window goes on from."""
    users = [turn for turn in turns if turn.role == "user"]
    return Reading(
        kind="window", turns=(_joined(users[_window_begins(len(users) + 1) :]),)
    )


def same_turn(turn: Turn) -> object:
    """Return a key: turns with equal keys say the same."""
    return turn.role, turn.text, tuple(map(id, turn.audio))


def strongest(scores: Sequence[tuple[ReadingKind, float]]) -> tuple[ReadingKind, float]:
    """Return the highest score and its kind; one that is not finite wins."""

    def rank(found: tuple[ReadingKind, float]) -> float:
        # A state that is broken must not be outvoted: a dose blocks what is not finite.
        # NaN and minus infinity compare false with every bound.
        return found[1] if abs(found[1]) < float("inf") else float("inf")

    return max(scores, key=rank)


def request_scores(
    read: Sequence[ReadStates], score: Score
) -> list[tuple[ReadingKind, float]]:
    """Return the score of each reading of one request."""
    # Each alone, so that a request's score is the same in any batch.
    return [(one.kind, float(score(one.states[:, None], one.kind))) for one in read]


def place_kind(turns: Sequence[Turn]) -> ReadingKind:
    """Return the kind of a conversation that is read as it stands."""
    heard = any(turn.audio for turn in turns)
    return "conversation" if heard else "text_conversation"


def is_finite(states: Tensor) -> bool:
    """Return whether no number of some states is NaN or infinite."""
    return bool(torch.isfinite(states).all())


def _window_begins(users: int) -> int:
    """Return which of so many user turns the window over the last ones begins with."""
    # Every second turn, so that two windows running have one beginning, which is read
    # once, and any two turns running are in one window.
    return max(0, users - 2) // 2 * 2


def _parts(users: Sequence[Turn]) -> Iterator[tuple[ReadingKind, Turn]]:
    for turn in users:
        for clip in turn.audio:
            yield "clip", Turn(role="user", audio=(clip,))
        if turn.text:
            yield "text", Turn(role="user", text=turn.text)
    if users:
        yield "turn", users[-1]
        joined = _joined(users[_window_begins(len(users)) :])
        yield "window" if joined.audio else "text_window", joined


def _joined(turns: Sequence[Turn]) -> Turn:
    return Turn(
        role="user",
        text=" ".join(turn.text for turn in turns if turn.text),
        audio=tuple(clip for turn in turns for clip in turn.audio),
    )
