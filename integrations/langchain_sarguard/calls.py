"""One call of the chat model, on its way to the guarded client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.messages_in import Request, Said
from sarguard import SafeAudioLLM, SarguardError, Turn

if TYPE_CHECKING:
    # What the client's own methods return; no name of it is needed at run time.
    Events = Iterator[Any]
    AsyncEvents = AsyncIterator[Any]

PER_CALL = ("max_tokens", "seed", "temperature", "timeout", "top_p")
SHAPE = "json_schema"
# What a request may say of itself. The client holds a tier against its policy's floor.
PARTICULARS = ("locale", "request_id", "session", "tenant", "tier")

_IN_JSON = "Answer with one JSON object that follows this schema: {schema}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Hold a request that is still to be read, and what to decode it with."""

    client: SafeAudioLLM
    read: Callable[[], Request]
    options: Mapping[str, Any]

    @contextmanager
    def events(self) -> Iterator[Events]:
        """Ask, and cancel what is left when the block is left.

        Raises:
            InvalidInputError: The messages make no request; it says which.
            AudioError: A clip cannot be used; the message says which.
            SarguardError: As `SafeAudioLLM.stream` does.
        """
        request = self.read()
        try:
            with self.client.stream(**self._asked(request)) as events:
                yield events
        except SarguardError as error:
            self._blame_clip(request, error)
            raise

    @asynccontextmanager
    async def aevents(self) -> AsyncIterator[AsyncEvents]:
        """Ask without blocking the event loop; see `events`."""
        request = await asyncio.to_thread(self.read)
        try:
            # The clips of earlier turns are decoded here.
            asked = await asyncio.to_thread(self._asked, request)
            async with self.client.astream(**asked) as events:
                yield events
        except SarguardError as error:
            await asyncio.to_thread(self._blame_clip, request, error)
            raise

    def _asked(self, request: Request) -> dict[str, Any]:
        question = request.question
        return {
            "audio": [clip.data for clip in question.clips] or None,
            "text": self._text(question),
            "system": request.system,
            "history": [self._turn(said) for said in request.history],
            **self.options,
        }

    def _text(self, question: Said) -> str:
        """Return the question; a model that is not told of a schema fights it."""
        text, schema = question.text, self.options[SHAPE]
        if schema is None:
            return text
        asked = _IN_JSON.format(schema=json.dumps(schema))
        return f"{text}\n\n{asked}" if text else asked

    def _turn(self, said: Said) -> Turn:
        if not said.clips:
            return Turn(role=said.role, text=said.text)
        clips: list[Any] = [clip.data for clip in said.clips]
        return self.client.turn(said.role, text=said.text, audio=clips)

    def _blame_clip(self, request: Request, error: SarguardError) -> None:
        """Raise the fault of the first clip that cannot be used, if one cannot."""
        for clip in request.clips():
            try:
                self.client.turn("user", audio=clip.data)
            except SarguardError as fault:
                raise type(fault)(f"{clip.where}: {fault}") from error


def read_options(
    settings: object, overrides: Mapping[str, Any], stop: list[str] | None
) -> dict[str, Any]:
    """Return what to decode with; nothing here can weaken the guard.

    Args:
        settings: The chat model, for what the call leaves open.
        overrides: What was given with the call.
        stop: Stop sequences of the call.

    Raises:
        InvalidInputError: Something cannot be given with a call.
    """
    unknown = sorted(set(overrides) - {*PER_CALL, *PARTICULARS, SHAPE})
    if unknown:
        raise InvalidInputError(
            f"cannot take {', '.join(unknown)} with a call: this model takes "
            f"{', '.join((*PER_CALL, *PARTICULARS))}, {SHAPE} and stop, and has no "
            "tools. The "
            "model, its policy and the dose are set where the client is loaded."
        )
    if stop is not None and not all(stop):
        raise InvalidInputError(
            "an empty stop sequence would end every answer at once: leave it out."
        )
    options = {n: overrides.get(n, getattr(settings, n)) for n in PER_CALL}
    options["max_new_tokens"] = options.pop("max_tokens")
    options["stop"] = stop
    options[SHAPE] = overrides.get(SHAPE)
    said = {n: overrides[n] for n in PARTICULARS if overrides.get(n) is not None}
    return {**options, **said, "entry": "langchain"}
