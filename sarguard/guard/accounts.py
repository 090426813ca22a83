"""Putting a reply into the words of the ledger."""

from __future__ import annotations

import re

from sarguard.audit.records.fields import (
    AppliedDose,
    Durations,
    FallbackRef,
    FaultRef,
    ModelRef,
    PolicyRef,
    Score,
    SteeringReceipt,
    SteeringRef,
    TokenCounts,
)
from sarguard.errors import AuditWriteError, SteeringError
from sarguard.guard.case import Case
from sarguard.guard.tier_dose import TierDose
from sarguard.models.loading import LoadedModel
from sarguard.policy.fallback import Message
from sarguard.policy.model import Policy
from sarguard.policy.tiers import Tier
from sarguard.serving.request import Asked
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply

GATE_RULE = "steering.block_threshold"
"""The setting that blocks a request for its score."""

_REASONS = {GATE_RULE: "score", "transcript_check": "transcript_check"}
_METHOD = "sarsteer"
_PROVEN = (
    Outcome.ANSWERED,
    Outcome.REFUSED,
    Outcome.ERROR_OPEN,
    Outcome.CANCELLED,
    Outcome.TIMEOUT,
)


def model_ref(loaded: LoadedModel, bundle: SteeringBundle) -> ModelRef:
    """Name the model; the bundle was made for these weights, and held to them."""
    return ModelRef(
        id=loaded.name,
        revision=loaded.revision,
        weights_digest=bundle.card.weights_digest,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
    )


def steering_ref(bundle: SteeringBundle) -> SteeringRef:
    """Name the steering."""
    return SteeringRef(
        bundle_digest=bundle.digest, method=_METHOD, layers=bundle.card.layers
    )


def policy_ref(policy: Policy, tier: Tier | None) -> PolicyRef:
    """Name the policy that held, and the request's tier, if it had one."""
    facts = policy.record_fields()
    facts.pop("tier")
    return PolicyRef(**facts, tier=None if tier is None else tier.value)


def scores(asked: Asked, reply: Reply) -> tuple[Score, ...]:
    """Return what the gate made of a request, and the score it was held to."""
    score, dose = reply.guard.score, asked.dose
    # A score that is no number cannot stand in a record: the fault says so.
    if score is None or score != score or not isinstance(dose, TierDose):
        return ()
    return (Score(name="gate", value=score, threshold=dose.rule.block),)


def dose(case: Case, reply: Reply) -> AppliedDose | None:
    """Say how strongly an answer was steered; None where none was begun."""
    guard = reply.guard
    if guard.mode != "bare" and not guard.steered_positions and guard.score is None:
        return None
    tier = None if case.tier is None else case.tier.value
    return AppliedDose(
        mode=reply.guard.mode,
        alpha=reply.guard.alpha,
        tier=tier,
        divergence=reply.guard.divergence,
    )


def receipt(
    bundle: SteeringBundle, reply: Reply, error: Exception | None
) -> SteeringReceipt | None:
    """Say what is proven of an answer's steering; None where nothing was decoded."""
    unsteered = isinstance(error, SteeringError)
    if not reply.usage.output_tokens and not unsteered:
        return None
    steered, expected = reply.guard.steered_positions, reply.usage.output_tokens
    return SteeringReceipt(
        steered_positions=steered,
        expected_positions=expected,
        layers=reply.guard.layers,
        bundle_digest=bundle.card.vectors_digest,
        attested=steered == expected and error is None and reply.outcome in _PROVEN,
        fault=error_code(error) if unsteered and error is not None else None,
    )


def usage(reply: Reply) -> TokenCounts:
    """Count a request's tokens."""
    found = reply.usage
    return TokenCounts(
        prompt_tokens=found.prompt_tokens,
        audio_tokens=found.audio_tokens,
        output_tokens=found.output_tokens,
    )


def timings(reply: Reply) -> Durations:
    """Give a request's durations; what was not reached has none."""
    found = reply.timings
    return Durations(
        queue_s=found.queue_s,
        prefill_s=found.prefill_s or None,
        first_token_s=found.first_token_s or None,
        total_s=found.total_s,
    )


def fallback(message: Message | None) -> FallbackRef | None:
    """Name the message that stands in place of an answer."""
    if message is None:
        return None
    return FallbackRef(
        reason=message.reason.value,
        locale=message.locale,
        message_id=message.message_id,
    )


def fault(error: Exception | None) -> FaultRef | None:
    """Name what failed, without its message, which may hold content."""
    if error is None:
        return None
    cause = error.cause if isinstance(error, AuditWriteError) else None
    return FaultRef(type=type(error).__name__, code=cause or error_code(error))


def reason(case: Case, reply: Reply) -> str | None:
    """Say in a code why a request ended as it did."""
    if reply.outcome is Outcome.BLOCKED:
        return _REASONS.get(case.rule or "", "limit")
    if reply.outcome in (Outcome.ERROR_CLOSED, Outcome.ERROR_OPEN):
        return "fault"
    if reply.guard.mode == "bare":
        return "shadow_bare"
    return None if case.rule is None else "would_block"


def error_code(error: Exception) -> str:
    """Return an error's class as a code: `steering_not_applied`."""
    name = type(error).__name__.removesuffix("Error").lstrip("_") or "error"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower()[:64]
