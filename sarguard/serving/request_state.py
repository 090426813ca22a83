"""The one mutable object of a request: what was said so far, and how it ends, once.

Only `serving` writes to it. Whoever ends a request first, the worker, a caller who
gives up or a caller whose time is over, decides the reply; what comes later is not
heard any more.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sarguard.logs import get_logger
from sarguard.serving.backend import BackendRequest, BackendStep
from sarguard.serving.logs import log_safely
from sarguard.serving.observers import Observer, RequestEvent, Stage, notify
from sarguard.serving.request import GenerationRequest
from sarguard.serving.request_guard import (
    Block,
    Findings,
    RequestGuard,
    ResolvedRequest,
)
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

_log = get_logger(__name__)
_numbers = itertools.count(1)
_REASONS: dict[Outcome, FinishReason] = {
    Outcome.CANCELLED: "cancelled",
    Outcome.TIMEOUT: "timeout",
}
# What was said up to one of these stays said.
_PARTIAL = (Outcome.CANCELLED, Outcome.TIMEOUT)
_ANSWERS = (Outcome.ANSWERED, Outcome.ERROR_OPEN)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientFacts:
    """What every request of a client shares."""

    model_name: str
    bundle_digest: str
    layers: int
    fallback: str
    """What to say where a request fails before its policy is known."""
    observers: tuple[Observer, ...] = ()


@dataclass(slots=True, kw_only=True)
class Timestamps:
    """When a request got where, in seconds of one clock; None if it did not."""

    called: float
    queued: float | None = None
    picked: float | None = None
    prefill: float | None = None
    first_token: float | None = None

    def timings(self) -> Timings:
        """Return the durations between the stamps."""
        return Timings(
            queue_s=_between(self.queued, self.picked),
            prefill_s=_between(self.prefill, self.first_token),
            first_token_s=_between(self.called, self.first_token),
            total_s=time.perf_counter() - self.called,
        )


class RequestState:
    """A request from the call to its reply."""

    def __init__(
        self, request: GenerationRequest, *, facts: ClientFacts, guard: RequestGuard
    ) -> None:
        self.request = request
        self.resolved: ResolvedRequest | None = None
        self.findings = Findings()
        self.times = Timestamps(called=time.perf_counter())
        self.usage = Usage(prompt_tokens=0, audio_tokens=0, output_tokens=0)
        self.step = BackendStep()
        """The newest step; what it decided and proved holds for the answer so far."""
        self._facts = facts
        self._guard = guard
        self._number = next(_numbers)
        # Guards what was said, and that the request ends once. Observers and, at the
        # end, the listener are called outside of it: they are other people's code, and
        # one that closes the client waits for the worker, which may wait for this lock.
        # Reentrant: a listener whose event loop has gone ends the request from within.
        self._lock = threading.RLock()
        self._said: list[str] = []
        self._received = False
        self._began = False
        self._audio_notes: tuple[str, ...] = ()
        self._in_pieces = True
        """Whether the caller has what was said as it was said."""
        self._cut_short = False
        """Whether observers heard of a first token."""
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

    @property
    def text(self) -> str:
        """Return what was said so far."""
        return "".join(self._said)

    @property
    def fallback(self) -> str:
        """Return what is said where there is no answer."""
        resolved = self.resolved
        return self._facts.fallback if resolved is None else resolved.fallback

    @property
    def guard(self) -> RequestGuard:
        """Return who decides on the request."""
        return self._guard

    @property
    def backend_request(self) -> BackendRequest:
        """Return what the backend is asked, once the request is resolved."""
        return to_backend_request(self.known())

    def known(self) -> ResolvedRequest:
        """Return the request under its policy.

        Raises:
            RuntimeError: It was not received yet.
        """
        if self.resolved is None:
            raise RuntimeError("a request was used before its policy was resolved")
        return self.resolved

    def listen(self, listener: Listener) -> None:
        """Send what is said from now on, and the end, to a listener."""
        self._listener = listener

    def remaining(self) -> float | None:
        """Return the seconds that are left, never below 0; None if all are."""
        times, resolved = self.times, self.resolved
        if resolved is None:
            bounds = [self.request.timeout]
        else:
            bounds = [
                resolved.timeout,
                resolved.first_token_timeout if times.first_token is None else None,
                resolved.queue_timeout if times.picked is None else None,
            ]
        given = [bound for bound in bounds if bound is not None]
        if not given:
            return None
        return max(0.0, min(given) - (time.perf_counter() - times.called))

    def receive(self) -> None:
        """Have the guard resolve what holds; what it raises is the caller's."""
        with self._lock:
            if self._received or self._settled:
                return
            self._received = True
        self._notify("received")
        try:
            self.resolved = self._guard.resolve(self.request)
        except Exception as error:
            self.refuse(error)
            raise

    def whole_only(self) -> None:
        """Note that the caller gets the reply alone, and no pieces of it."""
        self._in_pieces = False

    def note(self, notes: Iterable[str]) -> None:
        """Keep what was done to the clips, for the reply."""
        self._audio_notes = tuple(notes)

    def hear(self, resolved: ResolvedRequest) -> None:
        """Keep the request with its conversation, the clips decoded."""
        self.resolved = resolved

    def admit(self) -> None:
        """Ask the guard before the model is asked; the request may end here."""
        try:
            if self._settled:
                return
            resolved = self.known()
            # Not under the lock: checks may take long, and a caller may give up.
            self.findings = self._guard.before_model(resolved)
            raised = self.findings.raised
            if raised is not None:
                # Before the beginning is recorded and the request queued: both hold
                # the dose that it is answered with.
                resolved = replace(resolved, dose=raised.dose, tier=raised.tier)
                self.resolved = resolved
            with self._lock:
                if self.findings.error is None and self.findings.block is None:
                    # Under the lock, so that an end that comes meanwhile does not
                    # write a beginning of its own.
                    if self._settled:
                        return
                    self.findings = self._guard.record_start(resolved, self.findings)
            if self.findings.error is not None:
                raise self.findings.error
            if self.findings.block is not None:
                self._hold_back(self.findings.block)
                return
            self._notify("admitted")
        except Exception as error:
            self.fail(error)

    def pick(self) -> None:
        """Note that the request's turn has come."""
        self.times.picked = time.perf_counter()

    def begin(self, usage: Usage) -> None:
        """Note that the model begins to read the prompt; what came before is void."""
        with self._lock:
            if self._settled:
                return
            again = self.times.prefill is not None
            self.usage, self.step = usage, BackendStep()
            self.times.prefill, self.times.first_token = time.perf_counter(), None
        if not again:
            self._notify("started")

    def take(self, step: BackendStep) -> None:
        """Note what a step decided and proved."""
        with self._lock:
            if self._settled:
                return
            # Together, as the caller may end it at any moment: no record has the
            # proof of one step beside the count of another.
            self.step = step
            self.usage = replace(self.usage, output_tokens=step.output_tokens)
            if step.output_tokens and self.times.first_token is None:
                self.times.first_token = time.perf_counter()
        if self.times.first_token is not None and not self._began:
            self._began = True
            self._notify("first_token")

    def say(self, text: str) -> None:
        """Pass on a piece of the answer."""
        with self._lock:
            if text and not self._settled:
                self._said.append(text)
                self._tell(TextDelta(text=text))

    def answer(
        self,
        outcome: Outcome,
        finish_reason: FinishReason,
        *,
        cut_short: bool = False,
    ) -> None:
        """End with what was said.

        Args:
            outcome: Whether it is an answer or a refusal.
            finish_reason: What ended it.
            cut_short: Whether it ended before one could tell.
        """
        self._cut_short = cut_short
        self._settle(outcome, finish_reason, None)

    def block(self, reason: str) -> None:
        """End without an answer, because something forbids it."""
        self._hold_back(Block(reason=reason))

    def _hold_back(self, block: Block) -> None:
        """End a request that the model is not asked for."""
        text = self.fallback if block.message is None else block.message
        if block.outcome is not Outcome.REFUSED:
            ending: FinishReason = (
                "limit" if block.outcome is Outcome.OVER_LIMIT else "blocked"
            )
            self._settle(block.outcome, ending, text, fault=block.reason)
            return
        # Said, as a model's own refusal is: whoever reads a stream has it from there.
        self.say(text)
        self._settle(block.outcome, "blocked", None, fault=block.reason)

    def fail(self, error: Exception) -> None:
        """End without an answer, because something went wrong."""
        if self._settled:
            return
        # The error's message may hold content, and is the caller's alone.
        log_safely(
            _log.error,
            "answer thrown away",
            model=self._facts.model_name,
            fault=type(error).__name__,
        )
        self._settle(
            Outcome.ERROR_CLOSED,
            "error",
            self.fallback,
            fault=_described(error),
            error=error,
        )

    def abandon(self, outcome: Outcome) -> None:
        """End because of the caller: cancelled, or out of time."""
        self._settle(outcome, _REASONS[outcome], None)

    def refuse(self, error: Exception) -> None:
        """End with an error that is the caller's, and is raised there."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
            reply = self._reply(
                Outcome.ERROR_CLOSED, "error", self.fallback, _described(error)
            )
            self._conclude(reply, error)
        self._notify("finished", error=error)
        self._tell(error)

    def _settle(
        self,
        outcome: Outcome,
        finish_reason: FinishReason,
        text: str | None,
        *,
        fault: str | None = None,
        error: Exception | None = None,
    ) -> None:
        """End the request, unless it has ended; no text is what was said by now."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
            if text is None:
                # Read here: nothing is said any more.
                text = self.text
                if not text and outcome is Outcome.TIMEOUT:
                    text = self.fallback
            reply = self._conclude(
                self._reply(outcome, finish_reason, text, fault), error
            )
        # Before the reply is handed out, so that a trace is whole when it is.
        self._notify("finished", reply=reply, error=error)
        partial = reply.outcome in _PARTIAL and (
            self.spoke or reply.outcome is Outcome.CANCELLED
        )
        if reply.outcome not in _ANSWERS and not partial:
            self._tell(Refusal(outcome=reply.outcome, text=reply.text))
        self._tell(Done(reply=reply))

    def _conclude(self, reply: Reply, error: Exception | None) -> Reply:
        """Have the guard note the reply; without that there is none."""
        if not self._received:
            return reply
        if self._in_pieces and reply.text != self.text:
            self.findings = replace(self.findings, said=self.text)
        try:
            told = self._guard.after_model(
                self.request, self.resolved, self.findings, reply, error
            )
            if not isinstance(told, Reply):
                raise TypeError(
                    f"the guard's after_model returned {type(told).__name__}: return "
                    "the reply to hand out"
                )
            return told
        except Exception as failure:
            log_safely(_log.error, "reply thrown away", fault=type(failure).__name__)
            return self._reply(
                Outcome.ERROR_CLOSED, "error", self.fallback, _described(failure)
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
            timings=self.times.timings(),
            guard=self._report(fault),
            audit_id=self.findings.audit_id,
            audio_notes=self._audio_notes,
        )

    def _report(self, fault: str | None) -> GuardReport:
        decision, receipt = self.step.decision, self.step.receipt
        return GuardReport(
            mode=self._mode(),
            alpha=self._planned_alpha() if decision is None else decision.alpha,
            score=None if decision is None else decision.score,
            bundle_digest=self._facts.bundle_digest,
            steered_positions=0 if receipt is None else receipt.steered_positions,
            layers=self._facts.layers,
            divergence=self.step.divergence,
            fault=fault,
            temperature=self._temperature(),
            greedy_tokens=self._greedy_tokens(),
            reading=None if decision is None else decision.reading,
            left_out=0 if self.resolved is None else self.resolved.left_out,
            trimmed=0 if self.resolved is None else self.resolved.trimmed,
            cut_short=self._cut_short,
        )

    def _temperature(self) -> float:
        """Return what the answer was sampled at; 0 where it was not begun."""
        resolved = self.resolved
        if resolved is None or not self.usage.output_tokens:
            return 0.0
        return (resolved.sampling or self.request.sampling).temperature

    def _greedy_tokens(self) -> int:
        """Return how many tokens were chosen greedily of an answer that is sampled."""
        decision = self.step.decision
        if decision is None or self._temperature() == 0:
            return 0
        return min(decision.greedy_tokens, self.usage.output_tokens)

    def _mode(self) -> GuardMode:
        if self.step.decision is not None and self.step.decision.bare:
            return "bare"
        return "faithful" if self.resolved is None else self.resolved.dose.mode

    def _planned_alpha(self) -> float:
        """Return the coefficient that a constant dose would have had."""
        resolved = self.resolved
        if resolved is None or resolved.tier is not None or resolved.dose.reads_states:
            return 0.0
        return resolved.dose.decide().alpha

    def _tell(self, event: Event | Exception) -> None:
        if self._listener is not None:
            self._listener(event)

    def _notify(
        self,
        stage: Stage,
        *,
        reply: Reply | None = None,
        error: Exception | None = None,
    ) -> None:
        observers: Sequence[Observer] = self._facts.observers
        if not observers or not self._received:
            return
        resolved = self.resolved
        notify(
            observers,
            RequestEvent(
                stage=stage,
                request=self._number,
                context=self.request.context,
                model=self._facts.model_name,
                elapsed_s=time.perf_counter() - self.times.called,
                audit_id=self.findings.audit_id if reply is None else reply.audit_id,
                policy=None if resolved is None else resolved.policy.id,
                tier=None
                if resolved is None or resolved.tier is None
                else resolved.tier.value,
                reply=reply,
                error=error,
            ),
        )


def to_backend_request(resolved: ResolvedRequest) -> BackendRequest:
    """Return what a backend is asked for a request under its policy."""
    request = resolved.request
    return BackendRequest(
        turns=resolved.turns,
        dose=resolved.dose,
        max_new_tokens=resolved.max_new_tokens,
        sampling=resolved.sampling or request.sampling,
        json_schema=request.json_schema,
        tenant=request.context.tenant,
        session=request.context.session,
        reuse=resolved.policy.history.reuse,
    )


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _between(start: float | None, end: float | None) -> float:
    return 0.0 if start is None or end is None else end - start
