"""What was asked: the options of a request, and the values that carry them.

A request is built once, checked once, and never changes. `GenerationOptions` is the
one definition of what a caller may say beside audio and text; every way in (generate,
stream, batch, LangChain, the command line) takes exactly that.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from sarguard.decoding import Sampling
from sarguard.decoding.detokenizer import parse_stop
from sarguard.errors import InvalidRequestError, SarguardError
from sarguard.option_values import as_count, as_name, as_number, as_text, shown
from sarguard.policy.tiers import Tier
from sarguard.types import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sarguard.audio import AudioSource

_ENTRY = re.compile(r"^[a-z][a-z0-9_.-]{0,63}$")
_TRACEPARENT = re.compile(
    # Later versions may say more behind a dash, version 00 may not.
    r"^(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:\Z|-)"
)
_NAMES = ("tenant", "session", "caller", "locale", "request_id")
# What other SDKs call our options: the error then names the right one.
_OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "system_prompt": "system",
    "messages": "history",
    "response_format": "json_schema",
    "schema": "json_schema",
    "user": "caller",
    "session_id": "session",
    "strength": "alpha",
    "trace_id": "traceparent",
    "do_sample": "temperature",
}


class GenerationOptions(TypedDict, total=False):
    """Options of one request, as every way of asking takes them."""

    system: str | None
    """System prompt; goes before the history."""
    history: Sequence[Turn]
    """Earlier turns, oldest first; see `SafeAudioLLM.turn` and `Reply.as_turn`."""
    max_new_tokens: int
    """Most tokens of the answer; 128 by default."""
    temperature: float
    """0, the default, for greedy decoding. A policy may lower it, and an answer's first
    tokens are greedy where the request may be harmful."""
    top_p: float
    """Share of probability to sample from; 1 by default."""
    top_k: int
    """Sample from the likeliest so many tokens; 0, the default, from all."""
    repetition_penalty: float
    """Above 1, tokens that were there become less likely; 1 by default."""
    stop: str | Sequence[str] | None
    """Strings that end the answer; they are not part of it."""
    json_schema: Mapping[str, Any] | None
    """What the answer follows, unless the model declines: then it is a refusal in
    words, and the outcome `refused`. Ask for it in the text as well. Needs
    llguidance."""
    seed: int | None
    """Makes sampling repeatable, alone or in a batch."""
    timeout: float | None
    """Seconds from the call to the reply, the queue included."""
    alpha: float | None
    """Least steering coefficient of this answer, above 0, on top of what its tier or
    the client's own dose decides. Less than the client or its policy holds is a
    `PolicyFloorError`."""
    tier: str | None
    """Operating point of this answer: `permissive`, `balanced`, `strict` or `maximum`.
    The default is the client's, and one below that is a `PolicyFloorError`."""
    locale: str | None
    """Language of the message that may take an answer's place."""
    tenant: str | None
    """Whose request it is, for the record."""
    session: str | None
    """The caller's session; the record holds a keyed pseudonym of it. What was refused
    or blocked in it stays so; see `SafeAudioLLM.end_session`."""
    caller: str | None
    """The person or agent who asks; the record holds a keyed pseudonym."""
    request_id: str | None
    """Your own name for the request, for the record."""
    traceparent: str | None
    """W3C trace context of the request, `00-<trace id>-<span id>-<flags>`; its ids
    stand in the record and reach observers."""
    entry: str | None
    """The way in that the record names; the default is the method's name."""


class GenerationInput(GenerationOptions, total=False):
    """One request of `SafeAudioLLM.generate_batch`: input and options."""

    audio: AudioSource | list[AudioSource] | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """Ids of a distributed trace, from W3C Trace Context."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits: the span that the request was made in."""
    sampled: bool = False

    @classmethod
    def parse(cls, traceparent: str) -> TraceContext:
        """Return the ids of a `traceparent` header.

        Raises:
            InvalidRequestError: It is not one, or its ids are all zero.
        """
        found = (
            _TRACEPARENT.match(traceparent) if isinstance(traceparent, str) else None
        )
        if found is None or not found[1].strip("0") or not found[2].strip("0"):
            raise InvalidRequestError(
                f"traceparent is {traceparent!r}: give a W3C trace context, such as "
                "00-<32 hex digits>-<16 hex digits>-01, or None"
            )
        return cls(
            trace_id=found[1], span_id=found[2], sampled=bool(int(found[3], 16) & 1)
        )


