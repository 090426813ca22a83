"""The closed set of ways in which a request can end."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Name how a request ended; two different endings never share a name."""

    ANSWERED = "answered"
    """The model answered, steered at every position, unless `guard.mode` is `bare`: a
    policy in shadow mode asked for the answer of the model as it is."""

    REFUSED = "refused"
    """The model answered, steered, and what it said is a refusal."""

    BLOCKED = "blocked"
    """Nothing was decoded: a policy or the request's own score forbade it."""

    ERROR_CLOSED = "error_closed"
    """Something failed, or steering could not be proven, so there is no answer."""

    ERROR_OPEN = "error_open"
    """Something beside the model failed, and a policy let the steered answer out."""

    CANCELLED = "cancelled"
    """The caller wanted no more of it."""

    TIMEOUT = "timeout"
    """The request took longer than it was given."""
