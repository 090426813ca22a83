"""The guard of a client: policy, checks and ledger around every request."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

from sarguard.audit.records.fields import PolicyRef
from sarguard.audit.storage.recorder import RecordReceipt
from sarguard.errors import (
    AudioError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
    SteeringError,
)
from sarguard.guard.check_runner import Checks
from sarguard.guard.effective_policy import (
    EffectivePolicy,
    find_violation,
    with_raised_dose,
)
from sarguard.guard.erasures import Erasures
from sarguard.guard.kept_verdicts import KeptOutcome, KeptVerdicts
from sarguard.guard.recorder import (
    CHECK_RULES,
    GATE_RULE,
    KEPT_VERDICT_RULE,
    AuditRecorder,
    policy_ref,
)
from sarguard.logs import get_logger
from sarguard.policy.fallback import Message
from sarguard.policy.messages import Reason
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.policy.sections import Mode
from sarguard.policy.strictness import check_holds, compare
from sarguard.serving.logs import log_safely
from sarguard.serving.output_processor import declined
from sarguard.serving.request import GenerationRequest, SessionName
from sarguard.serving.request_guard import Block, Findings, ResolvedRequest, Screening
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec
from sarguard.types import Outcome, Reply

_log = get_logger(__name__)


class SessionMemories(Protocol):
    """What a backend keeps of sessions between their requests."""

    def sessions(self) -> Iterable[SessionName]:
        """Return the sessions of whose requests something is kept."""

    def forget(self, tenant: str | None, session: str) -> None:
        """Drop what is kept of a session."""


_ANSWERS = (Outcome.ANSWERED, Outcome.REFUSED)
# What was said up to one of these may be a refusal already.
_CUT_SHORT = (Outcome.CANCELLED, Outcome.TIMEOUT)
_CALLERS_FAULT = (
    AudioError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
)


def check_has_ledger(policy: Policy, kept: bool) -> None:
    """Raise ConfigurationError where a policy wants a ledger and none is kept."""
    if policy.audit.required and not kept:
        raise ConfigurationError(
            f"policy {policy.id} answers nothing without a ledger: name one with "
            "audit= in Python or --audit on the command line, or set audit.required "
            "to false in the policy"
        )


class PolicyGuard:
    """The `RequestGuard` of a client; any number of threads may use it at once.

    Of a request nothing is kept here but its verdict, where its session was refused
    or blocked; what is found of one goes back to its state.
    """

    def __init__(
        self,
        effective: EffectivePolicy,
        bundle: SteeringBundle,
        *,
        max_audio_seconds: float,
        recorder: AuditRecorder | None = None,
        checks: Checks | None = None,
        memory: SessionMemories | None = None,
    ) -> None:
        """Guard by a policy.

        Args:
            effective: The policy, and the client's defaults.
            bundle: Where the tiers' rules stand.
            max_audio_seconds: The longest clip that reaches the model whole.
            recorder: Writes the ledger; None where none is kept.
            checks: The checks beside the gate.
            memory: What the backend keeps of sessions; what the ledger says was erased
                is dropped from it.

        Raises:
            ConfigurationError: The policy wants a ledger, and there is none.
        """
        self._effective = effective
        self._bundle = bundle
        self._max_audio_seconds = max_audio_seconds
        self._recorder = recorder
        self._checks = checks or Checks()
        self._verdicts = KeptVerdicts()
        self._memory = memory
        self._erasures = None
        if recorder is not None:
            self._erasures = Erasures(
                recorder, held=self._held_sessions, forget=self._drop
            )
        # Guards the change of `_effective`; readers take the reference as it is.
        self._changing = threading.Lock()
        if effective.given:
            self._check_ledger(effective.in_force.policy)

    @property
    def policy(self) -> Policy:
        """Return the policy in force at this moment, overrides applied."""
        return self._effective.in_force.at()

    @property
    def recorder(self) -> AuditRecorder | None:
        """Return what writes the ledger; None where none is kept."""
        return self._recorder

    @property
    def screens(self) -> bool:
        """Return whether there are output checks."""
        return bool(self._checks.output)

    def resolve(self, request: GenerationRequest) -> ResolvedRequest:
        """Return what holds for a request, before its clips are read.

        Raises:
            PolicyFloorError: It asks for less than the policy holds.
            ConfigurationError: It asks for what does not exist.
        """
        return self._effective.resolve(
            request, self._bundle, max_audio_seconds=self._max_audio_seconds
        )

    def before_model(self, resolved: ResolvedRequest) -> Findings:
        """Let a request pass, raise its dose, or hold it back.

        It is held back for a limit, its session's verdict, or a check.
        """
        # Before anything of the session is used.
        heeded = None if self._erasures is None else self._erasures.heed()
        return replace(self._check(resolved), heeded=heeded)

    def _check(self, resolved: ResolvedRequest) -> Findings:
        shadow = resolved.policy.mode is Mode.SHADOW
        violation = find_violation(resolved)
        if violation is not None:
            block = Block(reason=str(violation), outcome=Outcome.OVER_LIMIT)
            return Findings(rule=violation.rule, block=None if shadow else block)
        kept = self._verdicts.find(resolved.request.context, resolved.turns)
        if kept is not None and not shadow:
            return Findings(rule=KEPT_VERDICT_RULE, block=_kept_block(resolved, kept))
        found = self._checks.check_input(resolved, Findings())
        found = with_raised_dose(resolved, found, self._bundle)
        # In shadow mode what would hold the request back by itself is named first.
        return replace(found, rule=found.rule or (KEPT_VERDICT_RULE if kept else None))

    def record_start(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        """Write that a request came in, before its first token."""
        if self._recorder is None:
            return found
        return self._recorder.started(resolved, found)

    def screen(
        self, resolved: ResolvedRequest, found: Findings, text: str, *, final: bool
    ) -> Screening:
        """Return what the output checks let out of an answer so far."""
        return self._checks.check_output(resolved, found, text, final=final)

    def after_model(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest | None,
        found: Findings,
        reply: Reply,
        error: Exception | None = None,
    ) -> Reply:
        """Write how a request ended, and return the reply that goes out.

        Raises:
            AuditError: It cannot be kept, and the policy wants it kept.
        """
        if resolved is None:
            resolved = self._turned_away(request, reply)
        found = self._with_rule(resolved, found, reply)
        verdict = _verdict(resolved, found, reply)
        # Before the reply goes out: whoever has it may ask again.
        self._keep_verdict(request, resolved, found, verdict)
        told, message = self._word(resolved, found, reply, error)
        receipt = None
        if self._recorder is not None:
            done, receipt = self._recorder.finished(
                resolved, found, told, error=error, message=message
            )
            if done.error is not None:
                # The record says what the caller gets: an error, not this answer.
                error, closed = done.error, _closed(reply, done.error)
                told, message = self._word(resolved, done, closed, error)
                done, receipt = self._recorder.finished(
                    resolved, done, told, error=error, message=message
                )
                if done.error is not None:
                    raise done.error
            found = done
        self._report(found, told, error, receipt)
        return _marked_open(found, replace(told, audit_id=found.audit_id))

    def forget(self, tenant: str | None, session: str) -> None:
        """Forget the verdicts that were kept for a session."""
        self._verdicts.forget(tenant, session)

    def _keep_verdict(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest,
        found: Findings,
        verdict: KeptOutcome | None,
    ) -> None:
        def keep() -> None:
            if verdict is not None:
                self._verdicts.keep(request.context, resolved.turns, verdict)

        name = request.context.session_name
        if name is None or self._erasures is None or found.heeded is None:
            # Without `heeded` it ended before anything of its session was used.
            keep()
        else:
            self._erasures.settle(name, since=found.heeded, keep=keep)

    def _held_sessions(self) -> list[SessionName]:
        kept = () if self._memory is None else self._memory.sessions()
        return list({*self._verdicts.sessions(), *kept})

    def _drop(self, tenant: str | None, session: str) -> None:
        self.forget(tenant, session)
        if self._memory is not None:
            self._memory.forget(tenant, session)

    def change_policy(self, policy: Policy, *, actor: str | None = None) -> None:
        """Put a stricter policy in force for the requests that come from now on.

        Overrides of the one before it end.

        Raises:
            PolicyFloorError: It is weaker somewhere than what is in force.
            ConfigurationError: It wants a ledger or a check, and there is none, it does
                not name a service that a check asks, or the ledger lets through more
                than it does.
            AuditError: The change cannot be recorded; the old policy holds.
        """
        self._check_ledger(policy)
        self._checks.hold_to(policy)
        with self._changing:
            old = self._effective.in_force.policy
            found = compare(old.to_dict(), policy.to_dict())
            check_holds(found)
            # An override may be stricter than the policy that it stands on.
            check_holds(compare(self.policy.to_dict(), policy.to_dict()))
            changes = [str(change) for change in found]
            if self._recorder is not None:
                receipt = self._recorder.log.event(
                    "policy_changed",
                    policy=policy_ref(policy, policy.steering.tier),
                    previous=policy_ref(old, old.steering.tier),
                    changes=tuple(changes),
                    body=policy.canonical(),
                    actor=actor,
                )
                with receipt.log_context():
                    _log.warning("policy changed", policy=policy.id, changes=changes)
                self._recorder.follow(policy)
            self._effective = self._effective.changed(policy)

    def override(self, override: Override) -> None:
        """Set a part of the policy aside for a while, for a stated reason.

        Raises:
            PolicyOverrideError: It has expired, or breaks the policy's rules.
            ConfigurationError: The client's checks are not what it wants.
            AuditError: It cannot be recorded; it does not hold.
        """
        with self._changing:
            effective = self._effective.overridden(override)
            self._checks.hold_to(effective.in_force.at())
            if self._recorder is not None:
                for facts in override.record_fields(self.policy):
                    ref = PolicyRef(**facts.pop("policy"))
                    receipt = self._recorder.log.event(
                        "policy_overridden", policy=ref, **facts
                    )
                    with receipt.log_context():
                        _log.warning("override recorded", override=override.override_id)
            self._effective = effective

    def _turned_away(self, request: GenerationRequest, reply: Reply) -> ResolvedRequest:
        """Return what the record says of a request that no policy was settled for."""
        return ResolvedRequest(
            request=request,
            policy=self.policy,
            tier=None,
            dose=DoseSpec.constant(self._bundle.card.alpha),
            fallback=reply.text,
            max_new_tokens=request.max_new_tokens,
        )

    def _check_ledger(self, policy: Policy) -> None:
        check_has_ledger(policy, self._recorder is not None)
        if self._recorder is not None:
            self._recorder.check(policy)

    def _with_rule(
        self, resolved: ResolvedRequest, found: Findings, reply: Reply
    ) -> Findings:
        """Return what was found, with the gate's rule where the gate decided."""
        if found.rule is not None:
            return found
        blocked = reply.outcome is Outcome.BLOCKED or (
            # A constant dose has no rule that could have blocked.
            resolved.tier is not None and resolved.dose.would_block(reply.guard.score)
        )
        return replace(found, rule=GATE_RULE) if blocked else found

    def _word(
        self,
        resolved: ResolvedRequest,
        found: Findings,
        reply: Reply,
        error: Exception | None,
    ) -> tuple[Reply, Message | None]:
        """Return a reply in the policy's words, and the message in it, if any."""
        reason = _reason_for(resolved, found, reply, error)
        locale = resolved.request.context.locale
        message = resolved.policy.message(reason, locale) if reason else None
        held_back = reply.outcome is Outcome.BLOCKED or found.block is not None
        guard = replace(
            reply.guard,
            tier=None if resolved.tier is None else resolved.tier.value,
            would_block=None if held_back else found.rule,
        )
        told = _marked_open(found, replace(reply, guard=guard))
        if message is not None:
            told = replace(told, text=message.text, ssml=message.ssml)
        return told, message

    def _report(
        self,
        found: Findings,
        reply: Reply,
        error: Exception | None,
        receipt: RecordReceipt | None,
    ) -> None:
        """Log what went wrong, and record where it was the steering."""
        failed = error or found.fault
        if failed is None:
            return
        facts = {"outcome": str(reply.outcome), "fault": type(failed).__name__}
        log = _log.warning
        if not isinstance(failed, _CALLERS_FAULT):
            # Where, without the message and the values: they may hold content.
            facts["where"] = "".join(traceback.format_tb(failed.__traceback__)[-3:])
            log = _log.error
        with nullcontext() if receipt is None else receipt.log_context():
            log_safely(log, "request failed", **facts)
        if isinstance(failed, SteeringError) and self._recorder is not None:
            self._recorder.failed_integrity(failed, found.audit_id)


