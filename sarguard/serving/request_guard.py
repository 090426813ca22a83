"""The two places where the guard is asked: before the model, and after it.

    resolve        what holds for the request: policy, dose, limits
    before_model   limits and input checks; may block
    record_start   the ledger, before the first token
    screen         output checks, before a piece of text goes out
    after_model    the words of the reply, and the ledger

Everything that passes between `serving` and a guard is frozen: what the guard finds
comes back as a value, and only the request's state keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from sarguard.decoding import Sampling
from sarguard.policy.model import Policy
from sarguard.policy.tiers import Tier
from sarguard.serving.request import GenerationRequest
from sarguard.steering.dose import DoseSpec
from sarguard.types import Outcome, Reply, Turn

if TYPE_CHECKING:
    from sarguard.audio import AudioLimits

CheckStage = Literal["input", "output", "transcript"]
CheckOutcome = Literal[
    "allowed", "blocked", "raised", "noted", "failed", "timed_out", "transcribed"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitViolation:
    """A limit of the policy that a request exceeds."""

    rule: str
    """The setting, such as `text.max_chars`."""
    found: float
    limit: float

    def __str__(self) -> str:
        return f"{self.rule} is {self.limit:.10g}, the request has {self.found:.10g}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResolvedRequest:
    """A request under the policy that holds for it, to its end."""

    request: GenerationRequest
    policy: Policy
    tier: Tier | None
    """None where the dose is constant."""
    dose: DoseSpec
    fallback: str
    """What to say where there is no answer."""
    max_new_tokens: int
    sampling: Sampling | None = None
    """How tokens are chosen; None for what the request asks."""
    timeout: float | None = None
    """Seconds from the call to the reply, the queue included; None waits."""
    first_token_timeout: float | None = None
    """Seconds from the call to the first token."""
    queue_timeout: float | None = None
    """Seconds from the call until its turn has come."""
    limits: AudioLimits | None = None
    """Limits of one clip; None for the model's own."""
    turns: tuple[Turn, ...] = ()
    """The conversation that the model is given; empty until its clips are decoded."""
    left_out: int = 0
    """Turns that were left out of it because they were not answered."""
    trimmed: int = 0
    """Turns that were left out of it because of a limit on the history."""
    exceeded: LimitViolation | None = None
    """A limit on the history that the conversation exceeds, where the policy trims
    nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckVerdict:
    """What one check said of a request, as the ledger records it."""

    name: str
    version: str
    stage: CheckStage
    verdict: CheckOutcome
    score: float | None = None
    """What the check made of it, where it gives a number."""
    threshold: float | None = None
    """The score from which it flags, where the policy or the check names one."""
    label: str | None = None
    """What the check calls what it found."""
    raised_to: str | None = None
    """The least tier or coefficient that it asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedDose:
    """The dose that checks raised a request's to; it is never lower."""

    dose: DoseSpec
    tier: Tier | None = None
    """None where the dose is still constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Why a request gets no answer."""

    reason: str
    """For the caller's report; what the caller hears is the policy's message."""
    message: str | None = None
    """What to say to the caller; None for the request's fallback."""
    outcome: Literal[Outcome.BLOCKED, Outcome.REFUSED, Outcome.OVER_LIMIT] = (
        Outcome.BLOCKED
    )
    """How the request ends; `refused` where the model refused the same request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the guard has found of a request so far."""

    block: Block | None = None
    """Set where the request ends without an answer."""
    rule: str | None = None
    """The rule that blocks the request, or would if its policy were enforced."""
    error: Exception | None = None
    """What failed, where the request has to end with it."""
    fault: Exception | None = None
    """What failed beside the model, where the policy lets the answer out."""
    checks: tuple[CheckVerdict, ...] = ()
    min_tier: Tier | None = None
    """The least tier that checks ask for; None for none."""
    min_alpha: float = 0.0
    """The least steering coefficient that checks ask for."""
    raised: RaisedDose | None = None
    """What follows for the dose; the request is answered with it."""
    heeded: int | None = None
    """The record of the last erasure before the request came in, 0 for none; None where
    it was not asked for."""
    audit_id: str | None = None
    """Name of the request's record; None until it is written, or where none is."""
    keeps_content: bool = True
    """Whether content can still be described and kept."""
    unrecorded: bool = False
    """Whether a record is missing because the policy goes on without one."""
    said: str = ""
    """What had gone out in pieces before another text took the answer's place."""

    def failed(self, error: Exception, policy: Policy) -> Findings:
        """Return these with something that failed beside the model.

        The request ends with it, unless the policy lets steered answers out.
        """
        if policy.fault_outcome() is Outcome.ERROR_OPEN:
            return replace(self, fault=error)
        return replace(self, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What output checks say of an answer so far."""

    findings: Findings
    hold: int = 0
    """Characters at the end that must not go out yet."""


class RequestGuard(Protocol):
    """Decides whether and how each request is answered, and records it.

    Calls come from the callers' threads and the worker's, several at a time. If one
    raises, there is no answer: the reply is the fallback, its outcome `error_closed`.
    """

    def resolve(self, request: GenerationRequest) -> ResolvedRequest:
        """Return what holds for a request, before its clips are read.

        Raises:
            InvalidRequestError: It asks for what it cannot have; its caller hears it.
            PolicyFloorError: It asks for less than the policy holds.
        """

    def before_model(self, resolved: ResolvedRequest) -> Findings:
        """Return whether a request may be answered, its clips decoded."""

    def record_start(self, resolved: ResolvedRequest, found: Findings) -> Findings:
        """Note that a request is going to be answered, before its first token."""

    def screen(
        self, resolved: ResolvedRequest, found: Findings, text: str, *, final: bool
    ) -> Screening:
        """Return what may go out of an answer so far.

        Args:
            resolved: The request.
            found: What was found of it before.
            text: The answer so far.
            final: Whether nothing follows.
        """

    @property
    def screens(self) -> bool:
        """Return whether there are output checks, so that `screen` is worth asking."""

    def after_model(
        self,
        request: GenerationRequest,
        resolved: ResolvedRequest | None,
        found: Findings,
        reply: Reply,
        error: Exception | None = None,
    ) -> Reply:
        """Note how a request ended, and return the reply to hand out.

        It is called once for each request that was received, before its reply is
        handed out, whether or not it was resolved (else `resolved` is None) and
        admitted.
        """
