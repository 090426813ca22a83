"""Making a guard of what a client was opened with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.content import Privacy
from sarguard.audit.storage.appender import Pace
from sarguard.errors import ArtifactError, ConfigurationError, SteeringError
from sarguard.guard.check_runner import Checks
from sarguard.guard.checks import InputCheck, OutputCheck
from sarguard.guard.effective_policy import NO_POLICY, EffectivePolicy
from sarguard.guard.policy_guard import PolicyGuard, SessionMemories
from sarguard.guard.recorder import AuditRecorder, model_ref
from sarguard.guard.transcripts import SpeechRecogniser, Transcriber
from sarguard.policy.messages import Reason
from sarguard.policy.model import Policy, open_policy
from sarguard.policy.overrides import PolicyInForce
from sarguard.policy.tiers import Tier
from sarguard.serving.backend import BackendInfo
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import DoseSpec, check_alpha

if TYPE_CHECKING:
    from typing_extensions import Unpack

PolicyLike: TypeAlias = "Policy | PolicyInForce | str | os.PathLike[str] | None"
"""A policy, with or without overrides, its file, or the name of a preset."""

AuditLike: TypeAlias = "AuditLog | str | os.PathLike[str] | None"
"""A ledger, or its file."""


class GuardOptions(TypedDict, total=False):
    """What a client's owner says of its guard."""

    policy: PolicyLike
    """What has to hold. Without one, nothing is bounded but by the model."""
    audit: AuditLike
    """The ledger, or its file, which is made if there is none."""
    tier: Tier | str | None
    """Operating point of a request that names none, and the lowest that one may name:
    `permissive`, `balanced`, `strict` or `maximum`. Without it the policy says both;
    without a policy they are `balanced`."""
    alpha: float | None
    """Steering coefficient, above 0. Alone it is the constant dose of every answer, as
    in the paper; beside a policy or a tier it is the least one. Nobody gets less."""
    dose: DoseSpec | None
    """Decides each request's dose in place of a tier; a request can only raise it."""
    fallback: str | None
    """Text of the reply when there is no answer; a policy has its own."""
    input_checks: Sequence[InputCheck]
    """Checks of every request, before the model is asked."""
    output_checks: Sequence[OutputCheck]
    """Checks of every answer, before a piece of it goes out."""
    transcriber: SpeechRecogniser | Transcriber | None
    """Makes the transcripts that input checks may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardHandle:
    """A guard, and the ledger that it writes to."""

    guard: PolicyGuard
    owned: AuditLog | None
    """The ledger, where it was opened here and has to be closed."""

    @contextmanager
    def attaching(self) -> Iterator[None]:
        """Record that steering was attached inside the block, or that it failed."""
        recorder = self.guard.recorder
        try:
            yield
        except (SteeringError, ArtifactError) as error:
            if recorder is not None:
                recorder.failed_integrity(error)
            raise
        if recorder is not None:
            recorder.loaded(self.guard.policy)

    def close(self) -> None:
        """Close the ledger if it is the client's own."""
        if self.owned is not None:
            self.owned.close()


def open_guard(
    info: BackendInfo,
    bundle: SteeringBundle,
    *,
    memory: SessionMemories | None = None,
    **options: Unpack[GuardOptions],
) -> GuardHandle:
    """Return the guard of a client.

    Args:
        info: Of the model.
        bundle: Where the tiers' rules stand.
        memory: What the backend keeps of sessions, which an erasure drops.
        options: What the client's owner says.

    Raises:
        ConfigurationError: Options contradict each other, the policy wants a ledger
            or a check and there is none, or does not name a service that a check asks.
        PolicyError: The policy cannot be read.
        AuditError: The ledger cannot be opened.
    """
    effective = effective_policy(**options)
    heard_by = options.get("transcriber")
    checks = Checks(
        input=tuple(options.get("input_checks", ())),
        output=tuple(options.get("output_checks", ())),
        transcriber=None if heard_by is None else SpeechRecogniser.named(heard_by),
        sample_rate=info.sampling_rate,
    )
    # Before the ledger is opened: a wrong option should leave no file behind.
    checks.hold_to(effective.in_force.at())
    log, owned = _open_ledger(options.get("audit"), effective.in_force.policy)
    recorder = None
    if log is not None:
        recorder = AuditRecorder(
            log=log,
            bundle=bundle,
            model=model_ref(info, bundle),
            sample_rate=info.sampling_rate,
            privacy=Privacy.open(log.path),
            owned=owned,
        )
    guard = PolicyGuard(
        effective,
        bundle,
        max_audio_seconds=info.max_audio_seconds,
        recorder=recorder,
        checks=checks,
        memory=memory,
    )
    return GuardHandle(guard=guard, owned=log if owned else None)


def effective_policy(**options: Unpack[GuardOptions]) -> EffectivePolicy:
    """Return what holds for the requests of a client with these options.

    Raises:
        ConfigurationError: Options contradict each other.
        PolicyError: The policy cannot be read.
        PolicyFloorError: The tier is below the policy's floor, or the coefficient
            below its least one.
    """
    policy, named = options.get("policy"), options.get("tier")
    alpha, dose = options.get("alpha"), options.get("dose")
    in_force = _read_policy(policy, options.get("fallback"))
    tier = None if named is None else Tier.named(named)
    in_force.at().raised(tier=tier, alpha=alpha if policy is not None else None)
    if alpha is not None:
        check_alpha("alpha", alpha)
    conditioned = policy is not None or tier is not None
    if dose is not None and (conditioned or alpha is not None):
        raise ConfigurationError(
            "a dose of your own was given beside a policy, a tier or an alpha: "
            "give one of them"
        )
    if alpha is not None and not conditioned:
        dose = DoseSpec.constant(alpha)
    return EffectivePolicy(
        in_force=in_force,
        given=policy is not None,
        tier=tier,
        alpha=alpha or 0.0,
        dose=dose,
    )


def _read_policy(policy: PolicyLike, fallback: str | None) -> PolicyInForce:
    if policy is None:
        return PolicyInForce(policy=_no_policy(fallback))
    if isinstance(policy, PolicyInForce):
        found = policy
    elif isinstance(policy, Policy):
        found = PolicyInForce(policy=policy)
    else:
        found = PolicyInForce(policy=open_policy(os.fspath(policy)))
    if fallback is not None:
        raise ConfigurationError(
            f"fallback was given beside policy {found.policy.id}: write the text into "
            "the policy's fallback.messages"
        )
    return found


def _no_policy(fallback: str | None) -> Policy:
    if fallback is None:
        return NO_POLICY
    words = {reason.value: fallback for reason in Reason if reason != Reason.REFUSED}
    values = {**NO_POLICY.to_dict(), "fallback": {"messages": {"en": words}}}
    return Policy.build(values, source="the fallback text")


def _open_ledger(audit: AuditLike, policy: Policy) -> tuple[AuditLog | None, bool]:
    """Return the ledger, and whether it was opened here."""
    if audit is None or isinstance(audit, AuditLog):
        return audit, False
    rules = policy.audit
    pace = replace(
        Pace(),
        checkpoint_records=rules.checkpoint_records,
        checkpoint_seconds=rules.checkpoint_seconds,
    )
    opened = AuditLog.open(
        os.fspath(audit),
        on_failure=rules.on_write_failure,
        spool_limit=rules.spool_records,
        pace=pace,
    )
    return opened, True
