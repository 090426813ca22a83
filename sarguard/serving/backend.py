"""The seam between the client and what runs the model.

A backend takes a batch of resolved requests, each with its dose as plain data, and
yields tokens, the gate's score and a receipt. The engine of this process is one; an
engine of several processes is another. Client, guard and ledger need nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from sarguard.decoding import Sampling
from sarguard.models.untyped import Tokenizer
from sarguard.serving.request import SessionName
from sarguard.steering.dose import Decision, DoseSpec
from sarguard.types import Turn, Usage

Ending: TypeAlias = Literal["stop", "length", "blocked", "unhealthy"]
"""Why a backend ended an answer: a stop token, its limit, the request's score, or a
steered state that was not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What a backend runs, for reports and records."""

    model_name: str
    revision: str | None
    dtype: str
    device: str
    sampling_rate: int
    """Samples a second of the clips that it takes."""
    max_audio_seconds: float
    """Longest clip that reaches the model whole."""
    layers: int
    """Decoder layers that are steered."""
    vectors_digest: str
    """Digest of the vectors that every receipt has to name."""
    context_tokens: int | None = None
    """Tokens that the model reads at most, prompt and answer together; None where it
    does not say."""
    single_audio: bool = False
    """Whether it takes one clip a conversation at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BackendRequest:
    """What a backend is asked: everything is plain data or numpy arrays."""

    turns: tuple[Turn, ...]
    dose: DoseSpec
    max_new_tokens: int
    sampling: Sampling
    json_schema: Mapping[str, Any] | None = None
    tenant: str | None = None
    session: str | None = None
    """Whose request it is; None keeps nothing for a next one."""
    reuse: bool = True
    """Whether what is computed for a session may be kept for its next requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringReceipt:
    """Proof of one answer's steering so far."""

    steered_positions: int
    """Positions steered on every layer: one for each output token."""
    layers: int
    vectors_digest: str
    """Digest of the vectors that were added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStep:
    """What one decode step added to one answer."""

    token_ids: tuple[int, ...] = ()
    """New answer tokens, without the token that ended the answer."""
    output_tokens: int = 0
    """Tokens chosen so far, the one that ended the answer among them."""
    decision: Decision | None = None
    """What the dose decided; None before that."""
    receipt: SteeringReceipt | None = None
    divergence: float | None = None
    """See `GuardReport.divergence`."""
    ending: Ending | None = None
    """Set with the last step."""
    fault: str | None = None
    """Why the schema could not be followed to its end; None where it was."""


class TokenSink(Protocol):
    """Takes one request's tokens; everything is called from the backend's thread."""

    @property
    def ended(self) -> bool:
        """Return whether the request wants no more tokens."""

    @property
    def spoke(self) -> bool:
        """Return whether a part of the answer left, so that it cannot begin again."""

    def begin(self, usage: Usage) -> None:
        """Note that the prompt is about to be read; what came before is void."""

    def step(self, step: BackendStep) -> None:
        """Take what a step added; raises nothing."""

    def fail(self, error: Exception) -> None:
        """End without an answer, because something went wrong."""

    def refuse(self, error: Exception) -> None:
        """End with an error that is the caller's, and is raised there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationJob:
    """A request, and where its tokens go."""

    request: BackendRequest
    sink: TokenSink


class Backend(Protocol):
    """Answers batches of requests with one steered model."""

    @property
    def info(self) -> BackendInfo:
        """Return what it runs."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Return what decodes its tokens."""

    def open(self) -> None:
        """Attach steering and prove that it changes what the model says.

        Raises:
            ArtifactMismatchError: The bundle was made for another model.
            SteeringError: Steering did not change what the model says.
        """

    def count_tokens(self, turns: Sequence[Turn]) -> list[int]:
        """Return how many prompt tokens each turn takes, rather too many than too few.

        The newest turn's number includes what every prompt has, such as what opens the
        answer. It is called from callers' threads, several at a time, and computes no
        features.
        """

    def prepare(self, request: BackendRequest) -> None:
        """Check a request before it waits, on its caller's thread.

        Raises:
            InvalidRequestError: It cannot be answered as it stands.
        """

    def batch_key(self, request: BackendRequest) -> Hashable:
        """Return what requests have to share to be answered in one batch."""

    def generate(self, jobs: Sequence[GenerationJob]) -> None:
        """Answer every request, or end it otherwise, before returning.

        It is called from one thread at a time.
        """

    def sessions(self) -> Iterable[SessionName]:
        """Return the sessions of whose requests something is kept, for any thread."""

    def forget(self, tenant: str | None, session: str) -> None:
        """Drop what was kept of a session's requests, on the thread of whoever ends it.

        A backend that keeps nothing beyond a request does nothing.
        """

    def close(self) -> None:
        """Take steering off the model; nothing is answered afterwards."""
