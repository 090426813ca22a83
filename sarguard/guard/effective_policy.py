"""What the owner of a client laid down, and what follows for one request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sarguard.errors import ConfigurationError, InvalidRequestError, PolicyFloorError
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override, PolicyInForce
from sarguard.policy.sections import Mode
from sarguard.policy.tiers import Tier
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import (
    Findings,
    LimitViolation,
    RaisedDose,
    ResolvedRequest,
)
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec, check_alpha

_A_YEAR_S = 365 * 86_400.0
_A_MILLION = 1_000_000

NO_POLICY = Policy.build(
    {
        "id": "unwritten",
        "description": "No policy was given: a request may name any tier from the "
        "client's own upwards, nothing is bounded but by the model.",
        "steering": {"floor": "permissive"},
        "timeouts": {"total_s": _A_YEAR_S, "queue_s": _A_YEAR_S},
        "audio": {"max_seconds": _A_YEAR_S, "max_clips": _A_MILLION},
        "text": {
            "max_chars": 1000 * _A_MILLION,
            "max_new_tokens": _A_MILLION,
        },
        "history": {"max_turns": _A_MILLION, "max_seconds": _A_YEAR_S},
        "audit": {"required": False},
    }
)
"""What holds where no policy is given; its id and digest stand in records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectivePolicy:
    """The policy in force, and the client's own defaults above it."""

    in_force: PolicyInForce
    given: bool
    """Whether the owner gave a policy."""
    tier: Tier | None = None
    """Tier of a request that names none, and the lowest that one may name; None leaves
    both to the policy, or to the default without one."""
    alpha: float = 0.0
    """Least coefficient of every answer, on top of the policy's."""
    dose: DoseSpec | None = None
    """Dose of a request that names no tier, in place of a tier's."""

    def resolve(
        self,
        request: GenerationRequest,
        bundle: SteeringBundle,
        *,
        max_audio_seconds: float,
    ) -> ResolvedRequest:
        """Return what holds for a request from now to its end.

        Args:
            request: The request.
            bundle: Where the tiers' rules stand.
            max_audio_seconds: The longest clip that reaches the model whole.

        Raises:
            InvalidRequestError: Its alpha is no coefficient, or there is no such tier.
            PolicyFloorError: It asks for less than the policy holds.
        """
        # Asked once: an override that expires meanwhile does not split a request.
        policy = self.in_force.at()
        least = self._least_alpha(policy, request.alpha)
        tier = self._tier(policy, request.tier)
        if tier is None:
            dose = self._own_dose().raised(alpha=least)
        else:
            dose = tier_dose(bundle, tier, policy, min_alpha=least)
            if self.dose is not None:
                # Whoever opened the client with a dose of their own holds it as well.
                dose = self.dose.raised(rule=dose.rule, alpha=least)
        steering = policy.steering
        # Whatever the dose: one that the client's owner made holds no fewer.
        greedy = max(dose.decision_tokens, steering.decision_tokens)
        times = policy.timeouts
        return ResolvedRequest(
            request=request,
            policy=policy,
            tier=tier,
            dose=replace(dose, decision_tokens=greedy),
            sampling=replace(
                request.sampling,
                temperature=steering.temperature_for(request.sampling.temperature),
            ),
            fallback=policy.message("error", request.context.locale).text,
            max_new_tokens=min(request.max_new_tokens, policy.text.max_new_tokens),
            timeout=min(request.timeout or times.total_s, times.total_s),
            first_token_timeout=times.first_token_s,
            queue_timeout=times.queue_s,
            limits=policy.audio.limits(max_audio_seconds),
        )

    def changed(self, policy: Policy) -> EffectivePolicy:
        """Return this under another policy, its overrides gone."""
        return replace(self, in_force=PolicyInForce(policy=policy), given=True)

    def overridden(self, override: Override) -> EffectivePolicy:
        """Return this with one more override in force."""
        return replace(self, in_force=self.in_force.overridden(override))

    def _own_dose(self) -> DoseSpec:
        if self.dose is None:
            raise ConfigurationError("no tier holds, and the client has no dose")
        return self.dose

    def _tier(self, policy: Policy, requested: str | None) -> Tier | None:
        """Return the tier of a request; None where the client's own dose decides."""
        if requested is None:
            if self.dose is not None:
                return None
            return max(self.tier or policy.steering.tier, policy.floor)
        with _request_at_fault():
            tier = Tier.named(requested)
        floor = self._floor(policy)
        if floor is not None and tier < floor:
            raise PolicyFloorError(
                f"the request asks for tier {tier}, the client was opened with "
                f"{floor}: ask for {floor} or more"
            )
        return policy.effective_tier(tier)

    def _floor(self, policy: Policy) -> Tier | None:
        """Return the lowest tier that a request may name, the policy's floor aside."""
        if self.tier is not None or self.given:
            return self.tier
        # A tier comes on top of the client's own dose, so any raises it.
        return policy.steering.tier if self.dose is None else None

    def _least_alpha(self, policy: Policy, requested: float | None) -> float:
        held = policy.steering.alpha_for(self.alpha)
        if requested is None:
            return held
        with _request_at_fault():
            # First: NaN is below nothing, and would be the least of all.
            check_alpha("alpha", requested)
        if requested < held:
            raise PolicyFloorError(
                f"the request asks for strength {requested:g}, policy {policy.id} "
                f"holds {held:g} at the least: ask for that or more"
                if held > self.alpha
                else f"the request asks for strength {requested:g}, the client was "
                f"opened with {held:g}: ask for that or more"
            )
        return requested


