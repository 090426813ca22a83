"""How strongly each request is steered: always the same, or as its state asks.

A dose is decided once a request, from the clean states of its last prompt token,
before any answer token is chosen. It is never zero: steering is always on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sarguard.errors import ConfigurationError
from sarguard.steering.gate import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Hold what was decided for one request."""

    alpha: float
    """Strength of steering, above 0."""
    score: float | None = None
    """The gate's score, None where nothing was scored."""
    blocked: bool = False
    """Whether the request gets no answer at all."""
    bare: bool = False
    """Whether the answer is the bare model's, for a comparison that was asked for."""


class Dose(Protocol):
    """Decide the strength of each row of a batch."""

    @property
    def reads_states(self) -> bool:
        """Return whether `decide` needs the clean states, which cost a decode step."""

    @property
    def compares(self) -> bool:
        """Return whether it is noted how far steering moves the first token."""
        return False

    @property
    def bare(self) -> bool:
        """Return whether every decision is for the bare model's answer."""
        return False

    def decide(self, states: Tensor | None, rows: int) -> list[Decision]:
        """Return one decision a row.

        Args:
            states: Clean last-token states, shape (L, rows, D), or None where
                `reads_states` is false.
            rows: Rows of the batch.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantDose(Dose):
    """Steer every request alike, as the paper does (`faithful` mode)."""

    alpha: float

    def __post_init__(self) -> None:
        _check_strength("alpha", self.alpha)

    @property
    def reads_states(self) -> bool:
        """Return False: the request does not matter."""
        return False

    def decide(self, states: Tensor | None, rows: int) -> list[Decision]:
        """Return the same decision for every row."""
        return [Decision(alpha=self.alpha)] * rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseRule:
    """Say which strength follows from which score.

    From `low` to `high` the strength rises in a straight line from `floor` to
    `ceiling`; outside it stays at either.
    """

    floor: float
    """Strength of a request that looks harmless, above 0."""
    ceiling: float
    """Strength of a request that looks harmful, at least the floor."""
    low: float
    high: float
    block: float | None = None
    """Score from which on nothing is decoded; None never blocks."""

    def __post_init__(self) -> None:
        _check_strength("floor", self.floor)
        _check_strength("ceiling", self.ceiling)
        if self.ceiling < self.floor:
            raise ConfigurationError(
                f"ceiling {self.ceiling} is below floor {self.floor}: a request that "
                "looks more harmful is never steered less"
            )
        scores = [self.low, self.high, *([] if self.block is None else [self.block])]
        if not all(math.isfinite(score) for score in scores) or self.low >= self.high:
            raise ConfigurationError(
                f"scores low {self.low}, high {self.high}, block {self.block}: they "
                "have to be finite, and low below high"
            )

    @property
    def constant(self) -> bool:
        """Return whether every score gets the same strength, and none blocks."""
        return self.floor == self.ceiling and self.block is None

    def decide(self, score: float) -> Decision:
        """Return the decision for a score; one that is not a number blocks."""
        if not math.isfinite(score):
            return Decision(alpha=self.ceiling, score=score, blocked=True)
        part = min(1.0, max(0.0, (score - self.low) / (self.high - self.low)))
        return Decision(
            alpha=self.floor + part * (self.ceiling - self.floor),
            score=score,
            blocked=self.block is not None and score >= self.block,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConditionedDose(Dose):
    """Steer each request as strongly as its own state asks.

    Where the rules are constant the gate is not asked, and there are no scores.
    """

    gate: Gate
    rules: Sequence[DoseRule]
    """One rule for all rows, or one a row: a batch may mix tiers."""

    @property
    def reads_states(self) -> bool:
        """Return whether any rule depends on the request's own state."""
        return not all(rule.constant for rule in self.rules)

    def decide(self, states: Tensor | None, rows: int) -> list[Decision]:
        """Return each row's decision by its score.

        Raises:
            ConfigurationError: The states are missing, or not of `rows` rows.
        """
        rules = list(self.rules) * rows if len(self.rules) == 1 else self.rules
        if not self.reads_states:
            return [Decision(alpha=rule.floor) for rule in rules]
        if states is None or states.shape[1] != rows:
            found = None if states is None else tuple(states.shape)
            raise ConfigurationError(
                f"a conditioned dose of {rows} row(s) needs their states, found {found}"
            )
        scores = self.gate.score(states).tolist()
        return [rule.decide(score) for rule, score in zip(rules, scores, strict=True)]


def _check_strength(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(
            f"{name} is {value}: it has to be finite and above 0, because nothing "
            "answers unsteered"
        )