SessionName: TypeAlias = tuple[str | None, str]
"""A tenant, or None, and the name of one of its sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """Who asked, from where, and in which trace."""

    entry: str = "generate"
    """The way it came in, in a word of lower-case letters."""
    tenant: str | None = None
    session: str | None = None
    caller: str | None = None
    locale: str | None = None
    """Language of a message that stands in place of an answer."""
    request_id: str | None = None
    """The caller's own name for the request."""
    trace: TraceContext | None = None

    @property
    def session_name(self) -> SessionName | None:
        """Return what the session is known by; None without one."""
        return None if self.session is None else (self.tenant, self.session)

    def __post_init__(self) -> None:
        if not (isinstance(self.entry, str) and _ENTRY.match(self.entry)):
            raise InvalidRequestError(
                f"entry is {shown(self.entry)}: use lower-case letters, digits, dots "
                "and dashes, such as voice-line"
            )
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_name(name, value))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationRequest:
    """One request as its caller made it; its clips are not decoded yet."""

    audio: tuple[AudioSource, ...] = ()
    text: str = ""
    history: tuple[Turn, ...] = ()
    """Turns before this one, the system prompt first."""
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    timeout: float | None = None
    alpha: float | None = None
    tier: str | None = None
    context: RequestContext = field(default_factory=RequestContext)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidRequestError(
                f"max_new_tokens is {self.max_new_tokens}: need 1 or more"
            )
        timeout = self.timeout
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise InvalidRequestError(
                f"timeout is {timeout}: it has to be a positive number of seconds, "
                "or None"
            )

    @classmethod
    def build(
        cls,
        audio: AudioSource | list[AudioSource] | None = None,
        text: str = "",
        **options: Unpack[GenerationOptions],
    ) -> GenerationRequest:
        """Return a request made of flat options.

        Raises:
            InvalidRequestError: An option is unknown, or makes no sense.
        """
        check_names(options, GenerationOptions)
        # None is what an option is without being given.
        given: dict[str, Any] = {
            name: _VALUES[name](name, value) if name in _VALUES else value
            for name, value in options.items()
            if value is not None
        }
        system, history = given.pop("system", None), given.pop("history", ())
        before = [] if system is None else [Turn(role="system", text=system)]
        traceparent = given.pop("traceparent", None)
        context = RequestContext(
            entry=given.pop("entry", "generate"),
            trace=None if traceparent is None else TraceContext.parse(traceparent),
            **_take(given, *_NAMES),
        )
        sampling = Sampling(
            **_take(
                given, "temperature", "top_p", "top_k", "repetition_penalty", "seed"
            )
        )
        sources = audio if isinstance(audio, list) else [audio]
        return cls(
            audio=tuple(source for source in sources if source is not None),
            text="" if text is None else as_text("text", text),
            history=(*before, *history),
            sampling=sampling,
            stop=parse_stop(given.pop("stop", None)),
            context=context,
            **given,
        )


def _turns(name: str, value: object) -> tuple[Turn, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidRequestError(
            f"{name} is {shown(value)}: give a list of turns, see SafeAudioLLM.turn"
        )
    found = tuple(value)
    for turn in found:
        if not isinstance(turn, Turn):
            raise InvalidRequestError(
                f"{name} holds what is {shown(turn)}: make turns with "
                "SafeAudioLLM.turn and Reply.as_turn"
            )
    return found


def _tier(name: str, value: object) -> str:
    return value.value if isinstance(value, Tier) else as_text(name, value)


def _schema(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(
            f"{name} is {shown(value)}: give a JSON Schema as a mapping, or None"
        )
    # Callers may change theirs while the request waits.
    return copy.deepcopy(value)


# Limits are those of what the values go into; here they get their types.
_VALUES: dict[str, Callable[[str, object], Any]] = {
    "system": as_text,
    "history": _turns,
    "max_new_tokens": as_count,
    "temperature": as_number,
    "top_p": as_number,
    "top_k": as_count,
    "repetition_penalty": as_number,
    "json_schema": _schema,
    "seed": as_count,
    "timeout": as_number,
    "alpha": as_number,
    "tier": _tier,
}


def check_names(
    given: Mapping[str, object],
    options: type,
    error: type[SarguardError] = InvalidRequestError,
) -> None:
    """Raise for names that are no options; the error says which one was meant.

    Args:
        given: What the caller gave.
        options: The TypedDict that defines the options.
        error: What to raise.
    """
    known: frozenset[str] = options.__optional_keys__  # type: ignore[attr-defined]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = _OTHER_NAMES.get(name) or (close[0] if close else None)
            choices = f"choose from {', '.join(sorted(known))}"
            hint = f"did you mean {meant}?" if meant in known else choices
            raise error(f"there is no option {name!r}: {hint}")


def _take(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given.pop(name) for name in names if name in given}
