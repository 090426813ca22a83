"""What is known of one request while it is answered, beside its content."""

from __future__ import annotations

from dataclasses import dataclass

from sarguard.policy.model import Policy
from sarguard.policy.tiers import Tier


@dataclass(slots=True, kw_only=True, eq=False)
class Case:
    """Hold what was decided on a request, and what became of its records."""

    policy: Policy
    """What held when the request came in; it holds until its end."""
    tier: Tier | None = None
    """None where the dose is constant."""
    rule: str | None = None
    """The rule that blocked the request, or would have in shadow mode."""
    fault: Exception | None = None
    """What failed beside the model, where the policy lets the answer out."""
    keeps: bool = True
    """Whether content can still be described and kept."""
    audit_id: str | None = None
    begun: bool = False
    unrecorded: bool = False
    """Whether a record is missing because the policy goes on without one."""
