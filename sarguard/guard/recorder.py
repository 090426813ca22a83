"""Writing requests to the ledger: two records each, and the events around them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.content import Privacy
from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.records.fields import (
    AppliedDose,
    CheckVerdict,
    Content,
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
from sarguard.audit.storage.recorder import RecordReceipt
from sarguard.errors import AuditWriteError, ConfigurationError, SteeringError
from sarguard.policy.fallback import Message, normalise_locale
from sarguard.policy.model import Policy
from sarguard.policy.strictness import Effect, effect_of
from sarguard.policy.tiers import Tier
from sarguard.serving.backend import BackendInfo
from sarguard.serving.request_guard import Findings, ResolvedRequest
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply, Turn

GATE_RULE = "steering.block_threshold"
"""The setting that blocks a request for its score."""
KEPT_VERDICT_RULE = "conversation.kept_verdict"
"""The rule of a request that ends as it did when its session asked it before."""
CHECK_RULES = "checks."
"""How the rules of checks begin; the check's name follows."""

_METHOD = "sarsteer"
_SPOKEN = (Outcome.ANSWERED, Outcome.REFUSED, Outcome.ERROR_OPEN)
# How a request may end whose answer, as far as it got, was steered throughout.
_PROVEN = (
    *_SPOKEN,
    *(Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.BLOCKED, Outcome.OVER_LIMIT),
)


