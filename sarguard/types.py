"""What goes into a request and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from sarguard.errors import InvalidRequestError
from sarguard.option_values import as_text, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
FinishReason = Literal[
    "stop", "length", "error", "blocked", "limit", "cancelled", "timeout"
]
GuardMode = Literal["faithful", "conditioned", "bare"]
"""How the dose came about. `faithful`: it is the same for every request;
`conditioned`: it depends on the request's score; `bare`: the answer is not steered,
because a policy in shadow mode asks for the bare model's."""


class Outcome(StrEnum):
    """Ending of a request; the set is closed, and no two endings share a name."""

    ANSWERED = "answered"
    """The model answered, steered at every position, unless `guard.mode` is `bare`: a
    policy in shadow mode asked for the answer of the model as it is."""

    REFUSED = "refused"
    """The model answered, steered, and what it said is a refusal."""

    BLOCKED = "blocked"
    """There is no answer: the request's own score, a check, or what its session was
    told before forbade it. It is a verdict on what was asked."""

    OVER_LIMIT = "over_limit"
    """There is no answer: the request is longer, or holds more, than a policy allows.
    It says nothing of what was asked."""

    ERROR_CLOSED = "error_closed"
    """Something failed, or steering could not be proven, so there is no answer."""

    ERROR_OPEN = "error_open"
    """Something beside the model failed, and a policy let the steered answer out."""

    CANCELLED = "cancelled"
    """The caller wanted no more of it."""

    TIMEOUT = "timeout"
    """The request took longer than it was given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """One message of a conversation.

    `audio` holds decoded clips: mono float32 arrays of shape (samples,) at the
    model's sampling rate. Clips come before the text in the prompt.
    """

    role: Role
    text: str = ""
    audio: tuple[NDArray[np.float32], ...] = ()
    outcome: Outcome | None = None
    """How the request ended whose reply an assistant turn holds, None where nobody
    knows. What was not answered leaves the prompt; see docs/asking.md."""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise InvalidRequestError(
                f"unknown role {shown(self.role)}: use one of "
                f"{', '.join(get_args(Role))}"
            )
        as_text(f"the text of a {self.role} turn", self.text)
        if self.audio and self.role != "user":
            raise InvalidRequestError(
                f"a {self.role} turn holds {len(self.audio)} clip(s): "
                "only user turns can carry audio"
            )
        if self.outcome is not None and self.role != "assistant":
            raise InvalidRequestError(
                f"a {self.role} turn has the outcome {self.outcome}: only assistant "
                "turns hold a reply"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a request; audio tokens are part of the prompt's."""

    prompt_tokens: int
    audio_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Durations of a request in seconds; 0 for what was not reached.

    `queue_s` runs from the request's place in the queue to its turn, `prefill_s` from
    the start of decoding to the first answer token, `first_token_s` from the call to
    the first answer token (audio decoding, the queue and feature extraction
    included), `total_s` from the call to the reply.
    """

    queue_s: float = 0.0
    prefill_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """What the guard did for one request."""

    mode: GuardMode = "faithful"
    alpha: float
    """Dose, or with mode `bare` the one that would have held; 0 where the request ended
    before its dose was decided."""
    bundle_digest: str
    steered_positions: int
    """Positions steered on every one of the layers."""
    layers: int
    score: float | None = None
    """What the gate made of the request; None where it was not asked."""
    divergence: float | None = None
    """How far steering moves the first token's distribution from the bare model's:
    Jensen-Shannon, in bits, 0 to 1; None unless the policy is in shadow mode."""
    fault: str | None = None
    """What went wrong, or why the request was blocked; None where nothing did."""
    tier: str | None = None
    """The tier that decided on the dose; None where it is constant."""
    would_block: str | None = None
    """The rule that would have blocked the request, were its policy enforced."""
    temperature: float = 0.0
    """The temperature that the answer was sampled at, which a policy may lower; 0 where
    it is greedy, or was not begun."""
    greedy_tokens: int = 0
    """Tokens at the beginning of a sampled answer that were chosen greedily, as the
    request may be harmful."""
    reading: str | None = None
    """What of the request the score is of, the strongest of its readings: a `clip` or
    a `text` alone, the newest `turn`, a `window` of the last ones, or the
    `conversation` as it stands; None where nothing was scored."""
    left_out: int = 0
    """Turns of the history that the model was not given because they were not
    answered: the user's, and the fallback that followed."""
    trimmed: int = 0
    """Turns of the history that the model was not given because the policy's limits,
    or the model's, hold no more; the oldest."""
    cut_short: bool = False
    """Whether a stop string or the limit of tokens ended the answer where it may as
    well have become a refusal: the outcome `answered` says nothing then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One guarded answer.

    `text` is what the model said, as far as it got, or the fallback where it said
    nothing that may be passed on.
    """

    text: str
    outcome: Outcome
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    guard: GuardReport
    audit_id: str | None = None
    """Name of the request's record, where records are kept."""
    ssml: str | None = None
    """The text in SSML, where it is a fallback and the policy asks for it."""
    audio_notes: tuple[str, ...] = ()
    """What was done to the request's clips to hear them that a caller may not expect,
    such as that one channel alone was heard."""

    def as_turn(self) -> Turn:
        """Return the reply as a turn for the next request's history."""
        return Turn(role="assistant", text=self.text, outcome=self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as plain values, ready for JSON."""
        from dataclasses import asdict

        return {**asdict(self), "outcome": self.outcome.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a client is doing."""

    model: Literal["ready", "closed"]
    queue_depth: int
    """Requests that wait or are about to."""
    queue_limit: int
    running: int
    """Requests that the model is answering now."""
    ledger: Literal["none", "recording", "spooling", "degraded", "closed"]
    """`spooling`: records wait in a file until the ledger takes them; `degraded`:
    requests went unrecorded, as the policy lets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """The next piece of an answer; the pieces, joined, are the reply's text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Notice that what the caller gets is no answer, and why.

    After `refused` the text was streamed already: it is the model that declined.
    After any other outcome the text takes the place of what was streamed.
    """

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """End of a stream, always there: the reply that `generate` would have returned."""

    reply: Reply


Event: TypeAlias = TextDelta | Refusal | Done
