"""Holding a request to its policy's bounds on turns, words and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sarguard.policy.model import Policy
from sarguard.types import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """Name a bound that a request exceeds."""

    rule: str
    """The setting, such as `text.max_chars`."""
    found: int
    most: int

    def __str__(self) -> str:
        return f"{self.rule} is {self.most}, the request has {self.found}"


def find_excess(policy: Policy, turns: Sequence[Turn]) -> Excess | None:
    """Return the first bound that a conversation exceeds, if there is one."""
    asked = turns[-1:]
    history = [turn for turn in turns[:-1] if turn.role != "system"]
    counts = (
        ("text.max_turns", len(history), policy.text.max_turns),
        ("text.max_chars", sum(len(t.text) for t in turns), policy.text.max_chars),
        ("audio.max_clips", sum(len(t.audio) for t in asked), policy.audio.max_clips),
    )
    for rule, found, most in counts:
        if found > most:
            return Excess(rule=rule, found=found, most=most)
    return None
