"""One request as it goes in, and what those who look at requests may do to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from sarguard.decoding import JsonGrammar, Sampling
from sarguard.errors import ConfigurationError
from sarguard.steering.dose import Dose
from sarguard.types import Reply, Turn

if TYPE_CHECKING:
    from sarguard.audio import AudioLimits, AudioSource

_ENTRY = re.compile(r"^[a-z][a-z0-9_.-]{0,63}$")
_LONGEST_NAME = 256


class Settings(TypedDict, total=False):
    """Name what `SafeAudioLLM.generate` takes besides audio and text."""

    system: str | None
    history: Sequence[Turn]
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    stop: str | Sequence[str] | None
    json_schema: Mapping[str, Any] | None
    seed: int | None
    timeout: float | None
    alpha: float | None
    tier: str | None
    locale: str | None
    tenant: str | None
    session: str | None
    request_id: str | None
    entry: str | None


class Question(Settings, total=False):
    """Name what `SafeAudioLLM.generate` takes, as one item of `generate_batch`."""

    audio: AudioSource | list[AudioSource] | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Particulars:
    """Hold what a request says of itself, and how it wants to be guarded."""

    entry: str = "generate"
    """The way it came in, in a word of lower-case letters."""
    alpha: float | None = None
    tier: str | None = None
    locale: str | None = None
    """Language of a message that stands in place of an answer."""
    tenant: str | None = None
    session: str | None = None
    request_id: str | None = None
    """The caller's own name for the request."""

    def __post_init__(self) -> None:
        if not _ENTRY.match(self.entry):
            raise ConfigurationError(
                f"entry is {self.entry!r}: use lower-case letters, digits, dots and "
                "dashes, such as voice-line"
            )
        for name in ("locale", "tenant", "session", "request_id"):
            value = getattr(self, name)
            if value is not None and not 0 < len(value) <= _LONGEST_NAME:
                raise ConfigurationError(
                    f"{name} has {len(value)} characters: give 1 to {_LONGEST_NAME}, "
                    "or None"
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Hold one request."""

    turns: tuple[Turn, ...] = ()
    """The whole conversation; empty until its clips are decoded."""
    dose: Dose
    fallback: str
    """What to say where there is no answer."""
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    grammar: JsonGrammar | None = None
    """What the answer has to follow; None where it may say anything."""
    timeout: float | None = None
    """Seconds from the call to the reply, the queue included; None waits."""
    first_token_timeout: float | None = None
    """Seconds from the call to the first token."""
    queue_timeout: float | None = None
    """Seconds from the call until its turn has come."""
    limits: AudioLimits | None = None
    """Limits of one clip; None for the model's own."""
    about: Particulars = field(default_factory=Particulars)
    case: object = None
    """What the attendant keeps of the request from one call to the next."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigurationError(
                f"max_new_tokens is {self.max_new_tokens}: need 1 or more"
            )
        timeout = self.timeout
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ConfigurationError(
                f"timeout is {timeout}: it has to be a positive number of seconds, "
                "or None"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Say that a request gets no answer."""

    reason: str
    """For the record; the caller hears `message`."""
    message: str | None = None
    """What to say to the caller; None for the request's fallback."""


class Attendant(Protocol):
    """Stand by every request: decide whether and how it is answered, and record it.

    Calls come from the callers' threads and the worker's, several at a time. If one
    raises, there is no answer: the reply is the fallback, its outcome `error_closed`.
    """

    def receive(self, asked: Asked) -> Asked:
        """Settle what holds for a request, before its clips are read.

        Raises:
            ConfigurationError: The request asks for what it cannot have; its caller
                hears it.
        """

    def admit(self, asked: Asked) -> Asked | Blocked:
        """Let a request pass, changed or not, or block it."""

    def begin(self, asked: Asked) -> str | None:
        """Note that a request is going to be answered, before its first token.

        Returns:
            The name of the record, for `Reply.audit_id`; None if there is none.
        """

    def end(
        self, asked: Asked, reply: Reply, error: Exception | None = None
    ) -> Reply | None:
        """Note how a request ended, before its reply is handed out.

        It is called once for each request that was received, whether or not it was
        admitted and begun.

        Returns:
            The reply to hand out in place of this one; None for this one.
        """


class NoAttendant:
    """Let every request pass and note nothing."""

    def receive(self, asked: Asked) -> Asked:
        """Change nothing."""
        return asked

    def admit(self, asked: Asked) -> Asked | Blocked:
        """Let the request pass."""
        return asked

    def begin(self, asked: Asked) -> str | None:
        """Note nothing."""
        return None

    def end(
        self, asked: Asked, reply: Reply, error: Exception | None = None
    ) -> Reply | None:
        """Note nothing."""
        return None
