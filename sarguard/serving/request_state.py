"""One request on its way: what was said so far, and how it ends, exactly once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from sarguard.serving.complaining import complain
from sarguard.serving.request import Asked, Attendant, Blocked
from sarguard.steering.dose import Decision
from sarguard.types import (
    Done,
    Event,
    FinishReason,
    GuardMode,
    GuardReport,
    Outcome,
    Refusal,
    Reply,
    TextDelta,
    Timings,
    Usage,
)

Listener: TypeAlias = Callable[[Event | Exception], None]

_log = structlog.get_logger(__name__)
_REASONS: dict[Outcome, FinishReason] = {
    Outcome.BLOCKED: "blocked",
    Outcome.CANCELLED: "cancelled",
    Outcome.TIMEOUT: "timeout",
}
# What was said up to one of these stays said.
_PARTIAL = (Outcome.CANCELLED, Outcome.TIMEOUT)
_ANSWERS = (Outcome.ANSWERED, Outcome.ERROR_OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarding:
    """Name what guards every request of a client."""

    model_name: str
    bundle_digest: str
    layers: int


@dataclass(slots=True, kw_only=True)
class Marks:
    """Note when a request got where, in seconds of one clock; None if it did not."""

    called: float
    queued: float | None = None
    picked: float | None = None
    prefill: float | None = None
    first_token: float | None = None

    def timings(self) -> Timings:
        """Return the durations between the marks."""
        return Timings(
            queue_s=_between(self.queued, self.picked),
            prefill_s=_between(self.prefill, self.first_token),
            first_token_s=_between(self.called, self.first_token),
            total_s=time.perf_counter() - self.called,
        )


class Ticket:
    """Follow one request from the call to its reply.

    Whoever ends it first, the worker, a caller who gives up or a caller whose time
    is over, decides the reply; what comes later is not heard any more.
    """

    def __init__(
        self, asked: Asked, *, guarding: Guarding, attendant: Attendant
    ) -> None:
        self.asked = asked
        self.marks = Marks(called=time.perf_counter())
        self.decision: Decision | None = None
        self.usage = Usage(prompt_tokens=0, audio_tokens=0, output_tokens=0)
        self.steered_positions = 0
        self.divergence: float | None = None
        self._guarding = guarding
        self._attendant = attendant
        self._lock = threading.RLock()
        self._said: list[str] = []
        self._audit_id: str | None = None
        self._received = False
        self._settled = False
        self._listener: Listener | None = None

    @property
    def settled(self) -> bool:
        """Return whether the request has ended."""
        return self._settled

    @property
    def spoke(self) -> bool:
        """Return whether a part of the answer has left already."""
        return bool(self._said)

    def listen(self, listener: Listener) -> None:
        """Send what is said from now on, and the end, to a listener."""
        self._listener = listener

    def remaining(self) -> float | None:
        """Return the seconds that are left, never below 0; None if all are."""
        asked, marks = self.asked, self.marks
        bounds = [
            asked.timeout,
            asked.first_token_timeout if marks.first_token is None else None,
            asked.queue_timeout if marks.picked is None else None,
        ]
        given = [bound for bound in bounds if bound is not None]
        if not given:
            return None
        return max(0.0, min(given) - (time.perf_counter() - marks.called))

    def receive(self) -> None:
        """Have the attendant settle what holds; what it raises is the caller's."""
        with self._lock:
            if self._received or self._settled:
                return
            self._received = True
            try:
                self.asked = self._attendant.receive(self.asked)
            except Exception as error:
                self.refuse(error)
                raise

    def admit(self) -> None:
        """Ask the attendant; the request may end here."""
        try:
            if self._settled:
                return
            verdict = self._attendant.admit(self.asked)
            if isinstance(verdict, Blocked):
                self.block(verdict.reason, message=verdict.message)
                return
            with self._lock:
                if not self._settled:
                    self.asked = verdict
                    self._audit_id = self._attendant.begin(verdict)
        except Exception as error:
            self.fail(error)

    def say(self, text: str) -> None:
        """Pass on a piece of the answer."""
        with self._lock:
            if text and not self._settled:
                self._said.append(text)
                self._tell(TextDelta(text=text))

    def answer(self, outcome: Outcome, finish_reason: FinishReason) -> None:
        """End with what was said."""
        self._settle(outcome, finish_reason, "".join(self._said))

    def block(self, reason: str, *, message: str | None = None) -> None:
        """End before anything was decoded."""
        text = self.asked.fallback if message is None else message
        self._settle(Outcome.BLOCKED, "blocked", text, fault=reason)

    def fail(self, error: Exception) -> None:
        """End without an answer, because something went wrong."""
        fault = f"{type(error).__name__}: {error}"
        with self._lock:
            if not self._settled:
                # The fault's message may hold content, and is the caller's alone.
                complain(
                    _log.error,
                    "answer thrown away",
                    model=self._guarding.model_name,
                    fault=type(error).__name__,
                )
                self._settle(
                    Outcome.ERROR_CLOSED,
                    "error",
                    self.asked.fallback,
                    fault=fault,
                    error=error,
                )

    def abandon(self, outcome: Outcome) -> None:
        """End because of the caller: cancelled, or out of time."""
        with self._lock:
            said = "".join(self._said)
            if not said and outcome is Outcome.TIMEOUT:
                said = self.asked.fallback
            self._settle(outcome, _REASONS[outcome], said)

    def refuse(self, error: Exception) -> None:
        """End with an error that is the caller's, and is raised there."""
        with self._lock:
            if not self._settled:
                reply = self._reply(
                    Outcome.ERROR_CLOSED,
                    "error",
                    self.asked.fallback,
                    f"{type(error).__name__}: {error}",
                )
                self._settled = True
                self._record(reply, error)
                self._tell(error)

    def _settle(
        self,
        outcome: Outcome,
        finish_reason: FinishReason,
        text: str,
        *,
        fault: str | None = None,
        error: Exception | None = None,
    ) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
            reply = self._reply(outcome, finish_reason, text, fault)
            reply = self._record(reply, error)
            partial = reply.outcome in _PARTIAL and (
                self.spoke or reply.outcome is Outcome.CANCELLED
            )
            if reply.outcome not in _ANSWERS and not partial:
                self._tell(Refusal(outcome=reply.outcome, text=reply.text))
            self._tell(Done(reply=reply))

    def _record(self, reply: Reply, error: Exception | None) -> Reply:
        """Have the attendant note the reply; without that there is none."""
        if not self._received:
            return reply
        try:
            return self._attendant.end(self.asked, reply, error) or reply
        except Exception as failure:
            complain(_log.error, "reply thrown away", fault=type(failure).__name__)
            fault = f"{type(failure).__name__}: {failure}"
            return self._reply(
                Outcome.ERROR_CLOSED, "error", self.asked.fallback, fault
            )

    def _reply(
        self,
        outcome: Outcome,
        finish_reason: FinishReason,
        text: str,
        fault: str | None,
    ) -> Reply:
        return Reply(
            text=text,
            outcome=outcome,
            finish_reason=finish_reason,
            usage=self.usage,
            timings=self.marks.timings(),
            guard=self._report(fault),
            audit_id=self._audit_id,
        )

    def _report(self, fault: str | None) -> GuardReport:
        decision = self.decision
        alpha = getattr(self.asked.dose, "alpha", 0.0)
        return GuardReport(
            mode=self._mode(),
            alpha=alpha if decision is None else decision.alpha,
            score=None if decision is None else decision.score,
            bundle_digest=self._guarding.bundle_digest,
            steered_positions=self.steered_positions,
            layers=self._guarding.layers,
            divergence=self.divergence,
            fault=fault,
        )

    def _mode(self) -> GuardMode:
        if self.decision is not None and self.decision.bare:
            return "bare"
        return "conditioned" if self.asked.dose.reads_states else "faithful"

    def _tell(self, event: Event | Exception) -> None:
        if self._listener is not None:
            self._listener(event)


def _between(start: float | None, end: float | None) -> float:
    return 0.0 if start is None or end is None else end - start
