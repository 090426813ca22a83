"""The closed set of ways in which a request can end."""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """Name how a request ended; two different endings never share a name."""

    ANSWERED = "answered"
    """The model answered, steered at every position."""

    REFUSED = "refused"
    """The model answered, steered, and what it said is a refusal."""

    ERROR_CLOSED = "error_closed"
    """Steering could not be proven, so the answer was thrown away."""

    def __str__(self) -> str:
        return self.value
