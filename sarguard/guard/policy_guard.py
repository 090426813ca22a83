"""The guard of a client: policy, checks and ledger around every request."""

from __future__ import annotations

import threading
import traceback
from contextlib import nullcontext
from dataclasses import replace

import structlog

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
from sarguard.guard.checks import Checks
from sarguard.guard.effective_policy import EffectivePolicy, find_violation
from sarguard.guard.recorder import GATE_RULE, AuditRecorder, policy_ref
from sarguard.policy.fallback import Message
from sarguard.policy.messages import Reason
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.policy.sections import Mode
from sarguard.policy.strictness import compare
from sarguard.serving.logs import log_safely
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import Block, Findings, ResolvedRequest, Screening
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec
from sarguard.types import Outcome, Reply

_log = structlog.get_logger(__name__)
_ANSWERS = (Outcome.ANSWERED, Outcome.REFUSED)
_CALLERS_FAULT = (
    AudioError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
)


class PolicyGuard:
    """The `RequestGuard` of a client; any number of threads may use it at once.

    Nothing of a request is kept here: what is found of one goes back to its state.
    """

    def __init__(
        self,
        effective: EffectivePolicy,
        bundle: SteeringBundle,
        *,
        max_audio_seconds: float,
        recorder: AuditRecorder | None = None,
        checks: Checks | None = None,
    ) -> None:
        """Guard by a policy.

        Args:
            effective: The policy, and the client's defaults.
            bundle: Where the tiers' rules stand.
            max_audio_seconds: The longest clip that reaches the model whole.
            recorder: Writes the ledger; None where none is kept.
            checks: The checks beside the gate.

        Raises:
            ConfigurationError: The policy wants a ledger, and there is none.
        """
        self._effective = effective
        self._bundle = bundle
        self._max_audio_seconds = max_audio_seconds
        self._recorder = recorder
        self._checks = checks or Checks()
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
        """Let a request pass, or block it for a limit or a check."""
        violation = find_violation(resolved.policy, resolved.turns)
        if violation is None:
            return self._checks.check_input(resolved, Findings())
        blocks = resolved.policy.mode is not Mode.SHADOW
        return Findings(
            rule=violation.rule, block=Block(reason=str(violation)) if blocks else None
        )

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

    def change_policy(self, policy: Policy, *, actor: str | None = None) -> None:
        """Put another policy in force for the requests that come from now on.

        Raises:
            ConfigurationError: It wants a ledger, and there is none, or one that
                lets through more than it does.
            AuditError: The change cannot be recorded; the old policy holds.
        """
        self._check_ledger(policy)
        with self._changing:
            old = self._effective.in_force.policy
            changes = [
                str(change) for change in compare(old.to_dict(), policy.to_dict())
            ]
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
            AuditError: It cannot be recorded; it does not hold.
        """
        with self._changing:
            effective = self._effective.overridden(override)
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
        if policy.audit.required and self._recorder is None:
            raise ConfigurationError(
                f"policy {policy.id} answers nothing without a ledger: give audit=, "
                "or set audit.required to false in the policy"
            )
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
        reason = _reason_for(resolved, reply, error)
        locale = resolved.request.context.locale
        message = resolved.policy.message(reason, locale) if reason else None
        blocked = reply.outcome is Outcome.BLOCKED
        guard = replace(
            reply.guard,
            tier=None if resolved.tier is None else resolved.tier.value,
            would_block=None if blocked else found.rule,
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


def _reason_for(
    resolved: ResolvedRequest, reply: Reply, error: Exception | None
) -> Reason | None:
    """Return why a message stands in place of an answer; None where none does."""
    if reply.outcome is Outcome.BLOCKED:
        return Reason.BLOCKED
    if reply.outcome is Outcome.ERROR_CLOSED:
        heard = not isinstance(error, AudioError)
        return Reason.ERROR if heard else Reason.UNSUPPORTED_AUDIO
    if reply.outcome is Outcome.TIMEOUT and reply.text == resolved.fallback:
        return Reason.TIMEOUT
    replaces = resolved.policy.fallback.replace_refusals
    return Reason.REFUSED if replaces and reply.outcome is Outcome.REFUSED else None