def _marked_open(found: Findings, reply: Reply) -> Reply:
    """Mark an answer that is let out although something beside the model failed."""
    if reply.outcome not in _ANSWERS or not (found.fault or found.unrecorded):
        return reply
    what = "unrecorded" if found.fault is None else type(found.fault).__name__
    guard = replace(reply.guard, fault=f"let out by the policy: {what}")
    return replace(reply, outcome=Outcome.ERROR_OPEN, guard=guard)


def _closed(reply: Reply, failure: Exception) -> Reply:
    guard = replace(reply.guard, fault=f"{type(failure).__name__}: {failure}")
    return replace(
        reply, outcome=Outcome.ERROR_CLOSED, finish_reason="error", guard=guard
    )


def _kept_block(resolved: ResolvedRequest, outcome: KeptOutcome) -> Block:
    """Return what ends a request as it ended before."""
    reason = Reason.REFUSED if outcome is Outcome.REFUSED else Reason.BLOCKED
    message = resolved.policy.message(reason, resolved.request.context.locale)
    return Block(
        reason=f"{KEPT_VERDICT_RULE}: the same request was {outcome.value} in this "
        "session before",
        message=message.text,
        outcome=outcome,
    )


def _verdict(
    resolved: ResolvedRequest, found: Findings, reply: Reply
) -> KeptOutcome | None:
    """Return how a request ends if its session asks it again; None asks the model."""
    if reply.outcome is Outcome.REFUSED:
        return Outcome.REFUSED
    if reply.outcome is Outcome.BLOCKED:
        rule, score = found.rule or "", reply.guard.score
        # A score that is not finite comes of a broken state.
        judged = rule == KEPT_VERDICT_RULE or rule.startswith(CHECK_RULES)
        scored = rule == GATE_RULE and score is not None and math.isfinite(score)
        return Outcome.BLOCKED if judged or scored else None
    if reply.outcome in _CUT_SHORT and declined(resolved.request, reply.text):
        return Outcome.REFUSED
    return None


def _reason_for(
    resolved: ResolvedRequest,
    found: Findings,
    reply: Reply,
    error: Exception | None,
) -> Reason | None:
    """Return why a message stands in place of an answer; None where none does."""
    if reply.outcome is Outcome.BLOCKED:
        return Reason.BLOCKED
    if reply.outcome is Outcome.OVER_LIMIT:
        return Reason.OVER_LIMIT
    if reply.outcome is Outcome.ERROR_CLOSED:
        heard = not isinstance(error, AudioError)
        return Reason.ERROR if heard else Reason.UNSUPPORTED_AUDIO
    if reply.outcome is Outcome.REFUSED and found.rule == KEPT_VERDICT_RULE:
        # The model was not asked, so there are no words of its own.
        return Reason.REFUSED
    if reply.outcome is Outcome.TIMEOUT and reply.text == resolved.fallback:
        return Reason.TIMEOUT
    replaces = resolved.policy.fallback.replace_refusals
    return Reason.REFUSED if replaces and reply.outcome is Outcome.REFUSED else None
