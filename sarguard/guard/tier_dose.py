"""A tier's dose as a policy holds it: never weaker, and with its own limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from sarguard.errors import ConfigurationError
from sarguard.policy.sections import Mode, Steering
from sarguard.policy.tiers import Tier
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import ConditionedDose, Decision, Dose, DoseRule
from sarguard.steering.gate import Gate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TierDose(Dose):
    """Steer each request as its tier's rule says, and at least so strongly."""

    gate: Gate
    rule: DoseRule
    """The tier's, with the score from which on the policy blocks."""
    least: float = 0.0
    """Strength that no answer falls below."""
    shadow: bool = False
    """Whether a block is only noted."""
    bare: bool = False
    """Whether the answer is the bare model's, as a policy in shadow mode asked."""

    @property
    def reads_states(self) -> bool:
        """Return whether the rule depends on the request's own state."""
        return self._dose.reads_states

    @property
    def compares(self) -> bool:
        """Return whether the record says how far steering moves the first token."""
        return self.shadow

    def decide(self, states: Tensor | None, rows: int) -> list[Decision]:
        """Return each row's decision by its score; see `Dose.decide`."""
        return [self._held(found) for found in self._dose.decide(states, rows)]

    def blocks(self, score: float | None) -> bool:
        """Return whether the rule blocks a request of that score."""
        return score is not None and self.rule.decide(score).blocked

    @property
    def _dose(self) -> ConditionedDose:
        return ConditionedDose(gate=self.gate, rules=[self.rule])

    def _held(self, found: Decision) -> Decision:
        # What has no score is broken rather than harmful: no mode lets it through.
        passes = self.shadow and math.isfinite(found.score or 0.0)
        return replace(
            found,
            alpha=max(found.alpha, self.least),
            blocked=found.blocked and not passes,
            bare=self.bare,
        )


def tier_dose(
    bundle: SteeringBundle,
    tier: Tier,
    *,
    steering: Steering | None = None,
    least: float = 0.0,
    mode: Mode = Mode.ENFORCE,
    bare: bool = False,
) -> TierDose:
    """Return a tier's dose on one model, as a policy's steering section holds it.

    Raises:
        ConfigurationError: The bundle has no such tier.
    """
    if tier.value not in bundle.card.tiers:
        raise ConfigurationError(
            f"the bundle has the tiers {', '.join(bundle.card.tiers) or 'none'}, not "
            f"{tier}: calibrate again"
        )
    held = steering or Steering()
    rule = bundle.card.tiers[tier.value].rule
    return TierDose(
        gate=bundle.gate,
        rule=replace(rule, block=held.block_score(rule.block)),
        least=max(least, held.alpha_for(0.0)),
        shadow=mode is Mode.SHADOW,
        bare=bare,
    )
