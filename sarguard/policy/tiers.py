"""Tiers: names for operating points, and their order."""

from __future__ import annotations

from difflib import get_close_matches
from enum import Enum
from functools import total_ordering

from sarguard.errors import PolicyFormatError


@total_ordering
class Tier(Enum):
    """Operating point; the bundle's card says what it does on a model.

    Tiers are ordered, the weakest first: `Tier.BALANCED < Tier.STRICT`.
    """

    PERMISSIVE = "permissive"
    BALANCED = "balanced"
    STRICT = "strict"
    MAXIMUM = "maximum"

    @classmethod
    def named(cls, name: Tier | str) -> Tier:
        """Return the tier of a name.

        Raises:
            PolicyFormatError: There is no such tier.
        """
        if isinstance(name, Tier):
            return name
        for tier in cls:
            # An array would compare with each of its elements.
            if isinstance(name, str) and tier.value == name:
                return tier
        names = [tier.value for tier in cls]
        close = get_close_matches(str(name), names, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise PolicyFormatError(
            f"there is no tier {name!r:.60}: choose {', '.join(names)}.{meant}"
        )

    @property
    def rank(self) -> int:
        """Return the tier's place in the order, from 0."""
        return list(Tier).index(self)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Tier):
            return NotImplemented
        return self.rank < other.rank

    def __str__(self) -> str:
        return self.value
