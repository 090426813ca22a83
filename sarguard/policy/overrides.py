"""Overriding a policy for a while: with a reason, a name and an expiry."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, model_validator

from sarguard.errors import PolicyOverrideError
from sarguard.logs import get_logger
from sarguard.policy.canonical import canonical_json
from sarguard.policy.model import Policy
from sarguard.policy.section import FREEZE, THAW, Section, Words, as_utc, format_utc
from sarguard.policy.strictness import Change, compare, merge

_log = get_logger(__name__)

# What no override may change: the policy's name, the rules for overrides, and the
# record that an override itself has to leave.
_FIXED = ("api_version", "id", "version", "overrides.", "audit.required")

Person = Annotated[str, Field(min_length=1, max_length=256)]


class Override(Section):
    """What a person overrides, why, and until when.

    It cannot come with a request: only code that holds the policy applies it.
    """

    override_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        default_factory=lambda: f"override_{uuid.uuid4().hex}"
    )
    reason: Words
    by: Person
    """Who overrides the policy."""
    approved_by: Person | None = None
    """Who agreed; not the same person where the policy requires two."""
    issued_at: AwareDatetime = Field(default_factory=lambda: as_utc(None))
    """When it takes effect, with a time zone."""
    expires_at: AwareDatetime
    """When it expires, with a time zone."""
    changes: Annotated[Mapping[str, Any], FREEZE, THAW]
    """Some of a policy's settings, as in a file."""

    @model_validator(mode="after")
    def _check_times(self) -> Override:
        if self.expires_at <= self.issued_at:
            raise ValueError(
                f"it expires at {format_utc(self.expires_at)}, before it is issued "
                f"at {format_utc(self.issued_at)}"
            )
        return self

    def is_active(self, now: datetime | None = None) -> bool:
        """Return whether it has taken effect and has not expired.

        Raises:
            PolicyFormatError: The time has no time zone.
        """
        return self.issued_at <= as_utc(now) < self.expires_at

    def apply(self, policy: Policy, now: datetime | None = None) -> Policy:
        """Return the policy with this override in force, and log a warning.

        Raises:
            PolicyOverrideError: It is not active, it breaks the policy's rules for
                overrides, or it changes nothing.
            PolicyFormatError: Its changes are not settings of a policy.
        """
        time = as_utc(now)
        _check_rules(self, policy)
        if not self.is_active(time):
            raise PolicyOverrideError(
                f"override {self.override_id} is active from "
                f"{format_utc(self.issued_at)} to {format_utc(self.expires_at)}, "
                f"it is {format_utc(time)}: issue a new one"
            )
        found = _overridden(self, policy)
        _log.warning(
            "policy overridden",
            policy=policy.id,
            override_id=self.override_id,
            by=self.by,
            expires_at=format_utc(self.expires_at),
            changes=[
                str(change) for change in compare(policy.to_dict(), found.to_dict())
            ],
        )
        return found

    def effects(self, policy: Policy) -> list[Change]:
        """Return what it changes in a policy.

        Raises:
            PolicyOverrideError: It changes what no override may, or nothing.
            PolicyFormatError: Its changes are not settings of a policy.
        """
        return compare(policy.to_dict(), _overridden(self, policy).to_dict())

    def record_fields(self, policy: Policy) -> list[dict[str, Any]]:
        """Return what the ledger records of it: one event for each changed setting."""
        return [
            {
                "policy": policy.record_fields(),
                "field": change.path,
                "value": canonical_json(change.new),
                "reason": self.reason,
                "actor": self.by,
                "approver": self.approved_by,
                "expires": format_utc(self.expires_at),
                "override_id": self.override_id,
            }
            for change in self.effects(policy)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """A policy and its overrides, resolved anew for each request: overrides expire."""

    policy: Policy
    overrides: tuple[Override, ...] = ()

    def overridden(
        self, override: Override, now: datetime | None = None
    ) -> PolicyInForce:
        """Return it with one more override, checked as `Override.apply` does."""
        override.apply(self.at(now), now)
        return replace(self, overrides=(*self.overrides, override))

    def active(self, now: datetime | None = None) -> tuple[Override, ...]:
        """Return the overrides that are active at a time, the oldest first."""
        time = as_utc(now)
        return tuple(found for found in self.overrides if found.is_active(time))

    def at(self, now: datetime | None = None) -> Policy:
        """Return the policy that applies at a time.

        An override that has expired, or not taken effect (a clock may be set back),
        has no part in it.
        """
        # On top of each other in the order in which they were given.
        held = self.policy
        for override in self.active(now):
            held = _overridden(override, held)
        return held


def _check_rules(override: Override, policy: Policy) -> None:
    rules = policy.overrides
    if not rules.allowed:
        raise PolicyOverrideError(
            f"policy {policy.id} allows no overrides: change the policy file"
        )
    max_duration = timedelta(hours=rules.longest_hours)
    asked = override.expires_at - override.issued_at
    if asked > max_duration:
        raise PolicyOverrideError(
            f"the override lasts {asked}, policy {policy.id} allows {max_duration}: "
            "let it expire sooner"
        )
    # One name in two spellings is one person.
    people = {override.by.strip().casefold()}
    people |= {(override.approved_by or override.by).strip().casefold()}
    if rules.second_person and len(people) < 2:
        raise PolicyOverrideError(
            f"policy {policy.id} requires a second person: set approved_by to somebody "
            f"other than {override.by}"
        )


def _overridden(override: Override, policy: Policy) -> Policy:
    base = policy.to_dict()
    changed = merge(base, override.changes)
    found = Policy.build(changed, source=f"override {override.override_id}")
    changes = compare(base, found.to_dict())
    # An entry of _FIXED that ends in a dot stands for a whole section.
    forbidden = [change.path for change in changes if change.path.startswith(_FIXED)]
    if forbidden:
        raise PolicyOverrideError(
            f"an override cannot change {', '.join(forbidden)}: change the policy file"
        )
    if not changes:
        raise PolicyOverrideError(
            f"override {override.override_id} changes nothing in policy {policy.id}"
        )
    return found
