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
        "description": "No policy was given: tiers are free to choose, nothing is "
        "bounded but by the model.",
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
    """Whether the owner gave a policy; without one, a request may ask for less."""
    tier: Tier | None = None
    """Tier of a request that names none; None leaves it to the policy."""
    alpha: float = 0.0
    """Least coefficient of every answer, on top of the policy's."""
    dose: DoseSpec | None = None
    """Dose of a request that names neither tier nor alpha, in place of a tier's."""

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
        dose, tier = self._constant(request), None
        if dose is None:
            tier = self._tier(policy, request.tier)
            dose = tier_dose(
                bundle, tier, policy, min_alpha=self._min_alpha(policy, request.alpha)
            )
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

    def _constant(self, request: GenerationRequest) -> DoseSpec | None:
        """Return the dose of a request that no tier decides on."""
        if self.given or request.tier is not None:
            return None
        if request.alpha is None:
            return self.dose
        with _request_at_fault():
            return DoseSpec.constant(request.alpha)

    def _tier(self, policy: Policy, requested: str | None) -> Tier:
        if requested is not None:
            with _request_at_fault():
                Tier.named(requested)
            return policy.effective_tier(requested)
        return max(self.tier or policy.steering.tier, policy.floor)

    def _min_alpha(self, policy: Policy, requested: float | None) -> float:
        held = policy.steering.alpha_for(self.alpha)
        if requested is None:
            return held
        if requested < held and self.given:
            raise PolicyFloorError(
                f"the request asks for strength {requested:g}, policy {policy.id} "
                f"holds {held:g} at the least: ask for that or more"
            )
        with _request_at_fault():
            # NaN is below nothing, and would be the least of all.
            check_alpha("alpha", requested)
        return max(requested, held)


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
