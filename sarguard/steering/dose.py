"""How strongly each request is steered: a constant, or what its score calls for.

A dose is decided once a request, from the gate's score of its clean states, before any
answer token is chosen. It is never zero: steering is always on. All of it is plain
data, so that an engine in another process decides the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sarguard.errors import ConfigurationError, SteeringNotAppliedError

DoseMode = Literal["faithful", "conditioned"]
ReadingKind = Literal[
    "clip",
    "turn",
    "window",
    "conversation",
    "text",
    "text_window",
    "text_conversation",
]
"""What a score is of: a clip alone, the newest user turn, the last user turns as one,
or the conversation as it stands. The last three hold no clip: a written text alone,
written turns as one, and a conversation in writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for one request."""

    alpha: float
    """Steering coefficient, above 0."""
    score: float | None = None
    """The gate's score; None where nothing was scored."""
    blocked: bool = False
    """Whether the request gets no answer at all."""
    bare: bool = False
    """Whether the answer is the bare model's, for a comparison that was asked for."""
    reading: ReadingKind | None = None
    """What the score is of; None where nothing was scored."""
    greedy_tokens: int = 0
    """Answer tokens that are chosen greedily at the beginning, whatever the request's
    temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseRule:
    """The steering coefficient as a function of the score.

    From `low` to `high` it rises in a straight line from `floor` to `ceiling`;
    outside it stays at either end.
    """

    floor: float
    """Coefficient of a request that looks harmless, above 0."""
    ceiling: float
    """Coefficient of a request that looks harmful, at least the floor."""
    low: float
    high: float
    block: float | None = None
    """Score from which on nothing is decoded; None never blocks."""

    def __post_init__(self) -> None:
        check_alpha("floor", self.floor)
        check_alpha("ceiling", self.ceiling)
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
        """Return whether every score gets the same coefficient, and none blocks."""
        # A rule that may block needs the score although its coefficient is constant.
        return self.floor == self.ceiling and self.block is None

    def joined(self, other: DoseRule) -> DoseRule:
        """Return a rule that at every score does at least what both do."""
        blocks = [rule.block for rule in (self, other) if rule.block is not None]
        # A ramp that begins and ends earlier, or between higher ends, is nowhere lower.
        return DoseRule(
            floor=max(self.floor, other.floor),
            ceiling=max(self.ceiling, other.ceiling),
            low=min(self.low, other.low),
            high=min(self.high, other.high),
            block=min(blocks, default=None),
        )

    def decide(self, score: float) -> Decision:
        """Return the decision for a score; one that is not a number blocks."""
        # NaN is below every threshold and would get the floor: a broken state must not
        # pass for a harmless one.
        if not math.isfinite(score):
            return Decision(alpha=self.ceiling, score=score, blocked=True)
        part = min(1.0, max(0.0, (score - self.low) / (self.high - self.low)))
        return Decision(
            alpha=self.floor + part * (self.ceiling - self.floor),
            score=score,
            blocked=self.block is not None and score >= self.block,
        )


_UNDECIDED = 0.0
"""The score of a request that is as likely harmful as harmless: see `Gate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseSpec:
    """The dose of one request, before its score is known."""

    rule: DoseRule
    min_alpha: float = 0.0
    """Coefficient that no answer falls below."""
    shadow: bool = False
    """Whether a block is only noted, and the bare model's first token compared."""
    bare: bool = False
    """Whether the answer is the bare model's, as a policy in shadow mode asked."""
    decision_tokens: int = 0
    """Answer tokens in which refusal and answer part, and that are chosen greedily
    where a request may be harmful; 0 or more."""

    def __post_init__(self) -> None:
        if self.decision_tokens < 0:
            raise ConfigurationError(
                f"decision_tokens is {self.decision_tokens}: it has to be 0 or more"
            )

    @classmethod
    def constant(cls, alpha: float) -> DoseSpec:
        """Return the dose that is the same for every request, as in the paper.

        Raises:
            ConfigurationError: `alpha` is not finite or not above 0.
        """
        check_alpha("alpha", alpha)
        # Any two scores in order: both ends are equal, and no score is asked for.
        return cls(rule=DoseRule(floor=alpha, ceiling=alpha, low=-1.0, high=1.0))

    def raised(self, *, rule: DoseRule | None = None, alpha: float = 0.0) -> DoseSpec:
        """Return a dose that is nowhere lower, and at least what is given.

        Args:
            rule: A rule that is to hold as well, such as a higher tier's.
            alpha: The least coefficient of the answer.
        """
        joined = self.rule if rule is None else self.rule.joined(rule)
        return replace(self, rule=joined, min_alpha=max(self.min_alpha, alpha))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DoseSpec:
        """Return the dose that `to_dict` wrote."""
        return cls(**{**values, "rule": DoseRule(**values["rule"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @property
    def reads_states(self) -> bool:
        """Return whether a score is needed, which costs a decode step."""
        return not self.rule.constant

    @property
    def mode(self) -> DoseMode:
        """Return how the coefficient comes about, as a reply reports it."""
        return "conditioned" if self.reads_states else "faithful"

    def decide(self, score: float | None = None) -> Decision:
        """Return the decision for a score.

        Raises:
            SteeringNotAppliedError: There is no score, and the dose depends on it.
        """
        if not self.reads_states:
            # The floor is the ceiling here.
            found = Decision(alpha=self.rule.floor)
        elif score is None:
            raise SteeringNotAppliedError(
                "the dose depends on the request's score, and there is none: give the "
                "engine the bundle's gate"
            )
        else:
            found = self.rule.decide(score)
        # A score that is no number means a broken state rather than a harmful
        # request: shadow mode lets the second through, nothing the first.
        passes = self.shadow and math.isfinite(found.score or 0.0)
        samples = self.bare or self._spares(found.score)
        return replace(
            found,
            # After the rule: a policy can raise what a bundle decides, never lower it.
            alpha=max(found.alpha, self.min_alpha),
            blocked=found.blocked and not passes,
            bare=self.bare,
            greedy_tokens=0 if samples else self.decision_tokens,
        )

    def _spares(self, score: float | None) -> bool:
        """Return whether a request may be sampled at once because it looks harmless.

        It does where it gets the least dose and scores on the harmless side. A
        coefficient that is the same for every score spares nothing.
        """
        rule = self.rule
        rises = rule.floor < rule.ceiling and self.min_alpha <= rule.floor
        # NaN is below nothing, so it is not spared.
        return rises and score is not None and score < min(rule.low, _UNDECIDED)

    def would_block(self, score: float | None) -> bool:
        """Return whether the rule blocks a request of that score, shadow mode aside."""
        return score is not None and self.rule.decide(score).blocked


def check_alpha(name: str, value: float) -> None:
    """Raise ConfigurationError unless a coefficient is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(
            f"{name} is {value}: it has to be finite and above 0, because nothing "
            "answers unsteered"
        )
