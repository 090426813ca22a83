"""Observers: who may watch requests beside the guard, and change nothing.

An observer is for metrics, traces and dashboards. Its methods run on the thread where
something happened, some of them on the model's, so they have to be quick; what they
raise is logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sarguard.logs import get_logger
from sarguard.serving.logs import log_safely
from sarguard.serving.request import RequestContext
from sarguard.types import Reply

Stage = Literal["received", "admitted", "started", "first_token", "finished"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """One thing that happened to a request; it holds no content but the reply's."""

    stage: Stage
    request: int
    """Number of the request in this process, the same in all of its events."""
    context: RequestContext
    model: str
    elapsed_s: float
    """Seconds since the call."""
    audit_id: str | None = None
    """Name of the request's record, once it is written."""
    policy: str | None = None
    """Id of the policy that holds; None before that is settled."""
    tier: str | None = None
    reply: Reply | None = None
    """The reply, with `finished`; None where the caller gets an error instead."""
    error: Exception | None = None
    """With `finished`: what went wrong, if anything did."""


class Observer:
    """Base class of observers; override what you want to hear of."""

    def received(self, event: RequestEvent) -> None:
        """Hear that a request came in."""

    def admitted(self, event: RequestEvent) -> None:
        """Hear that a request may be answered, and stands in the ledger."""

    def started(self, event: RequestEvent) -> None:
        """Hear that the model begins to read a request."""

    def first_token(self, event: RequestEvent) -> None:
        """Hear that the first token is there."""

    def finished(self, event: RequestEvent) -> None:
        """Hear how a request ended; called once for each that was received."""


def notify(observers: Sequence[Observer], event: RequestEvent) -> None:
    """Tell every observer; one that fails is logged and keeps none from hearing."""
    for observer in observers:
        try:
            getattr(observer, event.stage)(event)
        except Exception as error:
            log_safely(
                _log.warning,
                "observer failed",
                observer=type(observer).__name__,
                stage=event.stage,
                fault=type(error).__name__,
            )
