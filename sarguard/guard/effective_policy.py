"""What the owner of a client laid down, and what follows for one request."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sarguard.errors import PolicyFloorError
from sarguard.guard.case import Case
from sarguard.guard.tier_dose import tier_dose
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override, PolicyInForce
from sarguard.policy.tiers import Tier
from sarguard.serving.request import Asked, Particulars
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import ConstantDose, Dose

_A_YEAR_S = 365 * 86_400.0
_A_MILLION = 1_000_000

UNWRITTEN = Policy.build(
    {
        "id": "unwritten",
        "description": "No policy was given: tiers are free to choose, nothing is "
        "bounded but by the model.",
        "steering": {"floor": "permissive"},
        "timeouts": {"total_s": _A_YEAR_S, "queue_s": _A_YEAR_S},
        "audio": {"max_seconds": _A_YEAR_S, "max_clips": _A_MILLION},
        "text": {
            "max_chars": 1000 * _A_MILLION,
            "max_turns": _A_MILLION,
            "max_new_tokens": _A_MILLION,
        },
        "audit": {"required": False},
    }
)
"""What holds where no policy is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Hold the policy in force, and the client's own defaults above it."""

    in_force: PolicyInForce
    written: bool
    """Whether the owner gave a policy; without one, a request may ask for less."""
    tier: Tier | None = None
    """Tier of a request that names none; None leaves it to the policy."""
    alpha: float = 0.0
    """Least strength of every answer, on top of the policy's."""
    dose: Dose | None = None
    """Dose of a request that names neither tier nor strength, in place of a tier's."""

    def settle(
        self, asked: Asked, bundle: SteeringBundle, *, hears: float
    ) -> tuple[Case, Asked]:
        """Return what holds for a request from now to its end.

        Args:
            asked: The request.
            bundle: Where the tiers' rules stand.
            hears: Seconds of the longest clip that the model hears.

        Raises:
            PolicyFloorError: It asks for less than the policy holds.
            PolicyFormatError: It names a tier that does not exist.
        """
        policy = self.in_force.at()
        constant = self._constant(asked.about)
        case = Case(policy=policy)
        if constant is None:
            case.tier = self._tier(policy, asked.about.tier)
            constant = tier_dose(
                bundle,
                case.tier,
                steering=policy.steering,
                least=self._least(policy, asked.about.alpha),
                mode=policy.mode,
                bare=policy.answers_bare(),
            )
        bounded = _bound(asked, policy, hears)
        return case, replace(bounded, dose=constant, case=case)

    def changed(self, policy: Policy) -> Terms:
        """Return these terms under another policy, its overrides gone."""
        return replace(self, in_force=PolicyInForce(policy=policy), written=True)

    def overridden(self, override: Override) -> Terms:
        """Return these terms with one more override in force."""
        return replace(self, in_force=self.in_force.overridden(override))

    def _constant(self, about: Particulars) -> Dose | None:
        """Return the dose of a request that no tier decides on."""
        if self.written or about.tier is not None:
            return None
        return self.dose if about.alpha is None else ConstantDose(alpha=about.alpha)

    def _tier(self, policy: Policy, requested: str | None) -> Tier:
        if requested is not None:
            return policy.effective_tier(requested)
        return max(self.tier or policy.steering.tier, policy.floor)

    def _least(self, policy: Policy, requested: float | None) -> float:
        held = max(self.alpha, policy.steering.alpha or 0.0)
        if requested is None:
            return held
        if requested < held and self.written:
            raise PolicyFloorError(
                f"the request asks for strength {requested:g}, policy {policy.id} "
                f"holds {held:g} at the least: ask for that or more"
            )
        return max(requested, held)


def _bound(asked: Asked, policy: Policy, hears: float) -> Asked:
    """Return a request within the policy's bounds on time and length."""
    times = policy.timeouts
    return replace(
        asked,
        fallback=policy.message("error", asked.about.locale).text,
        max_new_tokens=min(asked.max_new_tokens, policy.text.max_new_tokens),
        timeout=min(asked.timeout or times.total_s, times.total_s),
        first_token_timeout=times.first_token_s,
        queue_timeout=times.queue_s,
        limits=policy.audio.limits(hears),
    )
