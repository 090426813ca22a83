"""The part of a policy on checks: what a flag does, and which services may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sarguard.policy.section import FREEZE, THAW, Seconds, Section
from sarguard.policy.tiers import Tier

CheckName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
"""A check's name: lower-case letters, digits, dashes and underscores."""

OnFlag = Literal["block", "raise", "note"]
"""What happens when a check flags something."""


class CheckRule(Section):
    """What one check's flag does; what is not set is for the check to say."""

    on_flag: OnFlag | None = None
    """`block`: no answer. `raise`: the answer is steered more strongly. `note`: it
    stands in the record, and nothing else happens."""
    raise_to: Tier | Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """With `raise`: the least tier, or the least steering coefficient. Without it,
    what the check asks for, or else the tier `maximum`."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Score from which the check flags, for one that gives a score."""
    budget_s: Seconds | None = None
    """Seconds that one look may take; longer has not passed."""
    required: bool = True
    """Whether a client without the check does not open."""

    @model_validator(mode="after")
    def _check_raise(self) -> CheckRule:
        if self.raise_to is not None and self.on_flag != "raise":
            raise ValueError(
                f"raise_to is set and on_flag is {self.on_flag or 'not set'}: set "
                "on_flag: raise, or remove raise_to"
            )
        return self


AS_THE_CHECK_SAYS = CheckRule()
"""The rule of a check that a policy does not name."""


class CheckRules(Section):
    """Which checks have to be there, what their flags do, and whom they may ask."""

    rules: Annotated[Mapping[CheckName, CheckRule], FREEZE, THAW] = Field(
        default_factory=dict
    )
    """By the check's name."""
    services: tuple[CheckName, ...] = ()
    """Services outside of this process that a check or a recogniser may hand the
    caller's sound and words to. One that is not named here is never asked."""

    def rule(self, name: str) -> CheckRule:
        """Return the rule of a check; an empty one where there is none."""
        return self.rules.get(name, AS_THE_CHECK_SAYS)
