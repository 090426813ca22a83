"""Setting a policy aside for a while: with a reason, a name and an end."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import structlog
from pydantic import AwareDatetime, Field, model_validator

from sarguard.errors import PolicyOverrideError
from sarguard.policy.canonical import canonical_json
from sarguard.policy.frozen import FREEZE, THAW
from sarguard.policy.merging import merge
from sarguard.policy.model import Policy
from sarguard.policy.moments import check_moment, write_moment
from sarguard.policy.section import Section, Words
from sarguard.policy.strictness import Change, compare

_log = structlog.get_logger(__name__)

# What an override never touches: the policy's name, the rules for overrides, and the
# record that an override itself has to leave.
_UNTOUCHABLE = ("api_version", "id", "version", "overrides.", "audit.required")

Person = Annotated[str, Field(min_length=1, max_length=256)]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return f"override_{uuid.uuid4().hex}"


class Override(Section):
    """State what a person sets aside, why, and until when.

    It cannot come with a request: only code that holds the policy applies it.
    """

    override_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        default_factory=_new_id
    )
    reason: Words
    by: Person
    """Who sets the policy aside."""
    approved_by: Person | None = None
    """Who agreed; somebody else, where the policy asks for a second person."""
    issued_at: AwareDatetime = Field(default_factory=_now)
    """From when it holds, with its time zone."""
    expires_at: AwareDatetime
    """Until when it holds, with its time zone."""
    changes: Annotated[Mapping[str, Any], FREEZE, THAW]
    """Some of a policy's settings, as they stand in a file."""

    @model_validator(mode="after")
    def _check_times(self) -> Override:
        if self.expires_at <= self.issued_at:
            raise ValueError(
                f"it expires at {write_moment(self.expires_at)}, before it is issued "
                f"at {write_moment(self.issued_at)}"
            )
        return self

    def holds(self, now: datetime | None = None) -> bool:
        """Return whether it is issued and has not expired.

        Raises:
            PolicyFormatError: The moment has no time zone.
        """
        return self.issued_at <= check_moment(now) < self.expires_at

    def apply(self, policy: Policy, now: datetime | None = None) -> Policy:
        """Return the policy with this override in force, and log a warning.

        Raises:
            PolicyOverrideError: It does not hold at this moment, it breaks the
                policy's rules for overrides, or it changes nothing.
            PolicyFormatError: Its changes are not settings of a policy.
        """
        moment = check_moment(now)
        _check_rules(self, policy)
        if not self.holds(moment):
            raise PolicyOverrideError(
                f"override {self.override_id} holds from "
                f"{write_moment(self.issued_at)} to {write_moment(self.expires_at)}, "
                f"it is {write_moment(moment)}: issue a new one"
            )
        found = _overridden(self, policy)
        _log.warning(
            "policy overridden",
            policy=policy.id,
            override_id=self.override_id,
            by=self.by,
            expires_at=write_moment(self.expires_at),
            changes=[
                str(change) for change in compare(policy.to_dict(), found.to_dict())
            ],
        )
        return found

    def effects(self, policy: Policy) -> list[Change]:
        """Return what it changes in a policy.

        Raises:
            PolicyOverrideError: It touches what no override may, or changes nothing.
            PolicyFormatError: Its changes are not settings of a policy.
        """
        return compare(policy.to_dict(), _overridden(self, policy).to_dict())

    def facts(self, policy: Policy) -> list[dict[str, Any]]:
        """Return what the ledger records of it: one event for each changed setting."""
        return [
            {
                "policy": policy.facts(),
                "field": change.path,
                "value": canonical_json(change.new),
                "reason": self.reason,
                "actor": self.by,
                "approver": self.approved_by,
                "expires": write_moment(self.expires_at),
                "override_id": self.override_id,
            }
            for change in self.effects(policy)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """Hold a policy and its overrides; ask it anew for each request."""

    policy: Policy
    overrides: tuple[Override, ...] = ()

    def overridden(
        self, override: Override, now: datetime | None = None
    ) -> PolicyInForce:
        """Return this with one more override, checked as `Override.apply` does."""
        override.apply(self.at(now), now)
        return replace(self, overrides=(*self.overrides, override))

    def active(self, now: datetime | None = None) -> tuple[Override, ...]:
        """Return the overrides that hold at a moment, the oldest first."""
        moment = check_moment(now)
        return tuple(found for found in self.overrides if found.holds(moment))

    def at(self, now: datetime | None = None) -> Policy:
        """Return the policy that holds at a moment.

        An override that has expired, or that the clock has moved back before, has no
        part in it.
        """
        held = self.policy
        for override in self.active(now):
            held = _overridden(override, held)
        return held


def _check_rules(override: Override, policy: Policy) -> None:
    rules = policy.overrides
    if not rules.allowed:
        raise PolicyOverrideError(
            f"policy {policy.id} allows no override: change the policy file"
        )
    longest = timedelta(hours=rules.longest_hours)
    asked = override.expires_at - override.issued_at
    if asked > longest:
        raise PolicyOverrideError(
            f"the override holds for {asked}, policy {policy.id} allows {longest}: "
            "let it expire sooner"
        )
    people = {override.by.strip().casefold()}
    people |= {(override.approved_by or override.by).strip().casefold()}
    if rules.second_person and len(people) < 2:
        raise PolicyOverrideError(
            f"policy {policy.id} asks for a second person: set approved_by to somebody "
            f"other than {override.by}"
        )


def _overridden(override: Override, policy: Policy) -> Policy:
    base = policy.to_dict()
    changed = merge(base, override.changes)
    found = Policy.build(changed, source=f"override {override.override_id}")
    changes = compare(base, found.to_dict())
    touched = [
        change.path for change in changes if change.path.startswith(_UNTOUCHABLE)
    ]
    if touched:
        raise PolicyOverrideError(
            f"an override cannot touch {', '.join(touched)}: change the policy file"
        )
    if not changes:
        raise PolicyOverrideError(
            f"override {override.override_id} changes nothing in policy {policy.id}"
        )
    return found
