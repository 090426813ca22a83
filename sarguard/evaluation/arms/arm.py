"""The name of an arm, as plans, records and reports carry it."""

from __future__ import annotations

from dataclasses import dataclass

POLICY = "policy"
"""Name of the arms that measure a policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of guarding the model; `registry` knows how each is opened."""

    name: str
    alpha: float | None = None
    """Steering coefficient of an arm that is measured at several; None for others."""
    policy: str | None = None
    """Id of the policy that the arm measures; None for others."""

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Return the arm of a run log or a report, such as `ablated 0.1`.

        Raises:
            ValueError: What follows the name is not a number.
        """
        name, _, rest = text.partition(" ")
        if name == POLICY and rest:
            return cls(name=name, policy=rest)
        return cls(name=name, alpha=float(rest) if rest else None)

    def __str__(self) -> str:
        if self.policy is not None:
            return f"{self.name} {self.policy}"
        return self.name if self.alpha is None else f"{self.name} {self.alpha:g}"


BARE = Arm(name="bare")
"""The model as it is, which every other arm is compared with."""
