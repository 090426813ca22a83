"""Writing down what happens: two records a request, and the events around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.content import Privacy
from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.records.fields import Content, ModelRef, SteeringRef
from sarguard.audit.storage.recorder import RecordReceipt
from sarguard.errors import ConfigurationError
from sarguard.guard import accounts
from sarguard.guard.case import Case
from sarguard.policy.fallback import Message, normalise_locale
from sarguard.policy.model import Policy
from sarguard.policy.strictness import Effect, effect_of
from sarguard.serving.request import Asked
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Reply, Turn

_SPOKEN = (Outcome.ANSWERED, Outcome.REFUSED, Outcome.ERROR_OPEN)


@dataclass(slots=True, kw_only=True, eq=False)
class Scribe:
    """Write a client's records to a ledger."""

    log: AuditLog
    bundle: SteeringBundle
    model: ModelRef
    steering: SteeringRef
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

    def begin(self, case: Case, asked: Asked) -> None:
        """Write that a request came in, unless that is written.

        Raises:
            AuditError: It cannot be kept, and the ledger does not go on without.
        """
        if case.begun:
            return
        about = asked.about
        done = self.log.started(
            entry=about.entry,
            policy=accounts.policy_ref(case.policy, case.tier),
            model=self.model,
            steering=self.steering,
            tenant=about.tenant,
            request_id=about.request_id,
            locale=normalise_locale(about.locale) if about.locale else None,
            **self._content(case, lambda: self._input(case, asked)),
        )
        case.audit_id, case.begun = done.audit_id, True
        case.unrecorded = done.state == "unrecorded"

    def end(
        self,
        case: Case,
        asked: Asked,
        reply: Reply,
        *,
        error: Exception | None = None,
        message: Message | None = None,
    ) -> RecordReceipt:
        """Write how a request ended, after that it came in.

        Raises:
            AuditError: It cannot be kept, and the ledger does not go on without.
        """
        self.begin(case, asked)
        done = self.log.finished(
            case.audit_id or "",
            outcome=reply.outcome,
            reason=accounts.reason(case, reply),
            rule=case.rule,
            scores=accounts.scores(asked, reply),
            dose=accounts.dose(case, reply),
            receipt=accounts.receipt(self.bundle, reply, error),
            usage=accounts.usage(reply),
            timings=accounts.timings(reply),
            fallback=accounts.fallback(message),
            fault=accounts.fault(error or case.fault),
            **self._content(case, lambda: self._output(case, asked, reply)),
        )
        case.unrecorded = case.unrecorded or done.state == "unrecorded"
        return done

    def loaded(self, policy: Policy) -> None:
        """Write which policy, model and steering a client begins with."""
        self.log.event(
            "policy_loaded",
            policy=accounts.policy_ref(policy, policy.steering.tier),
            body=policy.canonical(),
        )
        self.log.event("model_loaded", model=self.model)
        self.log.event("steering_attached", model=self.model, steering=self.steering)

    def failed_integrity(
        self, error: Exception, request: str | None = None
    ) -> RecordReceipt:
        """Write that steering could not be proven, or was found changed."""
        return self.log.event(
            "integrity_failed", what=accounts.error_code(error), request=request
        )

    def _content(
        self, case: Case, describe: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Describe content; where that fails, the record goes without.

        The request fails with it, unless the policy lets answers out.
        """
        if not case.keeps:
            return {}
        try:
            return describe()
        except Exception as failure:
            case.keeps = False
            if case.policy.fault_outcome() is not Outcome.ERROR_OPEN:
                raise
            case.fault = failure
            return {}

    def _input(self, case: Case, asked: Asked) -> dict[str, Any]:
        last = asked.turns[-1] if asked.turns else Turn(role="user")
        tenant, rate = asked.about.tenant, self.sample_rate
        marks, session = self._names(asked)
        return {
            "session": session,
            "mark_key": marks.key_id,
            "input": self.privacy.describe_input(
                clips=[(clip, rate) for turn in asked.turns for clip in turn.audio],
                text=last.text,
                turns=len(asked.turns),
                tenant=tenant,
            ),
            "content": self._kept(case, "input", last, tenant, session),
        }

    def _output(self, case: Case, asked: Asked, reply: Reply) -> dict[str, Any]:
        tenant = asked.about.tenant
        _, session = self._names(asked)
        said = reply.text if reply.outcome in _SPOKEN else ""
        return {
            "output": self.privacy.describe_output(
                reply.text,
                tenant=tenant,
                finish_reason=reply.finish_reason,
                refusal=reply.outcome is Outcome.REFUSED,
            ),
            "content": self._kept(
                case, "output", Turn(role="assistant", text=said), tenant, session
            ),
        }

    def _names(self, asked: Asked) -> tuple[Pseudonyms, str | None]:
        """Return what makes the tenant's marks, and that of the session."""
        marks = self.privacy.pseudonyms(asked.about.tenant)
        session = asked.about.session
        return marks, None if session is None else marks.session(session)

    def _kept(
        self, case: Case, side: str, turn: Turn, tenant: str | None, session: str | None
    ) -> tuple[Content, ...]:
        """Keep a turn's content as the request's policy allows."""
        privacy = Privacy(
            self.privacy.sealer,
            content=case.policy.audit.content,
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
