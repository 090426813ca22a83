"""The guard: it stands by every request with the policy and the ledger."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TypeAlias

import structlog

from sarguard.audit.records.fields import PolicyRef
from sarguard.audit.storage.recorder import RecordReceipt
from sarguard.errors import (
    AudioError,
    ConfigurationError,
    QueueFullError,
    SteeringError,
)
from sarguard.guard.accounts import GATE_RULE, policy_ref
from sarguard.guard.bounds import find_excess
from sarguard.guard.case import Case
from sarguard.guard.effective_policy import Terms
from sarguard.guard.recorder import Scribe
from sarguard.guard.tier_dose import TierDose
from sarguard.policy.fallback import Message
from sarguard.policy.messages import Reason
from sarguard.policy.model import Policy
from sarguard.policy.overrides import Override
from sarguard.policy.sections import Mode
from sarguard.policy.strictness import compare
from sarguard.serving.complaining import complain
from sarguard.serving.request import Asked, Blocked
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply, Turn

TranscriptCheck: TypeAlias = Callable[[Sequence[Turn]], bool]
"""A second signal: takes the conversation, its clips decoded; True blocks it."""

TRANSCRIPT_RULE = "transcript_check"

_log = structlog.get_logger(__name__)
_ANSWERS = (Outcome.ANSWERED, Outcome.REFUSED)
_CALLERS_FAULT = (AudioError, ConfigurationError, QueueFullError)


class Guard:
    """Decide on each request as the policy says at that moment, and record it.

    It is the `Attendant` of a client; several threads may use it at once.
    """

    def __init__(
        self,
        terms: Terms,
        bundle: SteeringBundle,
        *,
        hears: float,
        scribe: Scribe | None = None,
        transcript_check: TranscriptCheck | None = None,
    ) -> None:
        """Stand by with a policy.

        Args:
            terms: The policy, and the client's defaults.
            bundle: Where the tiers' rules stand.
            hears: Seconds of the longest clip that the model hears.
            scribe: Writes the ledger; None where none is kept.
            transcript_check: The second signal, if there is one.
        """
        self._terms = terms
        self._bundle = bundle
        self._hears = hears
        self._scribe = scribe
        self._check = transcript_check
        self._changing = threading.Lock()
        if terms.written:
            self._check_ledger(terms.in_force.policy)

    @property
    def policy(self) -> Policy:
        """Return the policy in force at this moment, overrides applied."""
        return self._terms.in_force.at()

    def receive(self, asked: Asked) -> Asked:
        """Settle what holds for a request, before its clips are read.

        Raises:
            PolicyFloorError: It asks for less than the policy holds.
            ConfigurationError: It asks for what does not exist.
        """
        return self._terms.settle(asked, self._bundle, hears=self._hears)[1]

    def admit(self, asked: Asked) -> Asked | Blocked:
        """Let a request pass, or block it for a bound or the second signal."""
        case = self._case(asked)
        excess = find_excess(case.policy, asked.turns)
        if excess is not None:
            case.rule = excess.rule
        elif self._check is not None and self._alarmed(case, asked.turns, self._check):
            case.rule = TRANSCRIPT_RULE
        if case.rule is None or case.policy.mode is Mode.SHADOW:
            return asked
        return Blocked(reason=str(excess or f"{TRANSCRIPT_RULE} said so"))

    def begin(self, asked: Asked) -> str | None:
        """Write that a request came in, before its first token.

        Raises:
            AuditError: It cannot be kept, and the policy wants it kept.
        """
        case = self._case(asked)
        if self._scribe is not None:
            self._scribe.begin(case, asked)
        return case.audit_id

    def end(self, asked: Asked, reply: Reply, error: Exception | None = None) -> Reply:
        """Write how a request ended, and return the reply that goes out.

        Raises:
            AuditError: It cannot be kept, and the policy wants it kept.
        """
        case = self._case(asked)
        told, message = self._tell(case, asked, reply, error)
        receipt = None
        if self._scribe is not None:
            try:
                receipt = self._scribe.end(
                    case, asked, told, error=error, message=message
                )
            except Exception as failure:
                # The record says what the caller gets: an error, not this answer.
                error = failure
                closed = _closed(reply, failure)
                told, message = self._tell(case, asked, closed, failure)
                receipt = self._scribe.end(
                    case, asked, told, error=failure, message=message
                )
        self._report(case, told, error, receipt)
        return self._open(case, replace(told, audit_id=case.audit_id))

    def change_policy(self, policy: Policy, *, actor: str | None = None) -> None:
        """Put another policy in force for the requests that come from now on.

        Raises:
            ConfigurationError: It wants a ledger, and there is none, or one that
                lets through more than it does.
            AuditError: The change cannot be recorded; the old policy holds.
        """
        self._check_ledger(policy)
        with self._changing:
            old = self._terms.in_force.policy
            changes = [
                str(change) for change in compare(old.to_dict(), policy.to_dict())
            ]
            if self._scribe is not None:
                receipt = self._scribe.log.event(
                    "policy_changed",
                    policy=policy_ref(policy, policy.steering.tier),
                    previous=policy_ref(old, old.steering.tier),
                    changes=tuple(changes),
                    body=policy.canonical(),
                    actor=actor,
                )
                with receipt.log_context():
                    _log.warning("policy changed", policy=policy.id, changes=changes)
                self._scribe.follow(policy)
            self._terms = self._terms.changed(policy)

    def override(self, override: Override) -> None:
        """Set a part of the policy aside for a while, for a stated reason.

        Raises:
            PolicyOverrideError: It has expired, or breaks the policy's rules.
            AuditError: It cannot be recorded; it does not hold.
        """
        with self._changing:
            terms = self._terms.overridden(override)
            if self._scribe is not None:
                for facts in override.record_fields(self.policy):
                    ref = PolicyRef(**facts.pop("policy"))
                    receipt = self._scribe.log.event(
                        "policy_overridden", policy=ref, **facts
                    )
                    with receipt.log_context():
                        _log.warning("override recorded", override=override.override_id)
            self._terms = terms

    def _case(self, asked: Asked) -> Case:
        # A request that was turned away at the door has none of its own.
        if isinstance(asked.case, Case):
            return asked.case
        return Case(policy=self.policy)

    def _check_ledger(self, policy: Policy) -> None:
        if policy.audit.required and self._scribe is None:
            raise ConfigurationError(
                f"policy {policy.id} answers nothing without a ledger: give audit=, "
                "or set audit.required to false in the policy"
            )
        if self._scribe is not None:
            self._scribe.check(policy)

    def _alarmed(
        self, case: Case, turns: Sequence[Turn], check: TranscriptCheck
    ) -> bool:
        try:
            return bool(check(turns))
        except Exception as failure:
            if case.policy.fault_outcome() is not Outcome.ERROR_OPEN:
                raise
            case.fault = failure
            return False

    def _tell(
        self, case: Case, asked: Asked, reply: Reply, error: Exception | None
    ) -> tuple[Reply, Message | None]:
        """Return a reply in the policy's words, and the message in it, if any."""
        if reply.outcome is Outcome.BLOCKED:
            case.rule = case.rule or GATE_RULE
        elif case.rule is None and isinstance(asked.dose, TierDose):
            case.rule = GATE_RULE if asked.dose.blocks(reply.guard.score) else None
        said = _reason_for(case, asked, reply, error)
        message = case.policy.message(said, asked.about.locale) if said else None
        blocked = reply.outcome is Outcome.BLOCKED
        guard = replace(
            reply.guard,
            tier=None if case.tier is None else case.tier.value,
            would_block=None if blocked else case.rule,
        )
        told = self._open(case, replace(reply, guard=guard))
        if message is not None:
            told = replace(told, text=message.text, ssml=message.ssml)
        return told, message

    def _open(self, case: Case, reply: Reply) -> Reply:
        """Mark an answer that is let out although something beside the model failed."""
        if reply.outcome not in _ANSWERS or not (case.fault or case.unrecorded):
            return reply
        what = "unrecorded" if case.fault is None else type(case.fault).__name__
        guard = replace(reply.guard, fault=f"let out by the policy: {what}")
        return replace(reply, outcome=Outcome.ERROR_OPEN, guard=guard)

    def _report(
        self,
        case: Case,
        reply: Reply,
        error: Exception | None,
        receipt: RecordReceipt | None,
    ) -> None:
        """Log what went wrong, and record where it was the steering."""
        failed = error or case.fault
        if failed is None:
            return
        facts = {"outcome": str(reply.outcome), "fault": type(failed).__name__}
        say = _log.warning
        if not isinstance(failed, _CALLERS_FAULT):
            # Where, without the message and the values: they may hold content.
            facts["where"] = "".join(traceback.format_tb(failed.__traceback__)[-3:])
            say = _log.error
        with nullcontext() if receipt is None else receipt.log_context():
            complain(say, "request failed", **facts)
        if isinstance(failed, SteeringError) and self._scribe is not None:
            self._scribe.failed_integrity(failed, case.audit_id)


def _closed(reply: Reply, failure: Exception) -> Reply:
    guard = replace(reply.guard, fault=f"{type(failure).__name__}: {failure}")
    return replace(
        reply, outcome=Outcome.ERROR_CLOSED, finish_reason="error", guard=guard
    )


def _reason_for(
    case: Case, asked: Asked, reply: Reply, error: Exception | None
) -> Reason | None:
    """Return why a message stands in place of an answer; None where none does."""
    if reply.outcome is Outcome.BLOCKED:
        return Reason.BLOCKED
    if reply.outcome is Outcome.ERROR_CLOSED:
        heard = not isinstance(error, AudioError)
        return Reason.ERROR if heard else Reason.UNSUPPORTED_AUDIO
    if reply.outcome is Outcome.TIMEOUT and reply.text == asked.fallback:
        return Reason.TIMEOUT
    replaces = case.policy.fallback.replace_refusals
    return Reason.REFUSED if replaces and reply.outcome is Outcome.REFUSED else None
