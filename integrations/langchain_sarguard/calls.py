"""One call of the chat model: a request to the guarded client, and its options."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.messages_in import ParsedConversation, ParsedTurn
from sarguard import SafeAudioLLM, SarguardError, Turn

if TYPE_CHECKING:
    # What the streams of the client yield.
    Events = Iterator[Any]
    AsyncEvents = AsyncIterator[Any]

CALL_OPTIONS = ("max_tokens", "seed", "temperature", "timeout", "top_p")
# What a request says of itself. The client checks a tier against its policy's floor.
CONTEXT_OPTIONS = (
    "caller",
    "locale",
    "request_id",
    "session",
    "tenant",
    "tier",
    "traceparent",
)
NAMES = ("tenant", "session", "caller", "request_id")
"""What of it names somebody, for the record of a request that makes no sense."""
JSON_SCHEMA = "json_schema"
ENTRY = "langchain"

_JSON_INSTRUCTION = "Answer with one JSON object that follows this schema: {schema}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """What messages and options make."""

    conversation: ParsedConversation
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCall:
    """One request to the client, which is not parsed yet.

    Parsing decodes base64 and may take long, so `aevents` does it in a thread.
    """

    client: SafeAudioLLM
    prepare: Callable[[], ParsedRequest]
    """Raises what is recorded already."""

    @contextmanager
    def events(self) -> Iterator[Events]:
        """Send the request; leaving the block cancels what is left of the answer.

        Raises:
            InvalidInputError: The messages make no request; it says which.
            AudioError: A clip cannot be used; the message says which.
            SarguardError: As `SafeAudioLLM.stream` does.
        """
        request = self.prepare()
        try:
            with self.client.stream(**self._arguments(request)) as events:
                yield events
        except SarguardError as error:
            self._raise_for_clip(request.conversation, error)
            raise

    @asynccontextmanager
    async def aevents(self) -> AsyncIterator[AsyncEvents]:
        """Send the request without blocking the event loop; see `events`."""
        request = await asyncio.to_thread(self.prepare)
        try:
            # In a thread, as this decodes the clips of earlier turns.
            arguments = await asyncio.to_thread(self._arguments, request)
            async with self.client.astream(**arguments) as events:
                yield events
        except SarguardError as error:
            await asyncio.to_thread(self._raise_for_clip, request.conversation, error)
            raise

    def _arguments(self, request: ParsedRequest) -> dict[str, Any]:
        conversation, options = request.conversation, request.options
        question = conversation.question
        return {
            "audio": [clip.data for clip in question.clips] or None,
            "text": self._text(question, options[JSON_SCHEMA]),
            "system": conversation.system,
            "history": [self._turn(turn) for turn in conversation.history],
            **options,
        }

    @staticmethod
    def _text(question: ParsedTurn, schema: Mapping[str, Any] | None) -> str:
        """Return the question, with an instruction where there is a schema.

        A grammar alone is not enough: a model that is not told of it fights it.
        """
        if schema is None:
            return question.text
        instruction = _JSON_INSTRUCTION.format(schema=json.dumps(schema))
        return f"{question.text}\n\n{instruction}" if question.text else instruction

    def _turn(self, turn: ParsedTurn) -> Turn:
        if not turn.clips:
            return Turn(role=turn.role, text=turn.text, outcome=turn.outcome)
        clips: list[Any] = [clip.data for clip in turn.clips]
        return self.client.turn(turn.role, text=turn.text, audio=clips)

    def _raise_for_clip(
        self, conversation: ParsedConversation, error: SarguardError
    ) -> None:
        """Raise the error of the first clip that cannot be used, if there is one.

        The client does not know which message a clip comes from. Clips are tried one
        by one only after a failure, so a good request is decoded once.
        """
        for clip in conversation.clips():
            try:
                self.client.turn("user", audio=clip.data)
            except SarguardError as fault:
                raise type(fault)(f"{clip.where}: {fault}") from error


def read_options(
    settings: object, overrides: Mapping[str, Any], stop: list[str] | None
) -> dict[str, Any]:
    """Return the client's options for a call; none of them can weaken the guard.

    Args:
        settings: The chat model, for what the call leaves open.
        overrides: What was given with the call.
        stop: Stop sequences of the call.

    Raises:
        InvalidInputError: Something cannot be given with a call.
    """
    # A list of what is allowed, not of what is not: `bind` and agents pass anything on,
    # and the client's next option must not be within their reach by accident.
    unknown = sorted(set(overrides) - {*CALL_OPTIONS, *CONTEXT_OPTIONS, JSON_SCHEMA})
    if unknown:
        raise InvalidInputError(
            f"cannot take {', '.join(unknown)} with a call: this model takes "
            f"{', '.join((*CALL_OPTIONS, *CONTEXT_OPTIONS))}, {JSON_SCHEMA} and stop, "
            "and has no tools. The model, its policy and alpha are set where the "
            "client is loaded."
        )
    if stop is not None and not all(stop):
        raise InvalidInputError(
            "an empty stop sequence would end every answer at once: leave it out."
        )
    options = {n: overrides.get(n, getattr(settings, n)) for n in CALL_OPTIONS}
    options["max_new_tokens"] = options.pop("max_tokens")
    options["stop"] = stop
    options[JSON_SCHEMA] = overrides.get(JSON_SCHEMA)
    # Left out where it is None, so that the client's own default holds.
    context = {n: v for n in CONTEXT_OPTIONS if (v := overrides.get(n)) is not None}
    return {**options, **context, "entry": ENTRY}