@contextmanager
def _request_at_fault() -> Iterator[None]:
    """Call a setting that makes no sense a bad request, where a request brought it."""
    try:
        yield
    except ConfigurationError as error:
        raise InvalidRequestError(str(error)) from error


def tier_dose(
    bundle: SteeringBundle, tier: Tier, policy: Policy, *, min_alpha: float
) -> DoseSpec:
    """Return a tier's dose on one model, under a policy.

    The policy's block score takes the place of the tier's where it is stricter.

    Raises:
        ConfigurationError: The bundle has no such tier.
    """
    if tier.value not in bundle.card.tiers:
        raise ConfigurationError(
            f"the bundle has the tiers {', '.join(bundle.card.tiers) or 'none'}, not "
            f"{tier}: calibrate again"
        )
    rule = bundle.card.tiers[tier.value].rule
    return DoseSpec(
        rule=replace(rule, block=policy.steering.block_score(rule.block)),
        min_alpha=min_alpha,
        shadow=policy.mode is Mode.SHADOW,
        bare=policy.answers_bare(),
    )


def with_raised_dose(
    resolved: ResolvedRequest, found: Findings, bundle: SteeringBundle
) -> Findings:
    """Return what was found, with the dose that follows from what checks ask for.

    It is nowhere lower than the request's own, whatever the bundle's tiers are.
    """
    wanted, tier, rule = found.min_tier, resolved.tier, None
    if found.error is not None or (wanted is None and not found.min_alpha):
        return found
    if wanted is not None and (tier is None or tier < wanted):
        tier = wanted
        try:
            held = tier_dose(bundle, wanted, resolved.policy, min_alpha=0.0)
        except ConfigurationError as error:
            return found.failed(error, resolved.policy)
        rule = held.rule
    dose = resolved.dose.raised(rule=rule, alpha=found.min_alpha)
    return replace(found, raised=RaisedDose(dose=dose, tier=tier))


def find_violation(resolved: ResolvedRequest) -> LimitViolation | None:
    """Return the first limit that a conversation exceeds, if there is one.

    Its history was trimmed to the policy's limits, where the policy trims.
    """
    if resolved.exceeded is not None:
        return resolved.exceeded
    policy, turns = resolved.policy, resolved.turns
    chars, clips = sum(len(t.text) for t in turns), len(turns[-1].audio) if turns else 0
    counts = (
        ("text.max_chars", chars, policy.text.max_chars),
        ("audio.max_clips", clips, policy.audio.max_clips),
    )
    for rule, found, limit in counts:
        if found > limit:
            return LimitViolation(rule=rule, found=found, limit=limit)
    return None
