"""Making a guard of what a client was opened with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from sarguard.audit.log import AuditLog
from sarguard.audit.privacy.content import Privacy
from sarguard.audit.storage.appender import Pace
from sarguard.errors import ArtifactError, ConfigurationError, SteeringError
from sarguard.guard import accounts
from sarguard.guard.effective_policy import UNWRITTEN, Terms
from sarguard.guard.policy_guard import Guard, TranscriptCheck
from sarguard.guard.recorder import Scribe
from sarguard.models.loading import LoadedModel
from sarguard.policy.messages import Reason
from sarguard.policy.model import Policy, open_policy
from sarguard.policy.overrides import PolicyInForce
from sarguard.policy.tiers import Tier
from sarguard.steering.bundle import SteeringBundle
from sarguard.steering.dose import ConstantDose, Dose

PolicyLike: TypeAlias = "Policy | PolicyInForce | str | os.PathLike[str] | None"
"""A policy, with or without overrides, its file, or the name of a preset."""

AuditLike: TypeAlias = "AuditLog | str | os.PathLike[str] | None"
"""A ledger, or its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """Hold what a client's owner says of its guard."""

    policy: PolicyLike = None
    audit: AuditLike = None
    tier: Tier | str | None = None
    alpha: float | None = None
    dose: Dose | None = None
    fallback: str | None = None
    transcript_check: TranscriptCheck | None = None

    def terms(self) -> Terms:
        """Return what holds for requests.

        Raises:
            ConfigurationError: Options contradict each other.
            PolicyError: The policy cannot be read.
            PolicyFloorError: The tier is below the policy's floor, or the strength
                below its least one.
        """
        in_force = _read_policy(self.policy, self.fallback)
        written = self.policy is not None
        tier = None if self.tier is None else Tier.named(self.tier)
        in_force.at().raised(tier=tier, alpha=self.alpha if written else None)
        conditioned = written or tier is not None
        if self.dose is not None and (conditioned or self.alpha is not None):
            raise ConfigurationError(
                "a dose of your own was given beside a policy, a tier or an alpha: "
                "give one of them"
            )
        constant = self.dose
        if self.alpha is not None and not conditioned:
            constant = ConstantDose(alpha=self.alpha)
        return Terms(
            in_force=in_force,
            written=written,
            tier=tier,
            alpha=(self.alpha or 0.0) if conditioned else 0.0,
            dose=constant,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Hold a guard and the ledger that it writes to."""

    guard: Guard
    scribe: Scribe | None
    owned: AuditLog | None
    """The ledger, where it was opened here and has to be closed."""

    @contextmanager
    def attaching(self) -> Iterator[None]:
        """Record that steering was attached inside the block, or that it failed."""
        try:
            yield
        except (SteeringError, ArtifactError) as error:
            if self.scribe is not None:
                self.scribe.failed_integrity(error)
            raise
        if self.scribe is not None:
            self.scribe.loaded(self.guard.policy)

    def close(self) -> None:
        """Close the ledger if it is the client's own."""
        if self.owned is not None:
            self.owned.close()


def open_guard(
    options: GuardOptions, loaded: LoadedModel, bundle: SteeringBundle
) -> Opened:
    """Return the guard of a client.

    Raises:
        ConfigurationError: Options contradict each other, or the policy wants a
            ledger and there is none.
        PolicyError: The policy cannot be read.
        AuditError: The ledger cannot be opened.
    """
    terms = options.terms()
    log, owned = _open_ledger(options.audit, terms.in_force.policy)
    scribe = None
    if log is not None:
        scribe = Scribe(
            log=log,
            bundle=bundle,
            model=accounts.model_ref(loaded, bundle),
            steering=accounts.steering_ref(bundle),
            sample_rate=loaded.sampling_rate,
            privacy=Privacy.open(log.path),
            owned=owned,
        )
    guard = Guard(
        terms,
        bundle,
        hears=loaded.max_audio_seconds,
        scribe=scribe,
        transcript_check=options.transcript_check,
    )
    return Opened(guard=guard, scribe=scribe, owned=log if owned else None)


def _read_policy(policy: PolicyLike, fallback: str | None) -> PolicyInForce:
    if isinstance(policy, PolicyInForce):
        found = policy
    elif isinstance(policy, Policy):
        found = PolicyInForce(policy=policy)
    elif policy is None:
        return PolicyInForce(policy=_unwritten(fallback))
    else:
        found = PolicyInForce(policy=open_policy(os.fspath(policy)))
    if fallback is not None:
        raise ConfigurationError(
            f"fallback was given beside policy {found.policy.id}: write the text into "
            "the policy's fallback.messages"
        )
    return found


def _unwritten(fallback: str | None) -> Policy:
    if fallback is None:
        return UNWRITTEN
    words = {reason.value: fallback for reason in Reason if reason != Reason.REFUSED}
    values = {**UNWRITTEN.to_dict(), "fallback": {"messages": {"en": words}}}
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