@dataclass(slots=True, kw_only=True, eq=False)
class AuditRecorder:
    """A client's hand in a ledger."""

    log: AuditLog
    bundle: SteeringBundle
    model: ModelRef
    sample_rate: int
    privacy: Privacy
    """Its keys and its store; how much is kept is for each request's policy."""
    owned: bool = False
    """Whether the ledger is this client's own, so that its policy alone decides what
    happens where it cannot be written."""

    def check(self, policy: Policy) -> None:
        """Hold a ledger that was handed in to what a policy says of failures.

        Raises:
            ConfigurationError: The ledger lets through what the policy does not.
        """
        wanted, found = policy.audit.on_write_failure, self.log.on_failure
        if self.owned or wanted == found:
            return
        if effect_of("audit.on_write_failure", wanted, found) is Effect.WEAKER:
            raise ConfigurationError(
                f"the ledger was opened with on_failure={found!r}, policy {policy.id} "
                f"holds {wanted!r}: open it so, or hand in its path"
            )

    def follow(self, policy: Policy) -> None:
        """Let the client's own ledger do what a policy says of failures."""
        if self.owned:
            self.log.on_failure = policy.audit.on_write_failure

    def started(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        """Write that a request came in, unless that is written.

        What fails comes back as `error`, never as an exception: the record may be
        there already when describing content fails.
        """
        if found.audit_id is not None:
            return found
        context = resolved.request.context
        content, found = self._content(resolved, found, lambda: self._input(resolved))
        trace = context.trace
        try:
            done = self.log.started(
                entry=context.entry,
                policy=policy_ref(resolved.policy, resolved.tier),
                model=self.model,
                steering=self._steering(),
                tenant=context.tenant,
                request_id=context.request_id,
                trace_id=None if trace is None else trace.trace_id,
                span_id=None if trace is None else trace.span_id,
                locale=normalise_locale(context.locale) if context.locale else None,
                **content,
            )
        except Exception as error:
            return replace(found, error=found.error or error)
        return replace(
            found,
            audit_id=done.audit_id,
            unrecorded=found.unrecorded or done.state == "unrecorded",
        )

    def finished(
        self,
        resolved: ResolvedRequest,
        found: Findings,
        reply: Reply,
        *,
        error: Exception | None = None,
        message: Message | None = None,
    ) -> tuple[Findings, RecordReceipt | None]:
        """Write how a request ended, and before that, if it is not yet, that it came.

        Returns:
            What was found, its `error` set where nothing could be written, and the
            ledger's receipt.
        """
        found = self.started(resolved, replace(found, error=None))
        if found.error is not None:
            return found, None
        content, found = self._content(
            resolved, found, lambda: self._output(resolved, reply, found.said)
        )
        if found.error is not None:
            return found, None
        try:
            done = self.log.finished(
                found.audit_id or "",
                outcome=reply.outcome,
                reason=_reason(found, reply),
                rule=found.rule,
                scores=_scores(resolved, reply),
                checks=tuple(CheckVerdict(**asdict(c)) for c in found.checks),
                dose=_dose(resolved, reply),
                receipt=_receipt(self.bundle, reply, error),
                usage=_usage(reply),
                timings=_timings(reply),
                fallback=_fallback(message),
                fault=_fault(error or found.fault),
                temperature=reply.guard.temperature,
                greedy_tokens=reply.guard.greedy_tokens,
                reading=reply.guard.reading,
                left_out=reply.guard.left_out,
                trimmed=reply.guard.trimmed,
                **content,
            )
        except Exception as failure:
            return replace(found, error=failure), None
        unrecorded = found.unrecorded or done.state == "unrecorded"
        return replace(found, unrecorded=unrecorded), done

    def loaded(self, policy: Policy) -> None:
        """Write which policy, model and steering a client begins with."""
        self.log.event(
            "policy_loaded",
            policy=policy_ref(policy, policy.steering.tier),
            body=policy.canonical(),
        )
        self.log.event("model_loaded", model=self.model)
        self.log.event("steering_attached", model=self.model, steering=self._steering())

    def released(
        self, tenant: str | None, session: str, *, clips: int, size: int
    ) -> None:
        """Write that clips of a session were let go."""
        self.log.event(
            "audio_released",
            tenant=tenant,
            session=self.privacy.pseudonyms(tenant).session(session),
            clips=clips,
            bytes=size,
        )

    def failed_integrity(
        self, error: Exception, request: str | None = None
    ) -> RecordReceipt:
        """Write that steering could not be proven, or was found changed."""
        return self.log.event(
            "integrity_failed", what=error_code(error), request=request
        )

    def _steering(self) -> SteeringRef:
        return SteeringRef(
            bundle_digest=self.bundle.digest,
            method=_METHOD,
            layers=self.bundle.card.layers,
        )

    def _content(
        self,
        resolved: ResolvedRequest,
        found: Findings,
        describe: Callable[[], dict[str, Any]],
    ) -> tuple[dict[str, Any], Findings]:
        """Describe content; where that fails, the record goes without.

        The request fails with it, unless the policy lets answers out.
        """
        if not found.keeps_content:
            return {}, found
        try:
            return describe(), found
        except Exception as failure:
            found = replace(found, keeps_content=False)
            return {}, found.failed(failure, resolved.policy)

    def _input(self, resolved: ResolvedRequest) -> dict[str, Any]:
        turns, context = resolved.turns, resolved.request.context
        newest = turns[-1] if turns else Turn(role="user")
        names, session = self._names(resolved)
        caller = context.caller
        return {
            "session": session,
            "actor": None if caller is None else names.actor(caller),
            "mark_key": names.key_id,
            "input": self.privacy.describe_input(
                clips=[
                    (clip, self.sample_rate) for turn in turns for clip in turn.audio
                ],
                text=newest.text,
                turns=len(turns),
                tenant=context.tenant,
            ),
            "content": self._kept(resolved, "input", newest, session),
        }

    def _output(
        self, resolved: ResolvedRequest, reply: Reply, before: str
    ) -> dict[str, Any]:
        _, session = self._names(resolved)
        tenant = resolved.request.context.tenant
        said = reply.text if reply.outcome in _SPOKEN else before
        return {
            "output": self.privacy.describe_output(
                reply.text,
                tenant=tenant,
                finish_reason=reply.finish_reason,
                refusal=reply.outcome is Outcome.REFUSED,
            ),
            "said_before": self.privacy.describe_output(before, tenant=tenant)
            if before
            else None,
            "content": self._kept(
                resolved, "output", Turn(role="assistant", text=said), session
            ),
        }

    def _names(self, resolved: ResolvedRequest) -> tuple[Pseudonyms, str | None]:
        """Return what makes the tenant's pseudonyms, and that of the session."""
        names = self.privacy.pseudonyms(resolved.request.context.tenant)
        session = resolved.request.context.session
        return names, None if session is None else names.session(session)

    def _kept(
        self, resolved: ResolvedRequest, side: str, turn: Turn, session: str | None
    ) -> tuple[Content, ...]:
        """Keep a turn's content as the request's policy allows."""
        tenant = resolved.request.context.tenant
        privacy = Privacy(
            self.privacy.sealer,
            content=resolved.policy.audit.content,
            redactor=self.privacy.redactor,
        )
        kept = privacy.keep_text(
            f"{side}_text", turn.text, tenant=tenant, session=session
        )
        for clip in turn.audio:
            kept += privacy.keep_audio(
                f"{side}_audio",
                (clip, self.sample_rate),
                tenant=tenant,
                session=session,
            )
        return kept


def model_ref(info: BackendInfo, bundle: SteeringBundle) -> ModelRef:
    """Name the model; the bundle was made for these weights, and held to them."""
    return ModelRef(
        id=info.model_name,
        revision=info.revision,
        weights_digest=bundle.card.weights_digest,
        dtype=info.dtype,
        device=info.device,
    )


def policy_ref(policy: Policy, tier: Tier | None) -> PolicyRef:
    """Name the policy that held, and the request's tier, if it had one."""
    facts = policy.record_fields()
    facts.pop("tier")
    return PolicyRef(**facts, tier=None if tier is None else tier.value)


def _scores(resolved: ResolvedRequest, reply: Reply) -> tuple[Score, ...]:
    """Return what the gate made of a request, and the score it was held to."""
    score = reply.guard.score
    # A score that is not finite cannot stand in a record: the fault says so.
    if score is None or not math.isfinite(score) or resolved.tier is None:
        return ()
    return (Score(name="gate", value=score, threshold=resolved.dose.rule.block),)


def _dose(resolved: ResolvedRequest, reply: Reply) -> AppliedDose | None:
    """Say how strongly an answer was steered; None where none was begun."""
    guard = reply.guard
    if guard.mode != "bare" and not guard.steered_positions and guard.score is None:
        return None
    tier = None if resolved.tier is None else resolved.tier.value
    return AppliedDose(
        mode=reply.guard.mode,
        alpha=reply.guard.alpha,
        tier=tier,
        divergence=reply.guard.divergence,
    )


def _receipt(
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


def _usage(reply: Reply) -> TokenCounts:
    """Count a request's tokens."""
    found = reply.usage
    return TokenCounts(
        prompt_tokens=found.prompt_tokens,
        audio_tokens=found.audio_tokens,
        output_tokens=found.output_tokens,
    )


def _timings(reply: Reply) -> Durations:
    """Give a request's durations; what was not reached has none."""
    found = reply.timings
    return Durations(
        queue_s=found.queue_s,
        prefill_s=found.prefill_s or None,
        first_token_s=found.first_token_s or None,
        total_s=found.total_s,
    )


def _fallback(message: Message | None) -> FallbackRef | None:
    """Name the message that stands in place of an answer."""
    if message is None:
        return None
    return FallbackRef(
        reason=message.reason.value,
        locale=message.locale,
        message_id=message.message_id,
    )


def _fault(error: Exception | None) -> FaultRef | None:
    """Name what failed, without its message, which may hold content."""
    if error is None:
        return None
    cause = error.cause if isinstance(error, AuditWriteError) else None
    return FaultRef(type=type(error).__name__, code=cause or error_code(error))


def _reason(found: Findings, reply: Reply) -> str | None:
    """Say in a code why a request ended as it did."""
    held_back = reply.outcome in (Outcome.BLOCKED, Outcome.REFUSED)
    if held_back and found.rule == KEPT_VERDICT_RULE and found.block is not None:
        return "kept_verdict"
    if reply.outcome is Outcome.BLOCKED:
        return "check" if (found.rule or "").startswith(CHECK_RULES) else "score"
    if reply.outcome is Outcome.OVER_LIMIT:
        return "limit"
    if reply.outcome in (Outcome.ERROR_CLOSED, Outcome.ERROR_OPEN):
        return "fault"
    if reply.guard.mode == "bare":
        return "shadow_bare"
    if reply.guard.cut_short:
        return "cut_short"
    return None if found.rule is None else "would_block"


def error_code(error: Exception) -> str:
    """Return an error's class as a code: `steering_not_applied`."""
    name = type(error).__name__.removesuffix("Error").lstrip("_") or "error"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower()[:64]
